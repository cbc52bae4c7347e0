// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo"
)

// The sizes of the campaigns; zero means the short form.
var (
	seedFlag = flag.Uint64("seed", 0, "first seed; 0 draws one")
	long     = flag.Bool("long", false, "run the exhaustive forms of what is not counted by another flag")
)

// key has the smallest parameters there are: its derivation is not on trial.
func key() repo.Key { return repo.Passphrase("correct horse").WithKDF(1, 8, 1) }

// firstSeed returns where a campaign begins, and prints it.
func firstSeed(tb testing.TB) uint64 {
	tb.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 16 // easy to type
	}
	tb.Logf("seed %d", seed)
	return seed
}

// recipe says what a recovery point contains: streams by the number of their
// block, and a directory by its version. It is a label of the point, so that
// whoever finds a point knows what it must contain.
type recipe struct {
	streams []int
	dir     int // none if negative
}

const (
	recipeLabel = "recipe"
	blockCount  = 8
	dirVersions = 4
)

func (r recipe) String() string {
	var s []string
	for _, b := range r.streams {
		s = append(s, strconv.Itoa(b))
	}
	return fmt.Sprintf("%d:%s", r.dir, strings.Join(s, ","))
}

func parseRecipe(s string) (recipe, error) {
	var r recipe
	dir, streams, ok := strings.Cut(s, ":")
	n, err := strconv.Atoi(dir)
	if !ok || err != nil {
		return r, fmt.Errorf("recipe %q", s)
	}
	r.dir = n
	for f := range strings.FieldsFuncSeq(streams, func(c rune) bool { return c == ',' }) {
		b, err := strconv.Atoi(f)
		if err != nil {
			return r, err
		}
		r.streams = append(r.streams, b)
	}
	return r, nil
}

// randomRecipe draws a recipe of at most 12 chunks of data.
func randomRecipe(rng *rand.Rand) recipe {
	r := recipe{dir: max(-1, rng.IntN(2*dirVersions)-dirVersions)}
	for range rng.IntN(4) {
		r.streams = append(r.streams, rng.IntN(blockCount))
	}
	if r.dir < 0 && len(r.streams) == 0 {
		r.dir = 0
	}
	return r
}

// pantry holds what recipes are made of.
type pantry struct {
	base   string
	blocks [blockCount][]byte
	trees  [dirVersions]map[string]string
}

// newPantry prepares the ingredients below base, or takes what another process
// has prepared there.
func newPantry(base string) (*pantry, error) {
	p := &pantry{base: base}
	for i := range p.blocks {
		p.blocks[i] = noise(uint64(i), 300+i*450)
	}
	copy(p.blocks[blockCount-1], bytes.Repeat([]byte("a line of text\n"), 200)) // one that compresses
	for v := range p.trees {
		if err := p.prepare(v); err != nil {
			return nil, err
		}
		var err error
		if p.trees[v], err = onDisk(p.dir(v)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *pantry) dir(version int) string { return filepath.Join(p.base, fmt.Sprint("v", version)) }

// prepare makes a version of the tree: most of it is the same in all versions.
func (p *pantry) prepare(v int) error {
	files := map[string][]byte{
		"same/a": noise(100, 700), "same/b": noise(101, 40), "same/deep/c": noise(102, 900),
		"changing": noise(uint64(200+v), 500+v), "d/changing": noise(uint64(210+v), 30), fmt.Sprint("only/", v): noise(uint64(220+v), 100),
	}
	epoch := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(p.dir(v), name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, files[name], 0o600), os.Chtimes(path, epoch, epoch)); err != nil {
			return err
		}
	}
	return nil
}

// cook writes the volumes of the recipe.
func (p *pantry) cook(ctx context.Context, w *repo.Writer, r recipe) error {
	for i, b := range r.streams {
		if err := w.PutStream(ctx, fmt.Sprint("s", i), bytes.NewReader(p.blocks[b])); err != nil {
			return err
		}
	}
	if r.dir < 0 {
		return nil
	}
	return w.Put(ctx, "d", p.dir(r.dir))
}

// write writes a recovery point made by the recipe.
func (p *pantry) write(ctx context.Context, r *repo.Repository, id, name string, rec recipe) (*repo.Point, error) {
	return r.Write(ctx, repo.WriteOptions{ID: id, Name: name, Labels: map[string]string{recipeLabel: rec.String()}},
		func(ctx context.Context, w *repo.Writer) error { return p.cook(ctx, w, rec) })
}

// want returns the contents of a point of the recipe.
func (p *pantry) want(r recipe) map[string]string {
	all := map[string]string{}
	for i, b := range r.streams {
		all[fmt.Sprintf("s%d/.", i)] = describe(p.blocks[b])
	}
	if r.dir >= 0 {
		for name, desc := range p.trees[r.dir] {
			all["d/"+name] = desc
		}
	}
	return all
}

// errWrong reports contents that are not what was written.
var errWrong = errors.New("wrong contents")

// check restores the point and compares it with its recipe.
func (p *pantry) check(ctx context.Context, r *repo.Repository, pt *repo.Point) error {
	rec, err := parseRecipe(pt.Labels[recipeLabel])
	if err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	got, err := contents(ctx, r, pt)
	want := p.want(rec)
	for name, desc := range got {
		if want[name] != desc {
			return fmt.Errorf("%w: %s of %s is %s, not %s", errWrong, name, pt.ID, desc, want[name])
		}
	}
	if err == nil && len(got) != len(want) {
		err = fmt.Errorf("%w: %d of %d entries of %s, and no error", errWrong, len(got), len(want), pt.ID)
	}
	return err
}

// contents reads everything of a point, as far as it gets.
func contents(ctx context.Context, r *repo.Repository, pt *repo.Point) (map[string]string, error) {
	all := map[string]string{}
	for _, v := range pt.Volumes {
		t, err := r.Tree(ctx, pt, v.Name)
		if err != nil {
			return all, err
		}
		for e, err := range t.Entries(ctx, ".") {
			if err != nil {
				return all, err
			}
			desc := e.Type.String()
			if e.Type == repo.File {
				var b bytes.Buffer
				if _, err := t.WriteTo(ctx, &b, e); err != nil {
					return all, err
				}
				desc = describe(b.Bytes())
			}
			all[v.Name+"/"+e.Path] = desc
		}
	}
	return all, nil
}

// onDisk describes a directory as contents does.
func onDisk(dir string) (map[string]string, error) {
	all := map[string]string{}
	return all, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		desc := repo.Dir.String()
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			desc = describe(data)
		}
		all[filepath.ToSlash(rel)] = desc
		return nil
	})
}

func describe(data []byte) string {
	h := sha256.Sum256(data)
	return fmt.Sprintf("%d bytes %x", len(data), h[:6])
}

func noise(seed uint64, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(data) // never fails
	return data
}

// sound reads all that there is in the repository and verifies it. It returns
// the points by their ids.
func (p *pantry) sound(ctx context.Context, r *repo.Repository) (map[string]*repo.Point, error) {
	points, err := r.Points(ctx)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	byID := map[string]*repo.Point{}
	for _, pt := range points {
		if byID[pt.ID] != nil {
			return nil, fmt.Errorf("point %s is listed twice", pt.ID)
		}
		byID[pt.ID] = pt
		if err := p.check(ctx, r, pt); err != nil {
			return nil, fmt.Errorf("visible point %s: %w", pt.ID, err)
		}
	}
	rep, err := r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	// What an Init that died has tried out belongs to nobody until a collection.
	rep.Unknown = slices.DeleteFunc(rep.Unknown, func(key string) bool { return strings.HasPrefix(key, "probe/") })
	if len(rep.Damage)+len(rep.Unknown) > 0 || rep.Points != len(points) {
		return nil, fmt.Errorf("verify finds %+v", *rep)
	}
	return byID, nil
}

// or returns the short or the long size of a campaign.
func or(flagged, short int) int { return cmp.Or(flagged, short) }

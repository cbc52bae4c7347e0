// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// The golden repositories are what releases wrote. They are never made again:
// -update adds those that are not there, and removing one breaks a promise.
var update = flag.Bool("update", false, "make the golden repositories that are missing")

const goldenDir = "testdata/golden"

// golden is a golden repository.
type golden struct {
	Passphrase string                       `json:"passphrase"`
	Points     map[string]map[string]string `json:"points"` // goldenEntry by path and point

	objects map[string][]byte
}

// goldens are how they were made.
var goldens = map[string]func(*testing.T, *repotest.Bucket) *repo.Repository{
	"v1-files": goldenFiles, "v1-blocks": goldenBlocks, "v1-keys": goldenKeys,
}

func loadGolden(t *testing.T, name string) *golden {
	t.Helper()
	g := &golden{objects: map[string][]byte{}}
	text, err := os.ReadFile(filepath.Join(goldenDir, name, "want.json"))
	if err == nil {
		err = json.Unmarshal(text, g)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(goldenDir, name, "objects")
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, p)
		if err == nil {
			g.objects[filepath.ToSlash(key)], err = os.ReadFile(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *golden) save(t *testing.T, name string) {
	t.Helper()
	dir := filepath.Join(goldenDir, name)
	text, err := json.MarshalIndent(g, "", "\t")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "want.json"), append(text, '\n'), 0o644)
	}
	size := 0
	for key, data := range g.objects {
		p := filepath.Join(dir, "objects", filepath.FromSlash(key))
		err = errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o644))
		size += len(data)
	}
	if err != nil || size > 200<<10 {
		t.Fatalf("%s: %d bytes, %v", name, size, err)
	}
	t.Logf("%s: %d objects, %d bytes", name, len(g.objects), size)
}

// describePoints reads all points with the engine.
func describePoints(t *testing.T, r *repo.Repository) map[string]map[string]string {
	t.Helper()
	points, err := r.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]string{}
	for _, p := range points {
		out[p.ID] = map[string]string{}
		for _, v := range p.Volumes {
			tree, err := r.Tree(t.Context(), p, v.Name)
			if err != nil {
				t.Fatal(err)
			}
			for e, err := range tree.Entries(t.Context(), ".") {
				if err != nil {
					t.Fatal(err)
				}
				out[p.ID][path.Join(v.Name, e.Path)] = describeEntry(t, tree, e)
			}
		}
	}
	return out
}

func describeEntry(t *testing.T, tree *repo.Tree, e *repo.Entry) string {
	t.Helper()
	mode := uint64(e.Mode.Perm())
	for bit, m := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&m != 0 {
			mode |= bit
		}
	}
	var xattrs []string
	for _, x := range e.Xattrs {
		xattrs = append(xattrs, fmt.Sprintf("%s=%x", x.Name, x.Value))
	}
	var data bytes.Buffer
	if e.Type == repo.File {
		if _, err := tree.WriteTo(t.Context(), &data, e); err != nil {
			t.Fatal(err)
		}
	}
	kind := map[repo.EntryType]byte{repo.Dir: 1, repo.File: 2, repo.Symlink: 3, repo.Link: 4}[e.Type]
	mtime := fmt.Sprintf("%d.%09d", e.ModTime.Unix(), e.ModTime.Nanosecond())
	return goldenEntry(kind, mode, uint64(e.UID), uint64(e.GID), mtime, e.Target, xattrs, data.Bytes())
}

// TestGolden opens, verifies and reads the golden repositories, and then writes
// to them.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for name, build := range goldens {
		if !*update || slices.Contains(names, filepath.Join(goldenDir, name)) {
			continue
		}
		b := repotest.NewBucket(nil)
		r := build(t, b)
		(&golden{Passphrase: "golden", Points: describePoints(t, r), objects: b.Objects()}).save(t, name)
		names = append(names, filepath.Join(goldenDir, name))
	}
	if len(names) < len(goldens) {
		t.Errorf("golden repositories are missing; there are %q", names)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			g := loadGolden(t, filepath.Base(name))
			b := repotest.NewBucket(nil)
			for key, data := range g.objects {
				b.Set(key, data)
			}
			r := mustOpen(t, b.Bucket(), key(g.Passphrase))
			if diff := cmp.Diff(g.Points, describePoints(t, r)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			healthy(t, r, len(g.Points))
			if err := writes(t.Context(), r, "another"); err != nil {
				t.Error(err)
			}
			if err := r.RotateKeys(t.Context(), key(g.Passphrase)); err != nil {
				t.Error(err)
			}
			healthy(t, mustOpen(t, b.Bucket(), key(g.Passphrase)), len(g.Points)+1)
		})
	}
	if _, ok := goldens["v1-keys"]; ok {
		b := repotest.NewBucket(nil)
		for key, data := range loadGolden(t, "v1-keys").objects {
			b.Set(key, data)
		}
		mustOpen(t, b.Bucket(), keeper(t, 7, ""))
	}
}

// TestFormat has the reader that was written from FORMAT.md read the golden
// repositories, and what the engine writes today.
func TestFormat(t *testing.T) {
	worlds := map[string]*golden{}
	names, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		worlds[filepath.Base(name)] = loadGolden(t, filepath.Base(name))
	}
	for name, build := range goldens {
		b := repotest.NewBucket(nil)
		r := build(t, b)
		worlds[name+" of today"] = &golden{Passphrase: "golden", Points: describePoints(t, r), objects: b.Objects()}
	}
	for name, g := range worlds {
		t.Run(name, func(t *testing.T) {
			facts := map[bool]int{}
			for _, footers := range []bool{false, true} {
				r, err := openFormat(g.objects, g.Passphrase, footers)
				if err != nil {
					t.Fatal(err)
				}
				points, err := r.points()
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]map[string]string{}
				for id, p := range points {
					if got[id], err = r.read(p); err != nil {
						t.Errorf("%s: %v", id, err)
					}
				}
				if diff := cmp.Diff(g.Points, got); diff != "" {
					t.Errorf("footers %t: (-want +got):\n%s", footers, diff)
				}
				facts[footers] = len(r.chunks)
			}
			if facts[false] < facts[true] {
				t.Errorf("the index knows %d chunks, the footers %d", facts[false], facts[true])
			}
			if _, err := openFormat(g.objects, "wrong", false); err == nil {
				t.Error("another passphrase opens")
			}
		})
	}
}

// TestFormatIsStrict damages every object: the reader from FORMAT.md must
// notice, unless it does not read it.
func TestFormatIsStrict(t *testing.T) {
	g := loadGolden(t, "v1-keys")
	unread := []string{"session/", "forget/", "hold/", "condemn/", "resume/", "ledger/", "probe/"}
	for _, key := range slices.Sorted(maps.Keys(g.objects)) {
		data := g.objects[key]
		for i := 0; i < len(data); i += 1 + len(data)/20 {
			g.objects[key] = bytes.Clone(data)
			g.objects[key][i] ^= 1
			r, err := openFormat(g.objects, g.Passphrase, false)
			var points map[string]*formatPoint
			if err == nil {
				points, err = r.points()
			}
			for _, p := range points {
				_, rerr := r.read(p)
				err = errors.Join(err, rerr)
			}
			part := strings.SplitAfter(key, "/")[0]
			// Other slots, unused chunks and footers may be damaged.
			if err == nil && !slices.Contains(unread, part) && part != "key/" && part != "pack/" {
				t.Errorf("byte %d of %s does not matter", i, key)
			}
		}
		g.objects[key] = data
	}
}

func goldenInit(t *testing.T, b *repotest.Bucket) *repo.Repository {
	t.Helper()
	r, err := repo.Init(t.Context(), b.Bucket(), key("golden"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// goldenTree is a directory with what file systems have.
func goldenTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "empty", nil)
	put(t, dir, "random", random(1, 5000))
	put(t, dir, "d/e/deep", []byte("deep"))
	put(t, dir, "d.e", []byte("sorts before d/e by bytes, and after it in a walk"))
	put(t, dir, "text", bytes.Repeat([]byte("a line that compresses\n"), 20_000))
	for i := range 40 {
		put(t, dir, fmt.Sprintf("small/%02d", i), bytes.Repeat([]byte{byte(i)}, i*20))
	}
	holes := make([]byte, 3<<20)
	copy(holes[1<<20:], random(2, 1000))
	put(t, dir, "zeros", holes)
	if err := errors.Join(
		os.Symlink("../outside \xc3\xa9", filepath.Join(dir, "link")), os.Link(filepath.Join(dir, "random"), filepath.Join(dir, "the same")),
		os.Chmod(filepath.Join(dir, "empty"), 0o400), os.Chmod(filepath.Join(dir, "d"), 0o750|fs.ModeSticky),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func goldenFiles(t *testing.T, b *repotest.Bucket) *repo.Repository {
	t.Helper()
	r := goldenInit(t, b)
	dir, names := goldenTree(t), t.TempDir()
	for i := range 150 { // more than a node of the tree takes
		put(t, names, fmt.Sprintf("%x", random(uint64(100+i), 100)), nil)
	}
	for _, id := range []string{"first", "second \u00e9"} {
		put(t, dir, "changing", []byte(id))
		_, err := r.Write(t.Context(), repo.WriteOptions{
			ID: id, Name: "app", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Level: "FilesystemGroup", Labels: map[string]string{"k": "v"},
			Evidence: map[string]map[string][]byte{"db": {"label": []byte("START WAL LOCATION")}},
		}, func(ctx context.Context, w *repo.Writer) error {
			if id == "first" {
				if err := w.Put(ctx, "names", names); err != nil {
					return err
				}
			}
			return errors.Join(w.Put(ctx, "data", dir), w.PutStream(ctx, "dump", bytes.NewReader(bytes.Repeat([]byte(id), 1000))))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// goldenBlocks has extent maps and page hashes that are too long for an entry.
func goldenBlocks(t *testing.T, b *repotest.Bucket) *repo.Repository {
	t.Helper()
	r := goldenInit(t, b)
	image := make([]byte, 6<<20+5000)
	for i := range image {
		image[i] = byte(i >> 14 * 7)
	}
	for i, id := range []string{"full", "incremental"} {
		for p := 0; p < i*300; p += 2 {
			copy(image[p<<14:], fmt.Sprintf("change %d of %s", p, id))
		}
		_, err := r.Write(t.Context(), repo.WriteOptions{ID: id, Name: "vm"}, func(ctx context.Context, w *repo.Writer) error {
			return w.PutBlocks(ctx, "disk", bytes.NewReader(image), int64(len(image)), nil)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// goldenKeys has several epochs and kinds of slots, points that are gone, and
// what collections leave.
func goldenKeys(t *testing.T, b *repotest.Bucket) *repo.Repository {
	t.Helper()
	r := goldenInit(t, b)
	dir := t.TempDir()
	point := func(id string) {
		put(t, dir, "file", []byte("content of "+id))
		put(t, dir, id, random(uint64(len(id)), 2000))
		write(t, r, id, dir)
	}
	rotate := func() {
		if err := r.RotateKeys(t.Context(), key("golden"), keeper(t, 7, "projects/p/keys/golden")); err != nil {
			t.Fatal(err)
		}
	}
	point("one")
	point("forgotten")
	rotate()
	point("three")
	if err := r.Forget(t.Context(), "forgotten"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Collect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	rotate()
	point("forgotten") // again: its next attempt
	point("last")
	if err := r.Hold(t.Context(), "one", "case 4711"); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "last"); err != nil { // its objects are still there
		t.Fatal(err)
	}
	addKey(t, r, key("another"))
	if _, err := r.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return r
}

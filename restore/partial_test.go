// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
	"github.com/stillpoint-go/protect/restore"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

// TestPartial damages a repository anywhere and restores what is left: every
// file that is restored is right, every other one is accounted for, and without
// Options.Partial there is nothing.
func TestPartial(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a/large", random(1, 6<<20))
	for i := range 500 {
		put(t, dir, fmt.Sprintf("b/%02d/%s-%d", i%40, strings.Repeat("a long name ", 18), i), random(uint64(i), 50+i%3000))
	}
	put(t, dir, "z/last", random(2, 200_000))
	must(t, os.Link(filepath.Join(dir, "a/large"), filepath.Join(dir, "z/link")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "z/symlink")))
	world := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), world.Bucket(), key(), nil)
	must(t, err)
	write(t, r, "p", map[string]string{"v": dir})
	want := restoretest.Describe(t, dir, nil)

	var packs []string
	for _, object := range world.Keys() {
		if strings.HasPrefix(object, "pack/") {
			packs = append(packs, object)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	partial, gaps := 0, 0
	for i := range 24 {
		b := world.Clone(nil)
		object := packs[i%len(packs)]
		if i < len(packs) {
			b.Delete(object)
		} else {
			b.Flip(object, rng.Int64N(int64(8*len(b.Objects()[object]))))
		}
		r, err := repo.Open(t.Context(), b.Bucket(), key(), nil)
		must(t, err)
		p, err := r.Point(t.Context(), "p")
		must(t, err)
		base := t.TempDir()
		target := filepath.Join(base, "t")
		_, allErr := restore.Volume(t.Context(), r, p, "v", target, &restore.Options{NoSync: true})
		if allErr != nil {
			if left, _ := os.ReadDir(base); len(left) > 0 || !errors.Is(allErr, repo.ErrCorrupt) || errors.Is(allErr, restore.ErrPartial) {
				t.Errorf("case %d: %v, and %v is left", i, allErr, left)
			}
		} else {
			must(t, os.RemoveAll(target))
		}
		rep, err := restore.Volume(t.Context(), r, p, "v", target, &restore.Options{NoSync: true, Partial: true})
		if (err == nil) != (allErr == nil) || err != nil && (!errors.Is(err, restore.ErrPartial) || !errors.Is(err, repo.ErrCorrupt)) || rep == nil {
			t.Fatalf("case %d: %v, and without Partial %v", i, err, allErr)
		}
		if err != nil {
			partial++
		}
		if checkPartial(t, fmt.Sprint("case ", i), rep, want, restoretest.Describe(t, target, nil)) {
			gaps++
		}
	}
	t.Logf("%d of 24 restores were partial, %d of them with parts that could not be listed", partial, gaps)
	if partial < len(packs) || gaps == 0 {
		t.Error("that is too few")
	}
}

// checkPartial compares what was restored with what there was. It reports
// whether parts could not be listed.
func checkPartial(t *testing.T, what string, rep *restore.Report, want, got map[string]string) bool {
	t.Helper()
	failed, gaps := map[string]bool{}, false
	for _, f := range rep.Failed {
		failed[f.Path] = failed[f.Path] || !f.Unlisted
		gaps = gaps || f.Unlisted
		if f.Volume != "v" || f.Reason == "" {
			t.Errorf("%s: %+v", what, f)
		}
	}
	var files int64
	for path, desc := range got {
		isDir := strings.HasPrefix(desc, "dir") || strings.HasPrefix(desc, "d")
		if !isDir {
			files++
		}
		if desc != want[path] && !(gaps && isDir) && !strings.Contains(want[path], "link") {
			t.Errorf("%s: %s was %q and is %q", what, path, want[path], desc)
		}
		if failed[path] {
			t.Errorf("%s: %s is there, and has failed", what, path)
		}
	}
	for path := range want {
		if _, ok := got[path]; !ok && !failed[path] && !gaps {
			t.Errorf("%s: %s is missing, and has not failed", what, path)
		}
	}
	if rep.Files != files || rep.FailedTotal < int64(len(rep.Failed)) {
		t.Errorf("%s: %d files, %+v", what, files, rep)
	}
	return gaps
}

// TestPartialIsForDamage: other errors end a restore as ever.
func TestPartialIsForDamage(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "x", random(1, 1000))
	r, _ := newRepo(t)
	p := write(t, r, "p", map[string]string{"v": dir})
	base := t.TempDir()
	for name, o := range map[string]*restore.Options{
		"budget": {Partial: true, MaxBytes: 10},
		"path":   {Partial: true, Path: "absent"},
	} {
		rep, err := restore.Volume(t.Context(), r, p, "v", filepath.Join(base, "t"), o)
		if err == nil || rep != nil || errors.Is(err, restore.ErrPartial) {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
	}
	put(t, base, "t/occupied", nil)
	if _, err := restore.Volume(t.Context(), r, p, "v", filepath.Join(base, "t"), &restore.Options{Partial: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("occupied: %v", err)
	}
	if left, _ := os.ReadDir(base); !slices.ContainsFunc(left, func(e fs.DirEntry) bool { return e.Name() == "t" }) || len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}

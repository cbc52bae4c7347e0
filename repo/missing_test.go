// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestDamageNamesWhatIsAffected damages objects of the second point alone.
func TestDamageNamesWhatIsAffected(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "same", random(1, 200_000))
	write(t, r, "one", dir)
	before := bucket.Objects()
	put(t, dir, "dir/fresh", random(2, 200_000))
	write(t, r, "two", dir)
	for object := range bucket.Objects() {
		if before[object] != nil {
			continue
		}
		var want []string // any of these
		switch kindOf(object) {
		case "pack/":
			want = []string{"two: v/dir/fresh", "two: v"}
		case "index/":
			want = []string{"two: v"}
		}
		b := bucket.Clone(nil)
		b.Flip(object, 8*100)
		for what, data := range map[string]bool{"missing": false, "missing, all data": true, "flipped": true} {
			if what != "flipped" {
				b = bucket.Clone(nil)
				b.Delete(object)
			} else {
				b = bucket.Clone(nil)
				b.Flip(object, 8*100)
			}
			rep := verify(t, reopen(t, b.Bucket()), data)
			var got []string
			for _, d := range rep.Damage {
				if lost := kindOf(object) == "index/" && (d.Object == "index/" || d.Object == "" && d.Chunk != ""); d.Object != object && !lost {
					t.Errorf("%s is %s: reported is %+v", object, what, d)
				}
				got = append(got, d.Affects...)
			}
			if len(want) > 0 && (len(got) != 1 || !slices.Contains(want, got[0])) {
				t.Errorf("%s is %s: affects %q, want one of %q", object, what, got, want)
			}
		}
	}
}

// TestMissingIsDamage loses packs, or what the index says of them: no caller must
// take that for a path that never was there.
func TestMissingIsDamage(t *testing.T) {
	w := smallWorld(t)
	keys, objects := w.objects()
	for _, prefix := range []string{"pack/", "index/"} {
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				w.bucket.Delete(key)
			}
		}
		r := mustOpen(t, w.bucket.Bucket(), key("secret"))
		p, err := r.Point(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		tree, err := r.Tree(t.Context(), p, "v")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Entry(t.Context(), "d/text"); !errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without %s: %v, want ErrCorrupt and not fs.ErrNotExist", prefix, err)
		}
		for key, data := range objects {
			w.bucket.Set(key, data)
		}
	}
}

// TestInitOverRemains does not take a repository that has lost its header for an
// empty bucket: a collection would free the rest of it.
func TestInitOverRemains(t *testing.T) {
	w := smallWorld(t)
	for _, object := range []string{"protect.repository", "protect.header-copy"} {
		w.bucket.Delete(object)
		before := w.bucket.Objects()
		if _, err := repo.Init(t.Context(), w.bucket.Bucket(), key("secret"), nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v", err)
		}
		if diff := cmp.Diff(before, w.bucket.Objects()); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
	}
}

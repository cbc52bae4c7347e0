// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestEpochsOfOthers: what somebody without a key does to the epochs keeps
// nobody from restoring, and nobody writes what could not be read, or could be
// read by those who should not.
func TestEpochsOfOthers(t *testing.T) {
	base := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), base.Bucket(), key("k"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := sample(t)
	want := contents(t, r, write(t, r, "p", dir))
	before := base.Clone(nil)
	if err := r.RotateKeys(t.Context(), key("k")); err != nil {
		t.Fatal(err)
	}
	write(t, r, "q", dir)
	// exchange replaces the slots by those of another world.
	exchange := func(b, by *repotest.Bucket) {
		for name := range b.Objects() {
			if strings.HasPrefix(name, "key/") {
				b.Delete(name)
			}
		}
		for name, data := range by.Objects() {
			if strings.HasPrefix(name, "key/") {
				b.Set(name, data)
			}
		}
	}
	lost := before.Clone(nil) // where another rotation took place
	if err := mustOpen(t, lost.Bucket(), key("k")).RotateKeys(t.Context(), key("k")); err != nil {
		t.Fatal(err)
	}
	twice := base.Clone(nil)
	if err := mustOpen(t, twice.Bucket(), key("k")).RotateKeys(t.Context(), key("k")); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		base   *repotest.Bucket
		change func(b *repotest.Bucket)
		points int
		err    error // of a session
		rotate error // of a rotation
	}{
		"planted":       {before, func(b *repotest.Bucket) { b.Set("epoch/00000001", random(1, 96)) }, 1, repo.ErrCorrupt, repo.ErrCorrupt},
		"planted later": {base, func(b *repotest.Bucket) { b.Set("epoch/00000002", random(1, 128)) }, 2, repo.ErrCorrupt, repo.ErrCorrupt},
		"after a gap":   {base, func(b *repotest.Bucket) { b.Set("epoch/00000004", random(1, 128)) }, 2, nil, nil},
		"no epoch": {base, func(b *repotest.Bucket) {
			b.Set("epoch/x", nil)
			b.Set("epoch/00000000", nil)
			b.Set("epoch/ffffffff", nil)
		}, 2, nil, nil},
		"damaged":            {base, func(b *repotest.Bucket) { b.Flip("epoch/00000001", 300) }, 2, repo.ErrCorrupt, repo.ErrCorrupt},
		"gone":               {base, func(b *repotest.Bucket) { b.Delete("epoch/00000001") }, 2, repo.ErrKey, nil},
		"first of two gone":  {twice, func(b *repotest.Bucket) { b.Delete("epoch/00000001") }, 2, repo.ErrKey, nil},
		"second of two gone": {twice, func(b *repotest.Bucket) { b.Delete("epoch/00000002") }, 2, repo.ErrKey, nil},
		"both gone":          {twice, func(b *repotest.Bucket) { b.Delete("epoch/00000001"); b.Delete("epoch/00000002") }, 2, repo.ErrKey, nil},
		"not begun":          {before, func(b *repotest.Bucket) { exchange(b, base) }, 1, repo.ErrKey, nil},
		"gone and lost":      {base, func(b *repotest.Bucket) { exchange(b, lost); b.Delete("epoch/00000001") }, -1, repo.ErrKey, repo.ErrCorrupt},
	} {
		b := c.base.Clone(nil)
		c.change(b)
		r, err := repo.Open(t.Context(), b.Bucket(), key("k"), nil)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		points, err := r.Points(t.Context())
		if c.points >= 0 && (err != nil || len(points) != c.points) {
			t.Errorf("%s: %d points, %v", what, len(points), err)
		}
		for _, p := range points {
			if diff := cmp.Diff(want, contents(t, r, p)); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", what, p.ID, diff)
			}
		}
		_, aerr := r.AddKey(t.Context(), key("x"))
		for _, err := range []error{writes(t.Context(), r, "s"), aerr, r.Forget(t.Context(), "s"), r.Hold(t.Context(), "p", "h")} {
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := r.RotateKeys(t.Context(), key("next")); !errors.Is(err, c.rotate) {
			t.Errorf("%s: rotate: %v", what, err)
		} else if err != nil {
			continue
		}
		r = mustOpen(t, b.Bucket(), key("next"))
		if err := writes(t.Context(), r, "t"); err != nil {
			t.Errorf("%s: after a rotation: %v", what, err)
		}
		if points, err := r.Points(t.Context()); err != nil || len(points) < c.points+1 {
			t.Errorf("%s: after a rotation: %d points, %v", what, len(points), err)
		}
		if rep := verify(t, r, true); len(rep.Damage) > 0 && what != "no epoch" {
			t.Errorf("%s: after a rotation: %+v", what, rep.Damage)
		}
	}
	b := base.Clone(nil)
	exchange(b, lost)
	if _, err := repo.Open(t.Context(), b.Bucket(), key("k"), nil); !errors.Is(err, repo.ErrKey) {
		t.Errorf("slot of a rotation that lost: %v", err)
	}
}

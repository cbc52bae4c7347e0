// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestSets reads a set from objects that come, go and get damaged.
func TestSets(t *testing.T) {
	r, _ := initTest(t)
	world := repotest.NewBucket(nil)
	r = over(r, world.Bucket())
	ctx := t.Context()
	attempt := func(n uint32) ondisk.Attempt { return ondisk.Attempt{N: n} }
	want := func(what string, attempts ...uint32) {
		t.Helper()
		s, err := r.readClosed(ctx)
		if err != nil || s.Len() != len(attempts) {
			t.Errorf("%s: %d attempts, %v", what, s.Len(), err)
		}
		for _, n := range attempts {
			if !s.Has(attempt(n)) {
				t.Errorf("%s: %d is missing", what, n)
			}
		}
	}
	put := func(level int, attempts ...uint32) {
		t.Helper()
		var list []ondisk.Attempt
		for _, n := range attempts {
			list = append(list, attempt(n))
		}
		if err := r.putSet(ctx, ondisk.ClosedPrefix, level, ondisk.NewAttemptSet(list...).Encode()); err != nil {
			t.Fatal(err)
		}
	}
	want("nothing there")
	put(0, 1, 2)
	put(0, 2, 3)
	want("two objects", 1, 2, 3)
	old := world.Keys()
	put(1, 1, 2, 3)
	want("and a merged one", 1, 2, 3)
	for _, key := range old {
		world.Delete(key)
	}
	want("the merged one", 1, 2, 3)
	world.Set(ondisk.ClosedPrefix+"readme", []byte("not ours"))
	want("foreign object", 1, 2, 3)
	put(0, 4)
	for _, key := range world.Keys() {
		if level, _, ok := parseSetKey(ondisk.ClosedPrefix, key); ok && level == 0 {
			world.Flip(key, 500)
		}
	}
	s, err := r.readClosed(ctx)
	if !errors.Is(err, ErrCorrupt) || s.Len() != 3 {
		t.Errorf("damage: %d attempts, %v", s.Len(), err)
	}
	if z, err := r.readCondemned(ctx); err != nil || z.Len() != 0 {
		t.Errorf("the other set: %d packs, %v", z.Len(), err)
	}
}

// over returns the repository as another process sees it, in another bucket.
func over(r *Repository, b *blob.Bucket) *Repository {
	o := newRepository(b, nil)
	o.id, o.keys, o.caps = r.id, r.keys, r.caps
	return o
}

// TestSetMergedMeanwhile merges the objects of a set between list and read.
func TestSetMergedMeanwhile(t *testing.T) {
	base, _ := initTest(t)
	world := repotest.NewBucket(nil)
	other := over(base, world.Bucket())
	ctx := t.Context()
	pack := func(n uint32) ondisk.PackRef { return ondisk.PackRef{Seq: n} }
	put := func(ctx context.Context, level int, n ...uint32) {
		var refs []ondisk.PackRef
		for _, n := range n {
			refs = append(refs, pack(n))
		}
		if err := other.putSet(ctx, ondisk.CondemnPrefix, level, ondisk.NewPackSet(ondisk.Garbage, refs...).Encode()); err != nil {
			t.Error(err)
		}
	}
	put(ctx, 0, 1, 2)
	put(ctx, 0, 3)
	var mu sync.Mutex
	rounds := 0
	r := over(base, world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == repotest.Get && rounds < 5 {
			rounds++
			old := world.Keys()
			put(ctx, rounds, 1, 2, 3)
			for _, key := range old {
				world.Delete(key)
			}
		}
		return repotest.Fault{}
	}}).Bucket())
	s, err := r.readCondemned(ctx)
	if err != nil || s.Len() != 3 || !s.Has(pack(3)) || rounds != 5 {
		t.Errorf("%d packs after %d rounds, %v", s.Len(), rounds, err)
	}
	gone := over(base, world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.Get { // a store that lists what it does not have
			return repotest.Fault{Action: repotest.FailBefore, Err: fs.ErrNotExist, Code: gcerrors.NotFound}
		}
		return repotest.Fault{}
	}}).Bucket())
	if s, err := gone.readCondemned(ctx); err == nil {
		t.Errorf("%d packs of objects that cannot be read", s.Len())
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"errors"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// noRoom fails writes under the prefixes, as a full disk does.
func noRoom(prefixes ...string) *repotest.Options {
	return &repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		for _, prefix := range prefixes {
			if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, prefix) {
				return repotest.Fault{Action: repotest.FailBefore, Err: syscall.ENOSPC}
			}
		}
		return repotest.Fault{}
	}}
}

// keysOf returns the objects under a prefix.
func keysOf(b *repotest.Bucket, prefix string) (keys []string) {
	for _, key := range b.Keys() {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestWriteFull is a session for which there is no room: it says so at once, is
// not ambiguous, and does not keep a collector from making room.
func TestWriteFull(t *testing.T) {
	for _, prefix := range []string{"session/", "pack/", "index/", "point/"} {
		world, r := newWorld(t)
		store(t, r, "old-1", 1)
		store(t, r, "garbage-1", 2)
		full := world.Open(noRoom(prefix))
		start := time.Now()
		_, err := storeWith(t.Context(), reopen(t, full.Bucket()), "new-1", []int{1, 3}, nil)
		if !errors.Is(err, repo.ErrFull) || errors.Is(err, repo.ErrAmbiguous) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", prefix, err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: it took %v to say so", prefix, d)
		}
		if left := keysOf(world, "session/"); len(left) > 0 {
			t.Errorf("%s: %q is left", prefix, left)
		}
		if err := r.Forget(t.Context(), "garbage-1"); err != nil {
			t.Fatal(err)
		}
		if rep := collect(t, world, repo.CollectOptions{MaxDelete: 1}); rep.Deleted < 2 || rep.Remaining+rep.Open > 0 || packs(world) != 2 {
			t.Errorf("%s: %d packs, want those of one point: %+v", prefix, packs(world), rep)
		}
		store(t, reopen(t, world.Bucket()), "new-1", 1, 3)
		intact(t, r, map[string][]int{"old-1": {1}, "new-1": {1, 3}})
	}
}

// TestWriteFullAndUnknown loses an answer before the store is full: the commit
// may come yet, so that the session must stay on record.
func TestWriteFullAndUnknown(t *testing.T) {
	world, _ := newWorld(t)
	tries := 0
	process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind != repotest.PutOnce || !strings.HasPrefix(op.Key, "point/") {
			return repotest.Fault{}
		}
		if tries++; tries == 1 {
			return repotest.Fault{Action: repotest.Late}
		}
		return repotest.Fault{Action: repotest.FailBefore, Err: syscall.ENOSPC}
	}})
	_, err := storeWith(t.Context(), reopen(t, process.Bucket()), "new-1", []int{1}, nil)
	if !errors.Is(err, repo.ErrAmbiguous) || len(keysOf(world, "session/")) != 1 {
		t.Fatalf("%v, sessions %q", err, keysOf(world, "session/"))
	}
	collect(t, world, repo.CollectOptions{MaxDelete: 1})
	process.Settle()
	intact(t, reopen(t, world.Bucket()), map[string][]int{"new-1": {1}})
}

// TestCollectFull has no room for something that a collection stores, at last
// for nothing at all. What can be deleted without it goes all the same, no half
// copy stays, and a later collection does the rest.
func TestCollectFull(t *testing.T) {
	for _, prefix := range []string{"pack/", "index/", "condemn/", "closed/", "ledger/", "point/", ""} {
		world, want := busyWorld(t)
		opts := repo.CollectOptions{StaleAfter: -1, MaxDelete: 1, Repack: 1}
		full := world.Open(noRoom(prefix))
		rep, err := reopen(t, full.Bucket()).Collect(t.Context(), &opts)
		switch prefix {
		case "point/", "": // a dead session keeps what is condemned
			if !errors.Is(err, repo.ErrFull) || rep.Deleted > 0 {
				t.Errorf("%s: %+v, %v", prefix, rep, err)
			}
		default:
			if err != nil || rep.Deleted == 0 || rep.Rewritten > 0 && (prefix == "pack/" || prefix == "index/") {
				t.Errorf("%s: %+v, %v", prefix, rep, err)
			}
		}
		now := maps.Clone(want)
		if prefix == "closed/" || prefix == "" {
			now["half-1"] = []int{60} // its forgetting could not be completed
		}
		intact(t, reopen(t, world.Bucket()), now)
		settled(t, world, opts)
		intact(t, reopen(t, world.Bucket()), want)
		if rep := verify(t, reopen(t, world.Bucket()), true); len(rep.Unindexed) > 0 {
			t.Errorf("%s: packs without an index: %q", prefix, rep.Unindexed)
		}
	}
}

// TestCollectFullForGood finds nothing that it could delete without room, and
// says so.
func TestCollectFullForGood(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "garbage-1", 1)
	store(t, r, "old-1", 2)
	if err := r.Forget(t.Context(), "garbage-1"); err != nil {
		t.Fatal(err)
	}
	rep, err := reopen(t, world.Open(noRoom("")).Bucket()).Collect(t.Context(), &all)
	if !errors.Is(err, repo.ErrFull) || rep.Deleted > 0 || rep.Points != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
	intact(t, r, map[string][]int{"old-1": {2}})
	if rep := collect(t, world, all); rep.Deleted != 2 {
		t.Errorf("%+v", rep)
	}
}

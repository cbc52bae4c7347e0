// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestCollectHeldMeanwhile has a hold come after a collection has listed what
// there is, and go before the next one does so: what this one finds is not what
// the first one has dealt with.
func TestCollectHeldMeanwhile(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1)
	store(t, r, "b-1", 2)
	dies := func(kind repotest.Kind, prefix string) *repo.Repository {
		process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
			if op.Kind == kind && strings.HasPrefix(op.Key, prefix) {
				return repotest.Fault{Action: repotest.FailAfter, Kill: true}
			}
			return repotest.Fault{}
		}})
		return reopen(t, process.Bucket())
	}
	if err := dies(repotest.PutOnce, "forget/").Forget(t.Context(), "a-1"); err == nil {
		t.Fatal("the process lives")
	}
	holder := dies(repotest.List, "forget/")
	held := false
	process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.List && strings.HasPrefix(op.Key, "hold/") && op.Key != "hold/" && !held {
			held = true
			if err := holder.Hold(t.Context(), "a-1", "court"); err == nil {
				t.Error("the holder lives")
			}
		}
		return repotest.Fault{}
	}})
	if rep, err := reopen(t, process.Bucket()).Collect(t.Context(), &all); err != nil || !held || rep.Points != 2 {
		t.Fatalf("held %t: %+v, %v", held, rep, err)
	}
	if err := r.Release(t.Context(), "a-1", "court"); err != nil {
		t.Fatal(err)
	}
	if rep := collect(t, world, all); rep.Points != 1 {
		t.Errorf("released: %+v", rep)
	}
	settled(t, world, all)
}

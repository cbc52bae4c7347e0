// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/snapshot"
)

func TestSnapshotVanishes(t *testing.T) {
	w := newWorld(t, nil)
	stolen := 0
	events := &protect.Events{PhaseBegin: func(ctx context.Context, i protect.PhaseInfo) context.Context {
		if i.Phase == protect.PhaseUpload && stolen == 0 {
			stolen++
			if err := snapshot.NewProvider(w.fake.Provider(), nil).Sweep(ctx, "p"); err != nil {
				t.Error(err)
			}
		}
		return ctx
	}}
	p := w.start(t, &process{events: events})
	if _, err := p.Run(t.Context(), p.app, "one"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want("v2"), content(t, p.repository, "one")); diff != "" || stolen != 1 {
		t.Errorf("stolen %d times, content (-want +got):\n%s", stolen, diff)
	}
}

// TestAbandon gives up a point whose volumes are cut, in another process.
func TestAbandon(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	s := protect.NewState("one")
	for s.Phase != protect.PhaseUpload {
		var err error
		if s, _, err = p.Step(t.Context(), p.app, s); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.fake.Snapshots()) == 0 {
		t.Fatal("nothing was cut")
	}
	other := w.start(t, &process{})
	if err := other.Abandon(t.Context(), other.app, "two"); err != nil || len(w.fake.Snapshots()) == 0 {
		t.Errorf("abandoning another point: %v, %d snapshots", err, len(w.fake.Snapshots()))
	}
	if err := other.Abandon(t.Context(), other.app, "one"); err != nil {
		t.Error(err)
	}
	if left := w.fake.Snapshots(); len(left) > 0 {
		t.Errorf("snapshots are left: %v", left)
	}
	// Who still tries to finish it cuts again.
	next, _, err := p.Step(t.Context(), p.app, s)
	if err != nil || next.Phase != protect.PhasePrepare || next.Cut != nil {
		t.Errorf("step after Abandon: %+v, %v", next, err)
	}
}

// TestRecover thaws what a process left that died while its targets were
// frozen, which do not thaw by themselves.
func TestRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.start(t, &process{traits: persistent, stubborn: true, faults: []hookstest.Fault{{Op: hookstest.Quiesce, Kind: hookstest.KillAfter}}})
		if _, err := p.Run(t.Context(), p.app, "one"); err == nil {
			t.Error("a killed process succeeded")
		}
		for i, target := range w.targets {
			if frozen, _ := target.Frozen(t.Context()); !frozen {
				t.Fatalf("target %d is not frozen: nothing to recover", i)
			}
		}
		next := w.start(t, &process{traits: persistent, stubborn: true})
		if err := next.Recover(t.Context(), next.app); err != nil {
			t.Error(err)
		}
		for i, target := range w.targets {
			if frozen, _ := target.Frozen(t.Context()); frozen {
				t.Errorf("target %d is still frozen", i)
			}
		}
	})
}

// TestCancelledRun leaves nothing behind, although its context has ended.
func TestCancelledRun(t *testing.T) {
	for _, phase := range []protect.Phase{protect.PhaseCut, protect.PhaseReady, protect.PhaseUpload} {
		t.Run(string(phase), func(t *testing.T) {
			w := newWorld(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			events := &protect.Events{PhaseEnd: func(_ context.Context, i protect.PhaseInfo, _ error) {
				if i.Phase == phase {
					cancel()
				}
			}}
			if phase == protect.PhaseUpload { // during it: afterwards the point is there
				events = &protect.Events{PhaseBegin: func(ctx context.Context, i protect.PhaseInfo) context.Context {
					if i.Phase == phase {
						cancel()
					}
					return ctx
				}}
			}
			p := w.start(t, &process{events: events})
			if _, err := p.Run(ctx, p.app, "one"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if left := w.fake.Snapshots(); len(left) > 0 {
				t.Errorf("snapshots are left: %v", left)
			}
		})
	}
}

// TestPointsBesideDamage lists the points that are readable.
func TestPointsBesideDamage(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	before := w.bucket.Objects()
	if _, err := p.Run(t.Context(), p.app, "one"); err != nil {
		t.Fatal(err)
	}
	for key := range w.bucket.Objects() {
		if before[key] == nil && strings.HasPrefix(key, "point/") {
			w.bucket.Flip(key, 1000)
		}
	}
	fresh := w.start(t, &process{})
	points, err := fresh.Points(t.Context(), "app")
	if !errors.Is(err, repo.ErrCorrupt) || len(points) != 1 || points[0].ID != "earlier" {
		t.Errorf("points %v, %v", points, err)
	}
}

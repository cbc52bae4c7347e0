// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// The sweeps fail every call that a Run makes to the bucket, to the snapshot
// provider and to the hooks, in every way, one at a time, in virtual time. A
// kill takes the whole process with it. After each, a new process must find
// the world in order and bring the point to an end.

var persistent = hooks.Traits{Release: hooks.Persistent, Scope: hooks.Application}

// survive runs a faulty process and then checks the promises.
func survive(t *testing.T, w *world, p *process, kill func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err := p.Run(ctx, p.app, "one")
	kill() // whatever is left of the process has no effect any more

	// A target may be frozen only until the next process recovers, and then
	// not at all.
	next := w.start(t, &process{traits: p.traits})
	if err := next.Recover(t.Context(), next.app); err != nil {
		t.Errorf("recover: %v", err)
	}
	for i, target := range w.targets {
		if frozen, _ := target.Frozen(t.Context()); frozen {
			t.Errorf("target %d is left frozen (run: %v)", i, err)
		}
	}
	if diff := cmp.Diff(want("v1"), content(t, next.repository, "earlier")); diff != "" {
		t.Errorf("earlier point (-want +got):\n%s", diff)
	}
	// The point is not there, or whole.
	_, perr := next.repository.Point(t.Context(), "one")
	switch {
	case perr == nil:
		if diff := cmp.Diff(want("v2"), content(t, next.repository, "one")); diff != "" {
			t.Errorf("half a point is visible (-want +got):\n%s", diff)
		}
	case !errors.Is(perr, fs.ErrNotExist):
		t.Errorf("point: %v", perr)
	case err == nil:
		t.Error("Run reported success without a point")
	}
	if _, err := next.Run(t.Context(), next.app, "one"); err != nil {
		t.Errorf("rerun: %v", err)
	} else if diff := cmp.Diff(want("v2"), content(t, next.repository, "one")); diff != "" {
		t.Errorf("rerun (-want +got):\n%s", diff)
	}
	if left := w.fake.Snapshots(); len(left) > 0 {
		t.Errorf("snapshots are left: %v", left)
	}
	if n := w.fake.InUse(); n > 0 {
		t.Errorf("%d directories are in use", n)
	}
	if pending, err := w.journal.Pending(t.Context()); err != nil || len(pending) > 0 {
		t.Errorf("intents are pending: %v, %v", pending, err)
	}
	rep, err := next.repository.Verify(t.Context(), &repo.VerifyOptions{Level: repo.VerifyFull})
	if err != nil || len(rep.Damage) > 0 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}

func TestSweepBucket(t *testing.T) {
	faults := map[string]repotest.Fault{
		"before": {Action: repotest.FailBefore},
		"after":  {Action: repotest.FailAfter},
		"late":   {Action: repotest.Late},
		"hang":   {Action: repotest.Hang},
		"kill":   {Kill: true},
		"killed": {Action: repotest.FailAfter, Kill: true},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, more := 0, true; more; i++ {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					p := &process{traits: persistent}
					armed := false // opening is not part of the sweep
					base := 0
					p.bucket = w.bucket.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
						if !armed {
							base = op.Index + 1
							return repotest.Fault{}
						}
						if op.Index-base == i {
							if f.Kill {
								p.hooks.Kill()
								w.fake.SetHook(func(snapshottest.Op) snapshottest.Fault { return snapshottest.Fault{Kill: true} })
							}
							return f
						}
						return repotest.Fault{}
					}})
					w.start(t, p)
					armed = true
					survive(t, w, p, func() {
						p.hooks.Kill()
						p.bucket.Kill()
						w.fake.SetHook(nil)
						w.fake.Revive()
						w.bucket.Settle()
					})
					more = len(p.bucket.Calls())-base > i
				})
				if t.Failed() {
					t.Fatalf("call %d, %s", i, name)
				}
				if !more {
					t.Logf("%d calls", i)
				}
			}
		})
	}
}

func TestSweepSnapshots(t *testing.T) {
	boom := errors.New("boom")
	faults := map[string]snapshottest.Fault{
		"before":  {Before: boom},
		"after":   {After: boom},
		"hang":    {Hang: true},
		"late":    {Hang: true, After: boom},
		"partial": {Partial: true, After: boom},
		"slow":    {NotReady: 3},
		"kill":    {Kill: true},
		"killed":  {Kill: true, After: boom},
		"torn":    {Kill: true, Partial: true},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, more := 0, true; more; i++ {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					p := &process{traits: persistent, bucket: w.bucket.Open(nil)}
					w.start(t, p)
					var n atomic.Int64
					w.fake.SetHook(func(snapshottest.Op) snapshottest.Fault {
						if int(n.Add(1))-1 != i {
							return snapshottest.Fault{}
						}
						if f.Kill {
							p.hooks.Kill()
							p.bucket.Kill()
						}
						return f
					})
					survive(t, w, p, func() {
						more = int(n.Load()) > i
						p.hooks.Kill()
						p.bucket.Kill()
						w.fake.SetHook(nil)
						w.fake.Revive()
					})
				})
				if t.Failed() {
					t.Fatalf("call %d, %s", i, name)
				}
				if !more {
					t.Logf("%d calls", i)
				}
			}
		})
	}
}

func TestSweepHooks(t *testing.T) {
	for _, op := range hookstest.Ops() {
		for _, kind := range hookstest.Kinds() {
			for _, release := range []hooks.Release{hooks.Session, hooks.Persistent} {
				if op == hookstest.Recover && release == hooks.Session {
					continue
				}
				t.Run(fmt.Sprint(op, "/", kind, "/", release), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, nil)
						p := &process{
							traits: hooks.Traits{Release: release, Scope: hooks.Application}, bucket: w.bucket.Open(nil),
							faults: []hookstest.Fault{{Op: op, Kind: kind, Nth: 1}},
						}
						w.start(t, p)
						survive(t, w, p, func() {
							p.hooks.Kill()
							p.bucket.Kill()
							// A late freeze, and what thaws it, come to their end.
							time.Sleep(5 * time.Minute)
						})
					})
				})
			}
		}
	}
}

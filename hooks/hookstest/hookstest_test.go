// SPDX-License-Identifier: Apache-2.0

package hookstest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// TestConformance runs the suite on the scripted quiescer without a script.
func TestConformance(t *testing.T) {
	for name, traits := range map[string]hooks.Traits{
		"persistent": {Release: hooks.Persistent, Scope: hooks.Filesystem},
		"session":    {Release: hooks.Session, Scope: hooks.Application},
	} {
		t.Run(name, func(t *testing.T) {
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				target := &hookstest.Target{}
				q := hookstest.Scripted(target, &hookstest.ScriptedOptions{Traits: traits, SelfThaw: true})
				return hookstest.Harness{
					Quiescer:  q,
					Frozen:    target.Frozen,
					Lose:      func(context.Context) error { target.Lose(); return nil },
					SelfThaws: true,
					Slack:     time.Second,
				}
			})
		})
	}
}

func TestWrapForwardsInterfaces(t *testing.T) {
	rec := hookstest.NewRecorder(t)
	type bare struct{ hooks.Quiescer }
	target := &hookstest.Target{}
	tests := map[string]struct {
		q                  hooks.Quiescer
		prepares, recovers bool
	}{
		"persistent": {hookstest.Scripted(target, nil), true, true},
		"session":    {hookstest.Scripted(target, &hookstest.ScriptedOptions{Traits: hooks.Traits{Release: hooks.Session}}), true, false},
		"bare":       {bare{hookstest.Scripted(target, nil)}, false, false},
	}
	for name, test := range tests {
		w := rec.Wrap(name, test.q)
		if _, ok := w.(hooks.Preparer); ok != test.prepares {
			t.Errorf("%s: a Preparer: %t, want %t", name, ok, test.prepares)
		}
		if _, ok := w.(hooks.Recoverer); ok != test.recovers {
			t.Errorf("%s: a Recoverer: %t, want %t", name, ok, test.recovers)
		}
	}
}

// quiet is a testing.TB whose Cleanup does nothing, for recorders that are
// meant to find something.
type quiet struct{ testing.TB }

func (quiet) Cleanup(func()) {}

func TestRecorderFinds(t *testing.T) {
	freeze := func(rec *hookstest.Recorder, name string) hooks.Hold {
		q := rec.Wrap(name, hookstest.Scripted(&hookstest.Target{}, nil))
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1})
		if err != nil {
			t.Fatal(err)
		}
		return hold
	}
	thaw := func(hold hooks.Hold) { _, _ = hold.Thaw(t.Context()) }
	tests := []struct {
		name string
		ok   bool
		run  func(rec *hookstest.Recorder)
	}{
		{"in order", true, func(rec *hookstest.Recorder) {
			a, b := freeze(rec, "a"), freeze(rec, "b")
			thaw(b)
			thaw(a)
		}},
		{"wrong order", false, func(rec *hookstest.Recorder) {
			a, b := freeze(rec, "a"), freeze(rec, "b")
			thaw(a)
			thaw(b)
		}},
		{"left frozen", false, func(rec *hookstest.Recorder) { freeze(rec, "a") }},
		{"thawed twice", false, func(rec *hookstest.Recorder) {
			a := freeze(rec, "a")
			thaw(a)
			thaw(a)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := hookstest.NewRecorder(quiet{t})
			test.run(rec)
			if err := rec.Check(); (err == nil) != test.ok {
				t.Errorf("Check: %v, want ok %t; the log is:\n%s", err, test.ok, rec.Log())
			}
		})
	}
}

func TestTargetRefusesStaleEpoch(t *testing.T) {
	q := hookstest.Scripted(&hookstest.Target{}, nil)
	if err := q.(hooks.Recoverer).Recover(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7}); !errors.Is(err, hookstest.ErrStale) {
		t.Errorf("Quiesce(7) after Recover(7): error %v, want ErrStale", err)
	}
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 8}); err != nil {
		t.Errorf("Quiesce(8): %v", err)
	}
}

// TestTargetRefusesForGood refuses a freeze because of a stranger, and its
// duplicate when the stranger has gone.
func TestTargetRefusesForGood(t *testing.T) {
	target := &hookstest.Target{}
	stranger, q := hookstest.Scripted(target, nil), hookstest.Scripted(target, nil)
	if _, err := stranger.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{hooks.ErrForeignFreeze, hookstest.ErrStale} {
		if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7}); !errors.Is(err, want) {
			t.Errorf("Quiesce(7): error %v, want %v", err, want)
		}
		target.Lose()
	}
}

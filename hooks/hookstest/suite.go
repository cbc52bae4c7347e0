// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// Harness is one quiescer with a target that is not frozen.
type Harness struct {
	// Quiescer is what is tested.
	Quiescer hooks.Quiescer
	// Frozen looks at the target itself, not at the quiescer: are its writes
	// blocked?
	Frozen func(ctx context.Context) (bool, error)
	// Lose is optional. It ends the freeze in force behind the quiescer's
	// back, as a thaw by somebody else or the end of the session would.
	Lose func(ctx context.Context) error
	// SelfThaws says that the target thaws by itself when the window ends.
	SelfThaws bool
	// Window is the window for the clause about SelfThaws. It must be longer
	// than a freeze takes. Zero means 500 ms.
	Window time.Duration
	// Slack is how long an effect that nobody waits for may take to show, and
	// how long a call may take. Zero means 10 s.
	Slack time.Duration
}

// Run checks the contract of hooks.Quiescer, one sub-test for each clause.
// newHarness is called for each and cleans up with t.Cleanup.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	clauses := []struct {
		name string
		test func(*suite)
	}{
		{"Traits", testTraits},
		{"FreezeThaw", testFreezeThaw},
		{"Again", testAgain},
		{"Prepare", testPrepare},
		{"HoldOutlivesContext", testHoldOutlivesContext},
		{"ThawIsIdempotent", testThawIsIdempotent},
		{"LateThawSparesNextFreeze", testLateThawSparesNextFreeze},
		{"HeldAfterThaw", testHeldAfterThaw},
		{"ThawWithEndedContext", testThawWithEndedContext},
		{"QuiesceWithEndedContext", testQuiesceWithEndedContext},
		{"CancelDuringQuiesce", testCancelDuringQuiesce},
		{"Concurrent", testConcurrent},
		{"Recover", testRecover},
		{"RecoverWhileHeld", testRecoverWhileHeld},
		{"Lose", testLose},
		{"WindowEnds", testWindowEnds},
	}
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			if h.Slack == 0 {
				h.Slack = 10 * time.Second
			}
			if h.Window == 0 {
				h.Window = 500 * time.Millisecond
			}
			s := &suite{T: t, Harness: h}
			c.test(s)
			s.thawedSoon()
		})
	}
}

// suite is one clause at work.
type suite struct {
	*testing.T
	Harness
	epoch hooks.Epoch
}

// ctx returns a context that ends after the slack.
func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), s.Slack)
	s.Cleanup(cancel)
	return ctx
}

// request returns the next freeze request.
func (s *suite) request(window time.Duration) hooks.FreezeRequest {
	s.epoch++
	return hooks.FreezeRequest{Epoch: s.epoch, Window: window}
}

// quiesce freezes for a window that does not matter; the target thaws when the
// test ends, whatever happens.
func (s *suite) quiesce() hooks.Hold {
	s.Helper()
	return s.quiesceFor(hooks.MaxWindow)
}

func (s *suite) quiesceFor(window time.Duration) hooks.Hold {
	s.Helper()
	hold, err := s.Quiescer.Quiesce(s.ctx(), s.request(window))
	if err != nil {
		s.Fatalf("Quiesce: %v", err)
	}
	if hold == nil {
		s.Fatal("Quiesce returned neither a hold nor an error")
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), s.Slack)
		defer cancel()
		_, _ = hold.Thaw(ctx)
	})
	return hold
}

func (s *suite) thaw(hold hooks.Hold) {
	s.Helper()
	if _, err := hold.Thaw(s.ctx()); err != nil {
		s.Fatalf("Thaw: %v", err)
	}
}

// frozen checks the target now.
func (s *suite) frozen(want bool) {
	s.Helper()
	got, err := s.Frozen(s.ctx())
	if err != nil {
		s.Fatalf("Frozen: %v", err)
	}
	if got != want {
		s.Fatalf("the target is frozen: %t, want %t", got, want)
	}
}

// thawedSoon waits until the target is thawed, up to the slack.
func (s *suite) thawedSoon() {
	s.Helper()
	ctx := s.ctx()
	for {
		got, err := s.Frozen(ctx)
		if err == nil && !got {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			s.Fatalf("the target is frozen: %t (error %v), want it thawed within %v", got, err, s.Slack)
		}
	}
}

// lost checks that a hold says that it is lost.
func (s *suite) lost(call string, err error) {
	s.Helper()
	if !errors.Is(err, hooks.ErrHoldLost) {
		s.Fatalf("%s: error %v, want one that wraps hooks.ErrHoldLost", call, err)
	}
}

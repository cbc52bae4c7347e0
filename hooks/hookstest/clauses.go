// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

func testTraits(s *suite) {
	traits := s.Quiescer.Traits()
	if again := s.Quiescer.Traits(); again != traits {
		s.Errorf("Traits: %+v, then %+v: they must be constant", traits, again)
	}
	if traits.Release != hooks.Persistent && traits.Release != hooks.Session {
		s.Errorf("Traits: unknown release %d", traits.Release)
	}
	if traits.Scope != hooks.Filesystem && traits.Scope != hooks.Application {
		s.Errorf("Traits: unknown scope %d", traits.Scope)
	}
	if _, ok := s.Quiescer.(hooks.Recoverer); traits.Release == hooks.Persistent && !ok {
		s.Error("a persistent quiescer must implement hooks.Recoverer")
	}
}

func testFreezeThaw(s *suite) {
	s.frozen(false)
	hold := s.quiesce()
	s.frozen(true)
	if err := hold.Held(s.ctx()); err != nil {
		s.Errorf("Held: %v", err)
	}
	if err := hold.Held(s.ctx()); err != nil {
		s.Errorf("second Held: %v", err)
	}
	s.frozen(true)
	evidence, err := hold.Thaw(s.ctx())
	if err != nil {
		s.Errorf("Thaw: %v", err)
	}
	size := 0
	for k, v := range evidence {
		size += len(k) + len(v)
	}
	if size > hooks.MaxEvidence {
		s.Errorf("evidence of %d bytes, at most %d are allowed", size, hooks.MaxEvidence)
	}
	s.frozen(false)
}

func testAgain(s *suite) {
	for range 3 {
		hold := s.quiesce()
		s.frozen(true)
		if err := hold.Held(s.ctx()); err != nil {
			s.Errorf("Held: %v", err)
		}
		s.thaw(hold)
		s.frozen(false)
	}
}

func testPrepare(s *suite) {
	p, ok := s.Quiescer.(hooks.Preparer)
	if !ok {
		s.Skip("not a hooks.Preparer")
	}
	for range 2 {
		if err := p.Prepare(s.ctx()); err != nil {
			s.Fatalf("Prepare: %v", err)
		}
		s.frozen(false)
	}
	hold := s.quiesce()
	s.frozen(true)
	s.thaw(hold)
}

func testHoldOutlivesContext(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx())
	hold, err := s.Quiescer.Quiesce(ctx, s.request(hooks.MaxWindow))
	cancel()
	if err != nil {
		s.Fatalf("Quiesce: %v", err)
	}
	// Whatever wrongly hangs on the context gets time to act.
	<-time.After(100 * time.Millisecond)
	s.frozen(true)
	if err := hold.Held(s.ctx()); err != nil {
		s.Errorf("Held: %v", err)
	}
	s.thaw(hold)
}

func testThawIsIdempotent(s *suite) {
	hold := s.quiesce()
	s.thaw(hold)
	for range 2 {
		if _, err := hold.Thaw(s.ctx()); err != nil && !errors.Is(err, hooks.ErrHoldLost) {
			s.Errorf("another Thaw: %v", err)
		}
	}
	s.frozen(false)
}

func testLateThawSparesNextFreeze(s *suite) {
	first := s.quiesce()
	s.thaw(first)
	second := s.quiesce()
	_, _ = first.Thaw(s.ctx())
	s.frozen(true)
	if err := second.Held(s.ctx()); err != nil {
		s.Errorf("Held of the second freeze after another Thaw of the first: %v", err)
	}
	s.thaw(second)
}

func testHeldAfterThaw(s *suite) {
	hold := s.quiesce()
	s.thaw(hold)
	s.lost("Held after Thaw", hold.Held(s.ctx()))
	next := s.quiesce()
	s.lost("Held after Thaw, while the next freeze holds", hold.Held(s.ctx()))
	s.thaw(next)
}

func testThawWithEndedContext(s *suite) {
	hold := s.quiesce()
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := hold.Thaw(ended)
	if err == nil || errors.Is(err, hooks.ErrHoldLost) {
		s.frozen(false) // it was acknowledged
	}
	if _, err = hold.Thaw(s.ctx()); err != nil && !errors.Is(err, hooks.ErrHoldLost) {
		s.Errorf("Thaw after one with an ended context: %v", err)
	}
	s.frozen(false)
}

func testQuiesceWithEndedContext(s *suite) {
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	req := s.request(hooks.MaxWindow)
	hold, err := s.Quiescer.Quiesce(ended, req)
	if err == nil || hold != nil {
		if hold != nil {
			s.thaw(hold)
		}
		s.Fatalf("Quiesce with an ended context: hold %v, error %v", hold, err)
	}
	if !errors.Is(err, context.Canceled) {
		s.Errorf("Quiesce with an ended context: error %v, want one that wraps context.Canceled", err)
	}
	s.recover(req.Epoch)
	s.frozen(false)
}

func testCancelDuringQuiesce(s *suite) {
	for _, delay := range []time.Duration{0, 100 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(s.Context(), delay)
		req := s.request(hooks.MaxWindow)
		hold, err := s.Quiescer.Quiesce(ctx, req)
		cancel()
		switch {
		case err != nil && hold != nil:
			s.Errorf("Quiesce that is cancelled after %v: a hold and error %v", delay, err)
		case err != nil:
			s.recover(req.Epoch)
		default:
			s.frozen(true)
			if err := hold.Held(s.ctx()); err != nil {
				s.Errorf("Held: %v", err)
			}
			s.thaw(hold)
		}
		s.thawedSoon()
	}
	hold := s.quiesce() // nothing is left in the way of the next freeze
	s.frozen(true)
	s.thaw(hold)
}

// recover calls Recover, where there is one.
func (s *suite) recover(epoch hooks.Epoch) {
	s.Helper()
	if r, ok := s.Quiescer.(hooks.Recoverer); ok {
		if err := r.Recover(s.ctx(), epoch); err != nil {
			s.Errorf("Recover(%d): %v", epoch, err)
		}
	}
}

func testConcurrent(s *suite) {
	var wg sync.WaitGroup
	for range 3 {
		req := s.request(hooks.MaxWindow)
		wg.Go(func() {
			s.Quiescer.Traits()
			ctx, cancel := context.WithTimeout(s.Context(), s.Slack/10)
			defer cancel()
			hold, err := s.Quiescer.Quiesce(ctx, req)
			if err != nil {
				return // only one at a time is fine
			}
			if _, err := hold.Thaw(s.ctx()); err != nil && !errors.Is(err, hooks.ErrHoldLost) {
				s.Errorf("Thaw: %v", err)
			}
		})
	}
	wg.Wait()
	s.thawedSoon()
	hold := s.quiesce()
	s.frozen(true)
	s.thaw(hold)
}

func testRecover(s *suite) {
	if _, ok := s.Quiescer.(hooks.Recoverer); !ok {
		s.Skip("not a hooks.Recoverer")
	}
	s.recover(s.request(0).Epoch) // nothing is frozen
	s.recover(s.epoch)
	s.frozen(false)
	hold := s.quiesce()
	s.frozen(true)
	s.thaw(hold)
}

func testRecoverWhileHeld(s *suite) {
	if _, ok := s.Quiescer.(hooks.Recoverer); !ok {
		s.Skip("not a hooks.Recoverer")
	}
	hold := s.quiesce()
	s.recover(s.epoch)
	s.frozen(false)
	s.lost("Held after Recover", hold.Held(s.ctx()))
	s.frozen(false)
	_, err := hold.Thaw(s.ctx())
	s.lost("Thaw after Recover", err)
	s.frozen(false)
}

func testLose(s *suite) {
	if s.Lose == nil {
		s.Skip("the harness cannot lose a hold")
	}
	hold := s.quiesce()
	s.frozen(true)
	if err := s.Lose(s.ctx()); err != nil {
		s.Fatalf("Lose: %v", err)
	}
	s.lost("Held of a lost hold", hold.Held(s.ctx()))
	_, err := hold.Thaw(s.ctx())
	s.lost("Thaw of a lost hold", err)
	s.frozen(false)
}

func testWindowEnds(s *suite) {
	if !s.SelfThaws {
		s.Skip("the target does not thaw by itself")
	}
	began := time.Now()
	hold := s.quiesceFor(s.Window)
	s.thawedSoon()
	if took := time.Since(began); took < s.Window {
		s.Errorf("thawed %v after the freeze, before the window of %v ended", took, s.Window)
	}
	s.lost("Held after the window", hold.Held(s.ctx()))
	_, err := hold.Thaw(s.ctx())
	s.lost("Thaw after the window", err)
	s.frozen(false)
}

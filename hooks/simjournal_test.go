// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// simJournal is the journal as one process sees it, by its own clock. What is
// in it is that of all processes; requests to it fail like all others.
type simJournal struct {
	simWay
	own map[hooks.Epoch]bool
}

var _ hooks.History = (*simJournal)(nil)

// ask is one request. What it does must not depend on the process, which may be
// dead when it arrives.
func (j *simJournal) ask(ctx context.Context, op string, effect func(context.Context) error) error {
	detached := context.WithoutCancel(ctx)
	return j.do(ctx, op, "the journal", func() error { return effect(detached) })
}

func (j *simJournal) Begin(ctx context.Context, in hooks.Intent) (epoch hooks.Epoch, err error) {
	s := j.p.s
	s.mu.Lock()
	in.Began = in.Began.Add(j.p.skew)
	s.mu.Unlock()
	err = j.ask(ctx, "begin", func(ctx context.Context) error {
		e, err := s.journal.Begin(ctx, in)
		if epoch == 0 { // nobody hears of a duplicate
			epoch = e
			j.p.first, j.p.last = time.Time{}, time.Time{}
		}
		j.own[e] = true
		if s.bug == lateIntent {
			j.hide(e)
		}
		return err
	})
	return epoch, err
}

// hide makes an intent appear later, unless its process dies.
func (j *simJournal) hide(epoch hooks.Epoch) {
	s := j.p.s
	s.hidden[epoch] = true
	s.later(2*time.Second+j.tick, func() {
		if !j.p.dead {
			delete(s.hidden, epoch)
		}
	})
}

func (j *simJournal) End(ctx context.Context, epoch hooks.Epoch) error {
	return j.ask(ctx, "end", func(ctx context.Context) error { return j.p.s.end(ctx, epoch) })
}

// end ends an intent. s.mu is held.
func (s *sim) end(ctx context.Context, epoch hooks.Epoch) error {
	for _, t := range s.targets {
		// One that was restarted knows no epochs any more, and may have been
		// frozen late: it has its lease.
		if t.frozen && t.epoch == epoch && t.restarts == 0 {
			s.violate("the intent of epoch %d ends, and %s is frozen", epoch, t.name)
		}
	}
	return s.journal.End(ctx, epoch)
}

// intended checks that the journal knows of a freeze. s.mu is held.
func (s *sim) intended(t *simTarget) {
	pending, _ := s.journal.Pending(context.Background())
	known := slices.ContainsFunc(pending, func(in hooks.Intent) bool { return in.Epoch == t.epoch && !s.hidden[in.Epoch] })
	if !known && t.restarts == 0 {
		s.violate("%s is frozen under epoch %d, of which the journal does not know", t.name, t.epoch)
	}
}

func (j *simJournal) Pending(ctx context.Context) (intents []hooks.Intent, err error) {
	s := j.p.s
	err = j.ask(ctx, "pending", func(ctx context.Context) error {
		intents, err = s.journal.Pending(ctx)
		intents = slices.DeleteFunc(intents, func(in hooks.Intent) bool {
			return s.hidden[in.Epoch] || s.bug == noIntent && !j.own[in.Epoch]
		})
		for i := range intents {
			intents[i].Began = intents[i].Began.Add(-j.p.skew)
		}
		return err
	})
	return intents, err
}

func (j *simJournal) Remember(ctx context.Context, past hooks.PastFreeze) error {
	s := j.p.s
	s.mu.Lock()
	past.Ended = past.Ended.Add(j.p.skew)
	s.mu.Unlock()
	return j.ask(ctx, "remember", func(ctx context.Context) error { return s.journal.Remember(ctx, past) })
}

func (j *simJournal) Past(ctx context.Context, application string) (past []hooks.PastFreeze, err error) {
	s := j.p.s
	err = j.ask(ctx, "past", func(ctx context.Context) error {
		past, err = s.journal.Past(ctx, application)
		for i := range past {
			past[i].Ended = past[i].Ended.Add(-j.p.skew)
			if d := time.Until(past[i].Ended); s.bug == badClocks && d > 0 {
				// As if it had just begun, each time.
				past[i].Ended = time.Now().Add(time.Second)
			}
		}
		return err
	})
	return past, err
}

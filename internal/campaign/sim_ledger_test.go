// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// ledger remembers what was asked and answered, and knows what must hold.
type ledger struct {
	mu       sync.Mutex
	now      int
	events   []*event
	broken   []string // promises
	verified int      // points that were restored
}

func (l *ledger) begin(e *event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	e.begin = l.now
	l.events = append(l.events, e)
}

func (l *ledger) end(e *event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	e.end = l.now
}

func (l *ledger) breach(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = append(l.broken, fmt.Sprintf(format, args...))
}

// clock returns the time after the last event, and whether no promise is broken.
func (l *ledger) clock() (after int, whole bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now + 1, len(l.broken) == 0
}

func (l *ledger) of(v verb, id string) []*event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*event
	for _, e := range l.events {
		if e.verb == v && e.id == id {
			found = append(found, e)
		}
	}
	return found
}

// mayBeForgotten reports whether anybody has asked to forget what a write that
// began then has returned. A request that failed may still take effect, at any
// time.
func (l *ledger) mayBeForgotten(id string, begin int) bool {
	for _, f := range l.of(doForget, id) {
		if l.refused(f) {
			continue
		}
		if f.end == 0 || f.err != nil || f.end > begin {
			return true
		}
	}
	return false
}

// refused reports whether a hold that nobody ever tried to release was there
// before the request to forget: then the request has no effect.
func (l *ledger) refused(f *event) bool {
	return slices.ContainsFunc(l.of(doHold, f.id), func(h *event) bool {
		return h.err == nil && !h.killed && h.end != 0 && h.end < f.begin
	}) && len(l.of(doRelease, f.id)) == 0
}

// owed returns the points that must be there: by id, what they must contain. A
// point counts if it was acknowledged before the time.
func (l *ledger) owed(before int) map[string]string {
	l.mu.Lock()
	events := slices.Clone(l.events)
	l.mu.Unlock()
	owed := map[string]string{}
	for _, e := range events {
		if e.verb == doWrite && e.err == nil && e.end != 0 && e.end < before && !l.mayBeForgotten(e.id, e.begin) {
			owed[e.id] = e.got
		}
	}
	return owed
}

// truthful checks what the processes were told against each other.
func (l *ledger) truthful() {
	told := map[string]string{}
	for _, e := range slices.Clone(l.events) {
		switch {
		case e.verb == doWrite && e.err == nil && e.end != 0 && !l.mayBeForgotten(e.id, 0):
			if first := told[e.id]; first != "" && first != e.got {
				l.breach("P12: point %s was acknowledged as %s and as %s", e.id, first, e.got)
			}
			told[e.id] = e.got
		case e.verb == doForget && e.err == nil && e.end != 0 && l.refused(e):
			if !l.mayBeForgotten(e.id, 0) {
				l.breach("P12: %v, though it is held", e)
			}
		}
	}
}

// denied returns the ids of points that must not be there: their only writers
// were told so for certain.
func (l *ledger) denied() []string {
	state := map[string]bool{} // may it be there
	for _, e := range l.events {
		if e.verb != doWrite {
			continue
		}
		certain := e.end != 0 && !e.killed && e.err != nil && !errors.Is(e.err, repo.ErrAmbiguous) && !errors.Is(e.err, repotest.ErrKilled)
		state[e.id] = state[e.id] || !certain
	}
	var ids []string
	for id, may := range state {
		if !may {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// judge checks the whole store as a new process sees it, without faults.
func (l *ledger) judge(ctx context.Context, p *pantry, b *repotest.Bucket, when string) *repo.Repository {
	r, err := repo.Open(ctx, b.Bucket(), key(), nil)
	if err != nil {
		l.breach("P1: %s: open: %v", when, err)
		return nil
	}
	points, err := p.sound(ctx, r)
	if err != nil {
		l.breach("P2 or P5: %s: %v", when, err)
		return r
	}
	l.verified += len(points)
	now, _ := l.clock()
	for id, rec := range l.owed(now) {
		switch pt := points[id]; {
		case pt == nil:
			l.breach("P1: %s: point %s is gone", when, id)
		case pt.Labels[recipeLabel] != rec:
			l.breach("P12: %s: point %s is %s and was acknowledged as %s", when, id, pt.Labels[recipeLabel], rec)
		}
	}
	for _, id := range l.denied() {
		if points[id] != nil {
			l.breach("P12: %s: point %s is there, and its writers were told that it is not", when, id)
		}
	}
	return r
}

// reading checks what a reader saw while others were at work.
func (l *ledger) reading(ctx context.Context, p *pantry, r *repo.Repository, e *event) error {
	points, err := r.Points(ctx)
	if err != nil {
		if errors.Is(err, repo.ErrCorrupt) {
			l.breach("P5: a listing finds damage: %v", err)
		}
		return err
	}
	seen := map[string]bool{}
	for _, pt := range points {
		seen[pt.ID] = true
	}
	for id := range l.owed(e.begin) {
		if !seen[id] {
			l.breach("P1: a listing misses point %s", id)
		}
	}
	var failed error
	for _, pt := range points {
		err := p.check(ctx, r, pt)
		switch {
		case err == nil:
			l.verified++
		case errors.Is(err, errWrong):
			l.breach("P5: %v", err)
		case (errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)) && !l.mayBeForgotten(pt.ID, 0):
			l.breach("P2: the visible point %s does not restore: %v", pt.ID, err)
		default:
			failed = err
		}
	}
	return failed
}

// report returns the broken promises and the history.
func (l *ledger) report() string {
	var b strings.Builder
	for _, s := range l.broken {
		fmt.Fprintln(&b, s)
	}
	for _, e := range l.events {
		fmt.Fprintln(&b, "  ", e)
	}
	return b.String()
}

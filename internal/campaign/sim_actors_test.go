// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// actor is a person or a job that starts one process after the other.
type actor struct {
	number   int
	l        *ledger
	p        *pantry
	s        *scheduler
	plan     []event
	revive   []bool // for each death, whether it starts a new process
	attempts int
	page     int

	b *repotest.Bucket
	r *repo.Repository
}

// run carries out the plan.
func (a *actor) run(ctx context.Context) {
	defer a.s.finished()
	for i := range a.plan {
		for {
			e := a.plan[i]
			a.l.begin(&e)
			a.do(ctx, &e)
			e.killed = a.b.Killed()
			e.hurt = len(a.b.Calls()) > 0 && e.err != nil
			a.l.end(&e)
			if !e.killed {
				break
			}
			a.b, a.r = nil, nil
			if len(a.revive) == 0 || !a.revive[0] {
				return
			}
			a.revive = a.revive[1:]
			if e.verb != doWrite {
				break
			}
		}
	}
}

// do carries out one step of the plan.
func (a *actor) do(ctx context.Context, e *event) {
	if a.b == nil {
		a.b = a.s.process(a.number, a.page)
	}
	for range 3 {
		if a.r != nil || a.b.Killed() {
			break
		}
		a.r, e.err = repo.Open(ctx, a.b.Bucket(), key(), &repo.Options{Attempts: a.attempts})
		if errors.Is(e.err, repo.ErrCorrupt) || errors.Is(e.err, repo.ErrKey) {
			a.l.breach("P5: open: %v", e.err)
		}
	}
	if a.r == nil {
		return
	}
	e.err = a.perform(ctx, e)
}

// deadline bounds each step as users would.
const deadline = 48 * time.Hour

func (a *actor) perform(ctx context.Context, e *event) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	switch e.verb {
	case doVerify:
		return a.verify(ctx)
	case doRead:
		return a.l.reading(ctx, a.p, a.r, e)
	default:
		err := a.p.change(ctx, a.r, e)
		if errors.Is(err, repo.ErrCorrupt) {
			a.l.breach("P5: %s: %v", e.verb, err)
		}
		return err
	}
}

func (a *actor) verify(ctx context.Context) error {
	rep, err := a.r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
	if err == nil && len(rep.Damage)+len(rep.Unknown) > 0 {
		a.l.breach("P2: verify finds %+v", *rep)
	}
	return err
}

// drawCast draws who does what in a schedule.
func drawCast(rng *rand.Rand) [][]event {
	ids := 1 + rng.IntN(4)
	id := func() string { return fmt.Sprint("p", rng.IntN(ids)) }
	var cast [][]event
	add := func(most int, verbs ...verb) {
		var plan []event
		for range 1 + rng.IntN(most) {
			e := event{verb: verbs[rng.IntN(len(verbs))], actor: len(cast), id: id()}
			if e.verb == doWrite {
				e.recipe = randomRecipe(rng).String()
			}
			if e.verb == doCollect {
				e.recipe = collects(rng)
			}
			plan = append(plan, e)
		}
		cast = append(cast, plan)
	}
	for range 1 + rng.IntN(3) {
		add(3, doWrite)
	}
	for range rng.IntN(3) {
		add(3, doForget, doForget, doForget, doHold, doRelease)
	}
	for range rng.IntN(3) {
		add(3, doCollect)
	}
	if rng.IntN(3) == 0 {
		add(2, doVerify, doRead)
	}
	return cast
}

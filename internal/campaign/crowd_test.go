// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stillpoint-go/protect/repo"
)

var (
	writers = flag.Int("writers", 0, "number of writing processes of TestCrowd")
	backups = flag.Int("backups", 0, "number of recovery points that each of them writes")
)

// crowd is a number of processes that work on one directory at the same time.
type crowd struct {
	p    *pantry
	dir  string
	l    *ledger
	done atomic.Bool // the writers are
	runs atomic.Int64
}

// TestCrowd has real processes write, forget, collect and verify at the same
// time, in one directory:
//
//	go test ./internal/campaign -run 'TestCrowd$' -timeout 0 -v -args -writers 8 -backups 50
func TestCrowd(t *testing.T) {
	n, each, seed := or(*writers, 3), or(*backups, 5), firstSeed(t)
	base := scratch(t)
	c := &crowd{dir: filepath.Join(base, "repo"), l: &ledger{}}
	var err error
	if c.p, err = newPantry(filepath.Join(base, "pantry")); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, c.dir)
	defer b.Close()
	r, err := repo.Init(t.Context(), b, key(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var writing, others sync.WaitGroup
	for i := range n {
		writing.Go(func() { c.process(t, i, c.plan(rand.New(rand.NewPCG(seed, uint64(i))), i, each)) })
	}
	// A session that stored something within a day is not given up.
	for i, s := range []step{{Verb: string(doCollect), Recipe: "0 1 0.9"}, {Verb: string(doVerify)}} {
		others.Go(func() {
			for !c.done.Load() && !t.Failed() {
				c.process(t, n+i, []step{s, s, s})
				c.runs.Add(3)
			}
		})
	}
	writing.Wait()
	c.done.Store(true)
	others.Wait()
	points, err := c.p.sound(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	now, _ := c.l.clock()
	owed := c.l.owed(now)
	for id, rec := range owed {
		if points[id] == nil || points[id].Labels[recipeLabel] != rec {
			t.Errorf("point %s of %s is gone or another one", id, rec)
		}
	}
	if len(points) != len(owed) {
		t.Errorf("%d points are there, and %d should be", len(points), len(owed))
	}
	if err := tidy(t.Context(), r, b); err != nil {
		t.Error(err)
	}
	if _, err := c.p.sound(t.Context(), r); err != nil {
		t.Errorf("after collecting: %v", err)
	}
	t.Logf("%d processes wrote %d points each, seed %d; %d collections and verifications meanwhile; %d points restored", n, each, seed, c.runs.Load(), len(points))
}

// plan is what a writer does: it forgets some of its points.
func (c *crowd) plan(rng *rand.Rand, number, backups int) []step {
	var plan []step
	for n := range backups {
		plan = append(plan, step{Verb: string(doWrite), ID: fmt.Sprintf("%d-%d", number, n), Recipe: randomRecipe(rng).String()})
		if n >= 3 && rng.IntN(2) == 0 {
			plan = append(plan, step{Verb: string(doForget), ID: fmt.Sprintf("%d-%d", number, n-3)})
		}
	}
	return plan
}

// process runs a plan in a process, in which nothing may fail.
func (c *crowd) process(t *testing.T, number int, plan []step) {
	ch := start(t, job{Dir: c.dir, Pantry: c.p.base, Plan: plan})
	var e *event
	for {
		l, ok := ch.next(t)
		if !ok {
			break
		}
		s := plan[l.Step]
		if l.Begin {
			e = &event{verb: verb(s.Verb), actor: number, id: s.ID, recipe: s.Recipe}
			c.l.begin(e)
			continue
		}
		if e.got = l.Got; l.Err != "" {
			t.Errorf("process %d: %s %s: %s", number, s.Verb, s.ID, l.Err)
		}
		c.l.end(e)
	}
	if ch.wait(t) {
		t.Errorf("process %d was killed", number)
	}
}

// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
)

var kills = flag.Int("kills", 0, "number of random kills of TestKill; its boundaries are all taken with -long")

// scratch returns a directory in memory where there is such a file system: a
// kill takes nothing from the page cache, so that the disk decides nothing.
func scratch(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "campaign") //nolint:usetesting // it has to be on that file system
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openDir(tb testing.TB, dir string) *blob.Bucket {
	tb.Helper()
	b, err := dirbucket.OpenBucket(dir, &dirbucket.Options{CreateDir: true})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// victims is a place where processes are killed, and what they said before.
type victims struct {
	p    *pantry
	base string
	l    *ledger
}

func newVictims(t *testing.T) *victims {
	t.Helper()
	v := &victims{base: scratch(t), l: &ledger{}}
	var err error
	if v.p, err = newPantry(filepath.Join(v.base, "pantry")); err != nil {
		t.Fatal(err)
	}
	return v
}

// fill makes a repository in which there is something to do for everybody.
func (v *victims) fill(t *testing.T, dir string) {
	t.Helper()
	b := openDir(t, dir)
	defer b.Close()
	if _, err := repo.Init(t.Context(), b, key(), nil); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), b, key(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []event{
		{verb: doWrite, id: "kept", recipe: "1:0,1"},
		{verb: doWrite, id: "forgotten", recipe: "2:1,2,6"},
		{verb: doWrite, id: "victim", recipe: "3:2,5"},
		{verb: doForget, id: "forgotten"},
	} {
		v.l.begin(&e)
		if e.err = v.p.change(t.Context(), r, &e); e.err != nil {
			t.Fatal(e.err)
		}
		v.l.end(&e)
	}
}

// kill runs the job in a process that is killed, by itself or after a while.
// It reports whether it was, and how many store calls it says to have made.
func (v *victims) kill(t *testing.T, j job, after time.Duration) (killed bool, calls int) {
	t.Helper()
	c := start(t, j)
	var running *event
	for {
		l, ok := c.next(t)
		if !ok {
			break
		}
		if l.Begin {
			s := j.Plan[l.Step]
			running = &event{verb: verb(s.Verb), id: s.ID, recipe: s.Recipe}
			v.l.begin(running)
			if after > 0 && l.Step == 0 {
				time.AfterFunc(after, func() { _ = c.cmd.Process.Kill() })
			}
			continue
		}
		calls, running.got = l.Calls, l.Got
		if l.Err != "" {
			running.err = errors.New(l.Err)
			if l.Ambiguous {
				running.err = repo.ErrAmbiguous
			}
		}
		v.l.end(running)
		running = nil
	}
	killed = c.wait(t)
	if running != nil {
		running.killed, running.err = true, errors.New("killed")
		v.l.end(running)
	}
	return killed, calls
}

// aftermath checks what a new process finds, cleans up, and goes on.
func (v *victims) aftermath(t *testing.T, dir, what string) {
	t.Helper()
	ctx := t.Context()
	b := openDir(t, dir)
	defer b.Close()
	if len(v.l.owed(v.l.now+1)) == 0 { // perhaps it died in Init
		if _, err := repo.Init(ctx, b, key(), nil); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatalf("%s: init again: %v", what, err)
		}
	}
	r, err := repo.Open(ctx, b, key(), nil)
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	v.owed(ctx, r, what)
	if err := tidy(ctx, r, b); err != nil {
		t.Fatalf("%s: tidy: %v", what, err)
	}
	e := event{verb: doWrite, id: "next", recipe: "0:4,7"}
	v.l.begin(&e)
	if e.err = v.p.change(ctx, r, &e); e.err != nil {
		t.Fatalf("%s: write again: %v", what, e.err)
	}
	v.l.end(&e)
	v.owed(ctx, r, what+", after writing again")
	if len(v.l.broken) > 0 {
		t.Fatalf("%s: %s", what, v.l.report())
	}
}

// owed checks that what was acknowledged is there, and all of it sound.
func (v *victims) owed(ctx context.Context, r *repo.Repository, what string) {
	points, err := v.p.sound(ctx, r)
	if err != nil {
		v.l.breach("P2 or P5: %s: %v", what, err)
		return
	}
	for id, rec := range v.l.owed(v.l.now + 1) {
		if points[id] == nil || points[id].Labels[recipeLabel] != rec {
			v.l.breach("P1: %s: point %s of %s is gone or another one", what, id, rec)
		}
	}
}

// killPlans are the jobs whose every store call is fatal once.
func killPlans() map[string][]step {
	return map[string][]step{
		"init":        {{Verb: string(doInit)}},
		"incremental": {{Verb: string(doWrite), ID: "more", Recipe: "0:1,3"}},
		"forget":      {{Verb: string(doForget), ID: "victim"}},
		"hold":        {{Verb: string(doHold), ID: "kept"}, {Verb: string(doRelease), ID: "kept"}},
		"collect":     {{Verb: string(doForget), ID: "victim"}, {Verb: string(doCollect), Recipe: thorough}, {Verb: string(doCollect), Recipe: thorough}},
		"rewrite":     {{Verb: string(doForget), ID: "victim"}, {Verb: string(doWrite), ID: "victim", Recipe: "1:6"}},
	}
}

// TestKillBoundaries kills a process before and after each of its store calls.
// The long form takes all calls of all jobs, the short one some.
func TestKillBoundaries(t *testing.T) {
	total := 0
	rng := rand.New(rand.NewPCG(firstSeed(t), 0))
	for name, plan := range killPlans() {
		for _, after := range []bool{false, true} {
			for at := 1; ; at++ {
				if !*long {
					at += rng.IntN(12)
				}
				v := newVictims(t)
				dir := filepath.Join(v.base, "repo")
				if plan[0].Verb != string(doInit) {
					v.fill(t, dir)
				}
				killed, _ := v.kill(t, job{Dir: dir, Pantry: v.p.base, Plan: plan, KillAt: at, After: after}, 0)
				what := fmt.Sprintf("%s, killed at call %d, after it: %t", name, at, after)
				v.aftermath(t, dir, what)
				_ = os.RemoveAll(v.base)
				if !killed {
					break
				}
				total++
			}
		}
	}
	t.Logf("%d kills at the calls of %d jobs", total, len(killPlans()))
}

// TestKill kills processes at random times, one after the other, on repositories
// that live on:
//
//	go test ./internal/campaign -run 'TestKill$' -timeout 0 -v -args -kills 10000
func TestKill(t *testing.T) {
	seed := firstSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	n, dead := or(*kills, 60), 0
	var v *victims
	var dir string
	for i := range n {
		if i%25 == 0 { // a new world, so that the history stays readable
			v = newVictims(t)
			dir = filepath.Join(v.base, "repo")
			v.fill(t, dir)
		}
		var plan []step
		for range 1 + rng.IntN(3) {
			id := fmt.Sprint("p", rng.IntN(4))
			plan = append(plan, []step{
				{Verb: string(doWrite), ID: id, Recipe: randomRecipe(rng).String()},
				{Verb: string(doWrite), ID: fmt.Sprint("new", i), Recipe: randomRecipe(rng).String()},
				{Verb: string(doForget), ID: id},
				{Verb: string(doCollect), Recipe: collects(rng)},
			}[rng.IntN(4)])
		}
		killed, _ := v.kill(t, job{Dir: dir, Pantry: v.p.base, Plan: plan}, time.Duration(rng.Int64N(int64(25*time.Millisecond))))
		if killed {
			dead++
		}
		v.aftermath(t, dir, fmt.Sprintf("seed %d, process %d, %v", seed, i, plan))
	}
	t.Logf("%d processes from seed %d, %d killed before they were done", n, seed, dead)
	if dead < n/4 {
		t.Errorf("only %d of %d processes were killed", dead, n)
	}
}

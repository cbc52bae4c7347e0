// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// workload is a process with one thing to do. Its first call is made when the
// repository is opened, unless it opens it itself.
type workload struct {
	event *event
	do    func(ctx context.Context, b *repotest.Bucket, o *repo.Options) error // instead of the event
}

// workloads are what can go wrong at every call.
func workloads() map[string]workload {
	with := func(f func(context.Context, *repo.Repository) error) workload {
		return workload{do: func(ctx context.Context, b *repotest.Bucket, o *repo.Options) error {
			r, err := repo.Open(ctx, b.Bucket(), key(), o)
			if err != nil {
				return err
			}
			return f(ctx, r)
		}}
	}
	return map[string]workload{
		"init": {do: func(ctx context.Context, b *repotest.Bucket, o *repo.Options) error {
			for object := range b.Objects() {
				b.Delete(object)
			}
			_, err := repo.Init(ctx, b.Bucket(), key(), o)
			return err
		}},
		"first of a name": {event: &event{verb: doWrite, id: "new", recipe: "-1:3,4"}},
		"incremental":     {event: &event{verb: doWrite, id: "new", recipe: "2:1,5"}},
		"the same again":  {event: &event{verb: doWrite, id: "a", recipe: "1:0,1"}},
		"after a forget":  {event: &event{verb: doWrite, id: "b", recipe: "3:7"}},
		"forget":          {event: &event{verb: doForget, id: "c"}},
		"hold":            {event: &event{verb: doHold, id: "c"}},
		"release":         {event: &event{verb: doRelease, id: "a"}},
		"collect":         {event: &event{verb: doCollect, recipe: thorough}},
		"repack":          {event: &event{verb: doCollect, recipe: "-1 1 1"}},
		"read": with(func(ctx context.Context, r *repo.Repository) error {
			pt, err := r.Point(ctx, "a")
			if err == nil {
				_, err = contents(ctx, r, pt)
			}
			return err
		}),
		"verify": with(func(ctx context.Context, r *repo.Repository) error {
			_, err := r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyData})
			return err
		}),
		"repair": with(func(ctx context.Context, r *repo.Repository) error {
			_, err := r.Repair(ctx, nil)
			return err
		}),
		"change the key": with(func(ctx context.Context, r *repo.Repository) error {
			old, err := r.Keys(ctx)
			if err != nil {
				return err
			}
			if _, err := r.AddKey(ctx, key()); err != nil {
				return err
			}
			return r.RemoveKey(ctx, old[0].ID)
		}),
		"rotate": with(func(ctx context.Context, r *repo.Repository) error { return r.RotateKeys(ctx, key()) }),
	}
}

// run is the life of the process.
func (w workload) run(ctx context.Context, p *pantry, l *ledger, b *repotest.Bucket, o *repo.Options) error {
	if w.do != nil {
		return w.do(ctx, b, o)
	}
	e := *w.event
	l.begin(&e)
	defer l.end(&e)
	r, err := repo.Open(ctx, b.Bucket(), key(), o)
	if err == nil {
		err = p.change(ctx, r, &e)
	}
	e.err, e.killed = err, b.Killed()
	return err
}

// faults are what happens to a call.
func faults() []repotest.Fault {
	return []repotest.Fault{
		{Action: repotest.FailBefore},
		{Action: repotest.FailAfter},
		{Action: repotest.Late},
		{Action: repotest.Twice},
		{Action: repotest.Hang},
		{Action: repotest.HangAfter},
		{Action: repotest.FailBefore, Kill: true},
		{Action: repotest.FailAfter, Kill: true},
		{Action: repotest.Late, Kill: true},
	}
}

// sweep is a repository in which there is something to do for every workload.
type sweep struct {
	p      *pantry
	base   *repotest.Bucket
	events []*event // its history
	runs   int
}

func newSweep(t *testing.T) *sweep {
	t.Helper()
	p, err := newPantry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &sweep{p: p, base: repotest.NewBucket(nil)}
	synctest.Test(t, func(t *testing.T) {
		b := s.base.Open(nil).Bucket()
		r, err := repo.Init(t.Context(), b, key(), nil)
		if err != nil {
			t.Fatal(err)
		}
		l := &ledger{}
		for _, e := range []*event{
			{verb: doWrite, id: "a", recipe: "1:0,1"},
			{verb: doHold, id: "a"},
			{verb: doWrite, id: "b", recipe: "2:1,2,6"},
			{verb: doForget, id: "b"},
			{verb: doCollect, recipe: "-1 1 -1"},
			{verb: doWrite, id: "c", recipe: "3:2,7"},
			{verb: doWrite, id: "d", recipe: "3:4,5"},
			{verb: doForget, id: "d"},
		} {
			l.begin(e)
			if e.err = p.change(t.Context(), r, e); e.err != nil {
				t.Fatal(e)
			}
			l.end(e)
		}
		s.events = l.events
	})
	return s
}

// TestSweep fails every store call of every workload in every way, once. The
// short form takes a sample:
//
//	go test ./internal/campaign -run 'TestSweep$' -timeout 0 -v -args -long
func TestSweep(t *testing.T) {
	s := newSweep(t)
	rng := rand.New(rand.NewPCG(firstSeed(t), 0))
	all := workloads()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w := all[name]
		calls, before := 0, s.runs
		for _, f := range faults() {
			for i := rng.IntN(s.stride()); ; i += 1 + rng.IntN(s.stride()) {
				n := s.run(t, name, w, i, f)
				if calls = max(calls, n); n <= i {
					break
				}
			}
		}
		t.Logf("%s: %d runs, up to %d calls", name, s.runs-before, calls)
	}
	t.Logf("%d runs of %d workloads with %d faults", s.runs, len(all), len(faults()))
}

func (s *sweep) stride() int {
	if *long {
		return 1
	}
	return 24
}

// run lets call number i of the workload fail and returns how many there were.
func (s *sweep) run(t *testing.T, name string, w workload, i int, f repotest.Fault) (calls int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		world := s.base.Clone(nil)
		process := world.Open(&repotest.Options{Fault: repotest.At(i, f)})
		l := &ledger{events: append([]*event(nil), s.events...), now: 100}
		if name == "init" {
			l.events = nil
		}
		err := w.run(ctx, s.p, l, process, &repo.Options{Attempts: 3})
		if calls = len(process.Calls()); calls <= i {
			return
		}
		s.runs++
		what := fmt.Sprintf("%s, %v at call %v, kill %t", name, f.Action, process.Calls()[i], f.Kill)
		switch {
		case f.Kill && err == nil && calls > i+1:
			t.Errorf("%s: it is said to have worked", what)
		case !f.Kill && err != nil:
			t.Errorf("%s: one fault was too much: %v", what, err)
		}
		s.after(ctx, l, world.Clone(nil), what)
		world.Settle()
		s.after(ctx, l, world, what+", when late effects have landed")
		if len(l.broken) > 0 {
			t.Errorf("%s: %s", what, l.report())
		}
	})
	return calls
}

// after checks what a new process finds, and lets it go on.
func (s *sweep) after(ctx context.Context, l *ledger, world *repotest.Bucket, what string) {
	l = &ledger{events: append([]*event(nil), l.events...), now: l.now, broken: l.broken}
	if len(l.events) == 0 {
		if _, err := repo.Init(ctx, world.Bucket(), key(), nil); err != nil && !errors.Is(err, fs.ErrExist) {
			l.breach("P7: %s: init again: %v", what, err)
		}
	}
	r := l.judge(ctx, s.p, world, what)
	if r == nil || len(l.broken) > 0 {
		return
	}
	for _, e := range []*event{
		{verb: doCollect, recipe: thorough},
		{verb: doWrite, id: "new", recipe: "2:1,5"},
		{verb: doWrite, id: "after", recipe: "0:2,7"},
	} {
		l.begin(e)
		if e.err = s.p.change(ctx, r, e); e.err != nil {
			l.breach("P7: %s: %v", what, e)
		}
		l.end(e)
	}
	if err := tidy(ctx, r, world.Bucket()); err != nil {
		l.breach("P7: %s: %v", what, err)
	}
	l.judge(ctx, s.p, world, what+", after collecting and writing")
}

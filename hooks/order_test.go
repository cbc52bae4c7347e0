// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// late delays a call.
func late(op hookstest.Op, delay time.Duration) hookstest.Fault {
	return hookstest.Fault{Op: op, Kind: hookstest.Late, Delay: delay}
}

// diamond is two applications on one database on one file system, and a cache
// that nobody depends on, in an order that helps nobody.
func diamond(q func(name string) hooks.Quiescer) []hooks.Member {
	var members []hooks.Member
	for _, m := range []hooks.Member{
		{Name: "fs"},
		{Name: "db", DependsOn: []string{"fs"}},
		{Name: "web", DependsOn: []string{"db"}},
		{Name: "cache"},
		{Name: "worker", DependsOn: []string{"db", "fs"}},
	} {
		m.Quiescer = q(m.Name)
		members = append(members, m)
	}
	return members
}

// TestRanks freezes what does not depend on each other at the same time, and
// the rest in order.
func TestRanks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, journal := hookstest.NewRecorder(t), hooks.NewMemJournal()
		g, err := hooks.NewGroup("app", diamond(func(name string) hooks.Quiescer {
			return rec.Wrap(name, hookstest.Scripted(&hookstest.Target{}, &hookstest.ScriptedOptions{Faults: []hookstest.Fault{
				late(hookstest.Quiesce, time.Second), late(hookstest.Held, time.Second/10), late(hookstest.Thaw, time.Second/2),
			}}))
		}), &hooks.GroupOptions{Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
			rec.Event("cut")
			intents, err := journal.Pending(ctx)
			if want := []string{"web", "cache", "worker", "db", "fs"}; err != nil || !slices.Equal(intents[0].Members, want) {
				t.Errorf("the intent is %v, error %v, want the members in freeze order", intents, err)
			}
			return nil
		})
		if err != nil || !report.Proven() {
			t.Fatalf("error %v, doubts %q", err, report.Doubts())
		}
		if report.Quiesce != 3*time.Second || report.Thaw != 1500*time.Millisecond || report.Frozen != 4800*time.Millisecond {
			t.Errorf("quiesce %v, thaw %v, frozen %v: want three ranks", report.Quiesce, report.Thaw, report.Frozen)
		}
		member := func(name string, rank int, hold time.Duration) hooks.MemberReport {
			return hooks.MemberReport{
				Name: name, Rank: rank, Quiesce: time.Second, Hold: hold, Thaw: time.Second / 2, Proven: true,
			}
		}
		want := []hooks.MemberReport{
			member("fs", 2, 300*time.Millisecond),
			member("db", 1, 1800*time.Millisecond),
			member("web", 0, 3300*time.Millisecond),
			member("cache", 0, 3300*time.Millisecond),
			member("worker", 0, 3300*time.Millisecond),
		}
		if diff := cmp.Diff(want, report.Members); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
	})
}

// TestRankFails gives up on the others in the rank of a member that fails, and
// does not reach the next rank.
func TestRankFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, targets := hookstest.NewRecorder(t), make(map[string]*hookstest.Target)
		faults := map[string]hookstest.Fault{
			"cache":  {Op: hookstest.Quiesce, Kind: hookstest.HangAfter},
			"worker": {Op: hookstest.Quiesce, Kind: hookstest.ErrorAfter},
		}
		g, err := hooks.NewGroup("app", diamond(func(name string) hooks.Quiescer {
			targets[name] = &hookstest.Target{}
			return rec.Wrap(name, hookstest.Scripted(targets[name], &hookstest.ScriptedOptions{Faults: []hookstest.Fault{faults[name]}}))
		}), &hooks.GroupOptions{Journal: hooks.NewMemJournal()})
		if err != nil {
			t.Fatal(err)
		}
		report, err := g.Do(t.Context(), "id", func(context.Context) error {
			t.Error("cut although a member failed")
			return nil
		})
		if !errors.Is(err, hookstest.ErrInjected) || !strings.HasPrefix(err.Error(), `hooks: quiesce "worker"`) {
			t.Errorf("error %v, want the one of the member that failed first", err)
		}
		if report.Frozen > time.Second {
			t.Errorf("frozen for %v although it failed at once", report.Frozen)
		}
		for _, m := range report.Members {
			switch m.Name {
			case "cache", "worker":
				if m.Err == "" {
					t.Errorf("%s: the report does not say that it failed", m.Name)
				}
			case "db", "fs":
				if strings.Contains(rec.Log(), m.Name+" ") {
					t.Errorf("%s was touched", m.Name)
				}
			}
		}
		for name, target := range targets {
			if target.Freeze() != 0 {
				t.Errorf("%s is frozen", name)
			}
		}
	})
}

// TestRecoverInReverse thaws what a dead process left in the reverse order of
// the ranks.
func TestRecoverInReverse(t *testing.T) {
	journal := hooks.NewMemJournal()
	if _, err := journal.Begin(t.Context(), hooks.Intent{
		Application: "app", ID: "id", Members: []string{"web", "cache", "worker", "db", "fs"}, Window: time.Second, Began: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	rec := hookstest.NewRecorder(t)
	g, err := hooks.NewGroup("app", diamond(func(name string) hooks.Quiescer {
		return rec.Wrap(name, hookstest.Scripted(&hookstest.Target{}, nil))
	}), &hooks.GroupOptions{Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "fs recover\ndb recover\nworker recover\ncache recover\nweb recover\n"
	if diff := cmp.Diff(want, rec.Log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestDependenciesAreChecked(t *testing.T) {
	member := func(name string, on ...string) hooks.Member {
		return hooks.Member{Name: name, DependsOn: on, Quiescer: hookstest.Scripted(&hookstest.Target{}, &hookstest.ScriptedOptions{Traits: session})}
	}
	tests := map[string]struct {
		members []hooks.Member
		want    string // empty: fine
	}{
		"itself":  {[]hooks.Member{member("a", "a")}, `"a" depends on "a"`},
		"two":     {[]hooks.Member{member("a", "b"), member("b", "a")}, `"a" depends on "b" depends on "a"`},
		"unknown": {[]hooks.Member{member("a", "z")}, `member "a" depends on "z", which is not in the group`},
		"behind": {
			[]hooks.Member{member("y"), member("x", "a"), member("a", "b"), member("b", "c"), member("c", "a", "y")},
			`hooks: members depend on each other: "c" depends on "a" depends on "b" depends on "c"`,
		},
		"twice":    {[]hooks.Member{member("a", "b", "b"), member("b")}, ""},
		"shortcut": {[]hooks.Member{member("a", "b", "c"), member("b", "c"), member("c")}, ""},
	}
	for name, test := range tests {
		_, err := hooks.NewGroup("app", test.members, nil)
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// span is when a call began and returned.
type span struct{ began, ended time.Time }

// timed notes when its member froze and thawed.
type timed struct {
	hooks.Quiescer
	freeze, thaw span
}

type timedHold struct {
	hooks.Hold
	t *timed
}

func (q *timed) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	q.freeze = span{began: time.Now()}
	hold, err := q.Quiescer.Quiesce(ctx, req)
	q.freeze.ended = time.Now()
	if err != nil {
		return nil, err
	}
	return &timedHold{hold, q}, nil
}

func (h *timedHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.t.thaw = span{began: time.Now()}
	defer func() { h.t.thaw.ended = time.Now() }()
	return h.Hold.Thaw(ctx)
}

// TestRandomOrders checks the order of random groups: nobody freezes before
// who depends on it holds, nobody thaws before what it depends on has thawed,
// and the cut comes when all hold.
func TestRandomOrders(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		n := 1 + rng.IntN(8)
		var members []hooks.Member
		times := make(map[string]*timed)
		pause := func() time.Duration { return time.Duration(1+rng.IntN(300)) * time.Millisecond }
		for i, place := range rng.Perm(n) {
			name := fmt.Sprint("m", place)
			times[name] = &timed{Quiescer: hookstest.Scripted(&hookstest.Target{}, &hookstest.ScriptedOptions{
				Traits: session, Faults: []hookstest.Fault{late(hookstest.Quiesce, pause()), late(hookstest.Thaw, pause())},
			})}
			m := hooks.Member{Name: name, Quiescer: times[name]}
			for _, other := range members[:i] {
				if rng.IntN(3) == 0 {
					m.DependsOn = append(m.DependsOn, other.Name)
				}
			}
			members = append(members, m)
		}
		rng.Shuffle(n, func(i, j int) { members[i], members[j] = members[j], members[i] })
		synctest.Test(t, func(t *testing.T) {
			g, err := hooks.NewGroup("app", members, nil)
			if err != nil {
				t.Fatal(err)
			}
			var cut time.Time
			report, err := g.Do(t.Context(), "id", func(context.Context) error {
				cut = time.Now()
				return nil
			})
			if err != nil || !report.Proven() {
				t.Fatalf("error %v, doubts %q", err, report.Doubts())
			}
			for i, m := range members {
				own := times[m.Name]
				if own.freeze.ended.After(cut) || own.thaw.began.Before(cut) {
					t.Errorf("%s: the cut came outside of its hold", m.Name)
				}
				if r := report.Members[i]; r.Name != m.Name || r.Quiesce != own.freeze.ended.Sub(own.freeze.began) {
					t.Errorf("%s: report %+v", m.Name, r)
				}
				for _, name := range m.DependsOn {
					if below := times[name]; below.freeze.began.Before(own.freeze.ended) || own.thaw.began.Before(below.thaw.ended) {
						t.Errorf("%s and %s, which it depends on, froze or thawed in the wrong order", m.Name, name)
					}
				}
			}
		})
		if t.Failed() {
			t.Fatalf("that was %+v", members)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// limited returns a group with one member, in a process of its own.
func limited(t *testing.T, p *hookstest.Process, name string, journal hooks.Journal, opts hooks.GroupOptions) *hooks.Group {
	t.Helper()
	target := &hookstest.Target{}
	opts.Journal = p.Journal(journal)
	g, err := hooks.NewGroup(name, []hooks.Member{{Name: "a", Quiescer: hookstest.Scripted(target, &hookstest.ScriptedOptions{Process: p})}}, &opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// freezeFor freezes for a time and returns when to come again, if it is too
// soon.
func freezeFor(t *testing.T, g *hooks.Group, d time.Duration) (again time.Duration, refused bool) {
	t.Helper()
	report, err := g.Do(t.Context(), "id", func(context.Context) error {
		<-time.After(d)
		return nil
	})
	if e, ok := errors.AsType[*hooks.TooSoonError](err); ok {
		if report != nil || e.Reason == "" {
			t.Errorf("a refusal %q with report %+v", e, report)
		}
		return time.Until(e.Again), true
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, false
}

func journals(t *testing.T) map[string]hooks.Journal {
	t.Helper()
	dir, err := hooks.OpenDirJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]hooks.Journal{"memory": hooks.NewMemJournal(), "directory": dir}
}

func TestMinGap(t *testing.T) {
	for name, journal := range journals(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := hooks.GroupOptions{MinGap: time.Minute}
				g := limited(t, &hookstest.Process{}, "app", journal, opts)
				freezeFor(t, g, time.Second)
				<-time.After(20 * time.Second)
				if again, refused := freezeFor(t, g, time.Second); !refused || again != 40*time.Second {
					t.Errorf("refused %t for %v, want 40 s", refused, again)
				}
				// Another process knows it as well; another application is free.
				if again, _ := freezeFor(t, limited(t, &hookstest.Process{}, "app", journal, opts), time.Second); again != 40*time.Second {
					t.Errorf("in another process: refused for %v", again)
				}
				if _, refused := freezeFor(t, limited(t, &hookstest.Process{}, "other", journal, opts), time.Second); refused {
					t.Error("another application is refused")
				}
				<-time.After(40 * time.Second)
				if _, refused := freezeFor(t, g, time.Second); refused {
					t.Error("refused when it said to come again")
				}
			})
		})
	}
}

// TestBudget freezes as often as it is allowed to, for random times, and
// checks every hour.
func TestBudget(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const budget = 25 * time.Second
	for name, journal := range journals(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := limited(t, &hookstest.Process{}, "app", journal, hooks.GroupOptions{Budget: budget})
				type freeze struct {
					ended time.Time
					d     time.Duration
				}
				var freezes []freeze
				refusals := 0
				for range 200 {
					d := time.Duration(rng.Int64N(int64(9 * time.Second)))
					again, refused := freezeFor(t, g, d)
					if refused {
						refusals++
						if again <= 0 || again > time.Hour {
							t.Fatalf("come again after %v", again)
						}
						<-time.After(again)
						if _, refused = freezeFor(t, g, d); refused {
							t.Fatal("refused when it said to come again")
						}
					}
					now := time.Now()
					freezes = append(freezes, freeze{now, d})
					used := time.Duration(0)
					for _, f := range freezes {
						if now.Sub(f.ended) < time.Hour {
							used += f.d
						}
					}
					if used > budget {
						t.Fatalf("frozen for %v in an hour", used)
					}
					<-time.After(time.Duration(rng.Int64N(int64(20 * time.Minute))))
				}
				if refusals == 0 {
					t.Error("nothing was refused")
				}
			})
		})
	}
}

// TestBudgetOfTheDead counts a freeze whose process died as a whole window.
func TestBudgetOfTheDead(t *testing.T) {
	for name, journal := range journals(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := hooks.GroupOptions{MinGap: time.Minute, Budget: 20 * time.Second}
				p := &hookstest.Process{}
				g := limited(t, p, "app", journal, opts)
				if _, err := g.Do(t.Context(), "id", func(context.Context) error {
					p.Kill()
					return nil
				}); err == nil {
					t.Fatal("the kill did not work")
				}
				<-time.After(30 * time.Second)
				next := limited(t, &hookstest.Process{}, "app", journal, opts)
				if err := next.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
				past, err := journal.(hooks.History).Past(t.Context(), "app")
				if err != nil || len(past) != 1 || past[0].Frozen != hooks.DefaultWindow {
					t.Errorf("past %+v, error %v", past, err)
				}
				if _, refused := freezeFor(t, next, time.Second); !refused {
					t.Error("not refused after a freeze of a dead process")
				}
			})
		})
	}
}

// TestClockWasWrong ignores freezes of the far future, and forgets old ones.
func TestClockWasWrong(t *testing.T) {
	for name, journal := range journals(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				history := journal.(hooks.History)
				for epoch, ended := range map[hooks.Epoch]time.Duration{100: 48 * time.Hour, 101: -25 * time.Hour} {
					if err := history.Remember(t.Context(), hooks.PastFreeze{
						Epoch: epoch, Application: "app", Ended: time.Now().Add(ended), Frozen: 10 * time.Second,
					}); err != nil {
						t.Fatal(err)
					}
				}
				g := limited(t, &hookstest.Process{}, "app", journal, hooks.GroupOptions{MinGap: 24 * time.Hour, Budget: 10 * time.Second})
				if again, refused := freezeFor(t, g, time.Second); refused {
					t.Errorf("refused for %v", again)
				}
				past, err := history.Past(t.Context(), "app")
				if err != nil || len(past) != 2 {
					t.Errorf("past %+v, error %v: want what is to come and the one of now", past, err)
				}
			})
		})
	}
}

// noHistory is a journal of somebody else.
type noHistory struct{ hooks.Journal }

func TestLimitsAreChecked(t *testing.T) {
	tests := map[string]struct {
		opts hooks.GroupOptions
		ok   bool
	}{
		"none":                 {hooks.GroupOptions{}, true},
		"both":                 {hooks.GroupOptions{MinGap: time.Second, Budget: time.Minute}, true},
		"budget of one window": {hooks.GroupOptions{Budget: hooks.DefaultWindow}, true},
		"small budget":         {hooks.GroupOptions{Budget: hooks.DefaultWindow - 1}, false},
		"large budget":         {hooks.GroupOptions{Budget: time.Hour + 1}, false},
		"negative budget":      {hooks.GroupOptions{Budget: -1}, false},
		"longest gap":          {hooks.GroupOptions{MinGap: 24 * time.Hour}, true},
		"longer gap":           {hooks.GroupOptions{MinGap: 24*time.Hour + 1}, false},
		"negative gap":         {hooks.GroupOptions{MinGap: -1}, false},
		"no history":           {hooks.GroupOptions{MinGap: 1, Journal: noHistory{hooks.NewMemJournal()}}, false},
		"no history, no limit": {hooks.GroupOptions{Journal: noHistory{hooks.NewMemJournal()}}, true},
	}
	for name, test := range tests {
		if _, err := hooks.NewGroup("app", nil, &test.opts); (err == nil) != test.ok {
			t.Errorf("%s: error %v, want ok %t", name, err, test.ok)
		}
	}
}

// TestDamagedHistory refuses to freeze rather than to count too little.
func TestDamagedHistory(t *testing.T) {
	dir := t.TempDir()
	journal, err := hooks.OpenDirJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", `{"version":2}`, `{"version":1,"application":"app","ended":"2026-01-01T00:00:00Z","frozen":"x"}`} {
		if err := os.WriteFile(filepath.Join(dir, "past-00000000000000000007"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Past(t.Context(), "app"); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

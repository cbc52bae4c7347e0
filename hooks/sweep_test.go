// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// TestFaultSweep fails every call of every member in every way, for groups of
// one to three members of either kind, and checks the world afterwards.
func TestFaultSweep(t *testing.T) {
	runs := 0
	for n := 1; n <= 3; n++ {
		for kinds := range 1 << n { // bit i: member i is a session
			for victim := range n {
				for _, op := range hookstest.Ops() {
					for _, kind := range hookstest.Kinds() {
						for _, nth := range []int{1, 2} {
							for _, selfThaw := range []bool{false, true} {
								s := sweep{n, kinds, victim, hookstest.Fault{Op: op, Kind: kind, Nth: nth}, selfThaw}
								synctest.Test(t, s.run)
								runs++
								if t.Failed() {
									t.Fatalf("that was %+v", s)
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

type sweep struct {
	members, kinds, victim int
	fault                  hookstest.Fault
	selfThaw               bool
}

// quietTB lets a recorder record without a verdict of its own.
type quietTB struct{ testing.TB }

func (quietTB) Cleanup(func()) {}

// group is the view of one process on the targets and the journal.
func (s sweep) group(t *testing.T, p *hookstest.Process, targets []*hookstest.Target, journal hooks.Journal, faulty bool) (*hooks.Group, *hookstest.Recorder) {
	rec := hookstest.NewRecorder(quietTB{t})
	var members []hooks.Member
	for i, target := range targets {
		opts := &hookstest.ScriptedOptions{Process: p, SelfThaw: s.selfThaw}
		if s.kinds&(1<<i) != 0 {
			opts.Traits.Release = hooks.Session
		}
		if faulty && i == s.victim {
			opts.Faults = []hookstest.Fault{s.fault}
		}
		name := string(rune('a' + i))
		members = append(members, hooks.Member{Name: name, Quiescer: rec.Wrap(name, hookstest.Scripted(target, opts))})
	}
	g, err := hooks.NewGroup("app", members, &hooks.GroupOptions{Journal: p.Journal(journal)})
	if err != nil {
		t.Fatal(err)
	}
	return g, rec
}

func (s sweep) run(t *testing.T) {
	targets := make([]*hookstest.Target, s.members)
	for i := range targets {
		targets[i] = &hookstest.Target{}
	}
	journal, process := hooks.NewMemJournal(), &hookstest.Process{}
	g, rec := s.group(t, process, targets, journal, true)

	// Two freezes, so that the second call of an op comes too.
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_ = g.Prepare(ctx)
		cancel()
		gap := true
		report, err := g.Do(t.Context(), "id", func(context.Context) error {
			before := numbers(targets)
			<-time.After(time.Second)
			gap = slices.Contains(before, 0) || !slices.Equal(before, numbers(targets))
			return nil
		})
		if err != nil && report != nil && report.Proven() {
			t.Errorf("proven although Do failed: %v", err)
		}
		if report != nil && report.Proven() && gap {
			t.Error("proven although a target was not frozen during the cut")
		}
		if err == nil && !process.Dead() && slices.Max(numbers(targets)) > 0 {
			t.Error("Do succeeded and left a target frozen")
		}
		s.checkOrder(t, rec.Log())
		<-time.After(2 * time.Minute) // whatever is late arrives
	}

	if process.Dead() {
		process = &hookstest.Process{}
		g, _ = s.group(t, process, targets, journal, false)
	}
	if err := g.Recover(t.Context()); err != nil {
		t.Errorf("Recover: %v", err)
	}
	for i, number := range numbers(targets) {
		if number != 0 {
			t.Errorf("target %c is frozen after Recover; the log is:\n%s", 'a'+i, rec.Log())
		}
	}
	if intents, err := journal.Pending(t.Context()); err != nil || len(intents) > 0 {
		t.Errorf("pending after Recover: %v, error %v", intents, err)
	}
	if report, err := g.Do(t.Context(), "id", func(context.Context) error { return nil }); err != nil || !report.Proven() {
		t.Errorf("a freeze after Recover: error %v", err)
	}
}

func numbers(targets []*hookstest.Target) []int {
	var ns []int
	for _, target := range targets {
		ns = append(ns, target.Freeze())
	}
	return ns
}

// checkOrder checks that thaws come in the reverse order of freezes.
func (s sweep) checkOrder(t *testing.T, log string) {
	if s.fault.Kind == hookstest.Late {
		return // what is late is out of order
	}
	var stack []string
	for line := range strings.Lines(log) {
		name, event, _ := strings.Cut(strings.TrimSpace(line), " ")
		op, failure, _ := strings.Cut(event, ":")
		switch op {
		case "quiesce":
			if failure == "" {
				stack = append(stack, name)
			}
		case "thaw":
			// A repeated thaw belongs to the one that was popped last.
			if len(stack) > 0 && stack[len(stack)-1] == name {
				stack = stack[:len(stack)-1]
			} else if slices.Contains(stack, name) {
				t.Errorf("%s thawed before its turn; the log is:\n%s", name, log)
			}
		}
	}
	if len(stack) > 0 {
		t.Errorf("%s were never thawed; the log is:\n%s", fmt.Sprint(stack), log)
	}
}

// TestRecoverAfterCrash starts a new group on the journal of a dead one.
func TestRecoverAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journal := hooks.NewMemJournal()
		target := &hookstest.Target{}
		process := &hookstest.Process{}
		member := func(p *hookstest.Process, name string) []hooks.Member {
			return []hooks.Member{{Name: name, Quiescer: hookstest.Scripted(target, &hookstest.ScriptedOptions{Process: p})}}
		}
		dead, err := hooks.NewGroup("app", member(process, "db"), &hooks.GroupOptions{Journal: process.Journal(journal)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = dead.Do(t.Context(), "id", func(context.Context) error {
			process.Kill()
			return nil
		})
		if err == nil || target.Freeze() == 0 {
			t.Fatalf("error %v, freeze %d: the kill did not work", err, target.Freeze())
		}

		// Another application's groups leave it alone.
		other, err := hooks.NewGroup("other", member(nil, "db"), &hooks.GroupOptions{Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Recover(t.Context()); err != nil || target.Freeze() == 0 {
			t.Errorf("Recover of another application: error %v, freeze %d", err, target.Freeze())
		}
		// A group that lost the member says so, and keeps the intent.
		renamed, err := hooks.NewGroup("app", member(nil, "database"), &hooks.GroupOptions{Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		if err := renamed.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), `"db"`) {
			t.Errorf("Recover without the member: error %v", err)
		}
		if _, err := renamed.Do(t.Context(), "id", func(context.Context) error { return nil }); err == nil {
			t.Error("Do froze although an earlier freeze is not recovered")
		}

		// The next process thaws before it freezes, also without Recover.
		next, err := hooks.NewGroup("app", member(nil, "db"), &hooks.GroupOptions{Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		report, err := next.Do(t.Context(), "id", func(context.Context) error { return nil })
		if err != nil || !report.Proven() || report.Epoch != 2 {
			t.Errorf("Do of the next process: report %+v, error %v", report, err)
		}
		if target.Freeze() != 0 {
			t.Error("the target is frozen")
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// rig is a group of scripted members a, b, c with their targets.
type rig struct {
	*hooks.Group
	rec     *hookstest.Recorder
	targets []*hookstest.Target
	journal *hooks.MemJournal
}

var session = hooks.Traits{Release: hooks.Session, Scope: hooks.Application}

// newRig builds a group with one member for each script.
func newRig(t *testing.T, scripts ...hookstest.ScriptedOptions) *rig {
	t.Helper()
	return newRigOn(t, hooks.NewMemJournal(), scripts...)
}

func newRigOn(t *testing.T, journal *hooks.MemJournal, scripts ...hookstest.ScriptedOptions) *rig {
	t.Helper()
	r := &rig{rec: hookstest.NewRecorder(t), journal: journal}
	var members []hooks.Member
	for i, script := range scripts {
		name := string(rune('a' + i))
		r.targets = append(r.targets, &hookstest.Target{})
		members = append(members, hooks.Member{Name: name, Quiescer: r.rec.Wrap(name, hookstest.Scripted(r.targets[i], &script))})
	}
	g, err := hooks.NewGroup("app", members, &hooks.GroupOptions{Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	r.Group = g
	return r
}

// cut is a cut that is logged and checks that everything is frozen.
func (r *rig) cut(t *testing.T) func(context.Context) error {
	return func(ctx context.Context) error {
		r.rec.Event("cut")
		r.frozen(t, true)
		return ctx.Err()
	}
}

func (r *rig) frozen(t *testing.T, want bool) {
	t.Helper()
	for i, target := range r.targets {
		if got, _ := target.Frozen(t.Context()); got != want {
			t.Errorf("target %c is frozen: %t, want %t; the log is:\n%s", 'a'+i, got, want, r.rec.Log())
		}
	}
}

// pending checks how many intents are left.
func (r *rig) pending(t *testing.T, want int) {
	t.Helper()
	intents, err := r.journal.Pending(context.WithoutCancel(t.Context()))
	if err != nil || len(intents) != want {
		t.Errorf("%d intents are pending (error %v), want %d", len(intents), err, want)
	}
}

// log checks the log of the recorder.
func (r *rig) log(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", r.rec.Log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t,
			hookstest.ScriptedOptions{Traits: session, Evidence: hooks.Evidence{"label": []byte("x")}},
			hookstest.ScriptedOptions{}, hookstest.ScriptedOptions{})
		for range 2 {
			report, err := r.Do(t.Context(), "id", func(ctx context.Context) error {
				deadline, ok := ctx.Deadline()
				if left := time.Until(deadline); !ok || left != 9*time.Second {
					t.Errorf("the cut has %v left, want 9 s: the window less its margin", left)
				}
				<-time.After(3 * time.Second)
				return r.cut(t)(ctx)
			})
			if err != nil {
				t.Fatal(err)
			}
			if !report.Proven() || len(report.Doubts()) > 0 || report.Overrun() {
				t.Errorf("not proven: %q", report.Doubts())
			}
			if report.Frozen != 3*time.Second || report.Cut != 3*time.Second || report.Window != hooks.DefaultWindow {
				t.Errorf("frozen for %v, cut in %v, window %v", report.Frozen, report.Cut, report.Window)
			}
			if diff := cmp.Diff(map[string]hooks.Evidence{"a": {"label": []byte("x")}}, report.Evidence); diff != "" {
				t.Errorf("evidence (-want +got):\n%s", diff)
			}
			want := []hooks.MemberReport{
				{Name: "a", Traits: session, Hold: 3 * time.Second, Proven: true},
				{Name: "b", Rank: 1, Hold: 3 * time.Second, Proven: true},
				{Name: "c", Rank: 2, Hold: 3 * time.Second, Proven: true},
			}
			if diff := cmp.Diff(want, report.Members); diff != "" {
				t.Errorf("members (-want +got):\n%s", diff)
			}
			r.frozen(t, false)
			r.pending(t, 0)
		}
		once := []string{
			"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held", "c held", "c thaw", "b thaw", "a thaw",
		}
		r.log(t, append(once, once...)...)
	})
}

func TestDoWithoutMembers(t *testing.T) {
	g, err := hooks.NewGroup("app", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); ok {
			t.Error("the cut has a deadline although nothing is frozen")
		}
		return nil
	})
	if err != nil || report.Proven() || report.Overrun() {
		t.Errorf("report %+v, error %v: want no error and no proof", report, err)
	}
	if _, err = g.Do(t.Context(), "id", func(context.Context) error { panic("boom") }); err == nil {
		t.Error("a panic in the cut is no error")
	}
}

// TestCutFails covers what a cut can do wrong. All of it thaws.
func TestCutFails(t *testing.T) {
	errCut := errors.New("cut failed")
	tests := []struct {
		name   string
		cut    func(ctx context.Context, cancel context.CancelFunc) error
		want   error
		frozen time.Duration
	}{
		{"error", func(context.Context, context.CancelFunc) error { return errCut }, errCut, 0},
		{"panic", func(context.Context, context.CancelFunc) error { panic(errCut) }, errCut, 0},
		{"cancelled", func(ctx context.Context, cancel context.CancelFunc) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}, context.Canceled, 0},
		{"ignores cancel", func(_ context.Context, cancel context.CancelFunc) error {
			cancel()
			<-time.After(5 * time.Second)
			return nil
		}, context.Canceled, time.Second},
		{"deadline", func(ctx context.Context, _ context.CancelFunc) error {
			<-ctx.Done()
			return errCut
		}, hooks.ErrWindowExceeded, 9 * time.Second},
		{"ignores deadline", func(context.Context, context.CancelFunc) error {
			<-time.After(15 * time.Second)
			return nil
		}, hooks.ErrWindowExceeded, 10 * time.Second},
		{"never returns", func(context.Context, context.CancelFunc) error {
			<-time.After(time.Hour)
			return nil
		}, hooks.ErrWindowExceeded, 10 * time.Second},
		{"goexit", func(context.Context, context.CancelFunc) error {
			runtime.Goexit()
			return nil
		}, nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, hookstest.ScriptedOptions{Traits: session}, hookstest.ScriptedOptions{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				report, err := r.Do(ctx, "id", func(ctx context.Context) error { return test.cut(ctx, cancel) })
				if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
					t.Errorf("error %v, want one that wraps %v", err, test.want)
				}
				if report.Frozen != test.frozen {
					t.Errorf("frozen for %v, want %v", report.Frozen, test.frozen)
				}
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("Do took %v", took)
				}
				if report.Proven() || len(report.Doubts()) == 0 {
					t.Error("a failed cut is proven")
				}
				r.frozen(t, false)
				r.pending(t, 0)
				r.log(t, "a quiesce", "b quiesce", "b thaw", "a thaw")
				<-time.After(time.Hour) // the goroutine of the cut ends when the cut does
			})
		})
	}
}

func TestPanicErrorHasStack(t *testing.T) {
	r := newRig(t, hookstest.ScriptedOptions{Traits: session})
	_, err := r.Do(t.Context(), "id", func(context.Context) error { panic("b\x00om") })
	pe, ok := errors.AsType[*hooks.PanicError](err)
	if !ok {
		t.Fatalf("error %v is no PanicError", err)
	}
	if pe.Value != "b\x00om" || !strings.Contains(string(pe.Stack), "TestPanicErrorHasStack") {
		t.Errorf("value %q, stack:\n%s", pe.Value, pe.Stack)
	}
	if strings.Contains(err.Error(), "\x00") {
		t.Errorf("error %q is not quoted", err)
	}
}

func TestOneFreezeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, hookstest.ScriptedOptions{}, hookstest.ScriptedOptions{Traits: session})
		for range 4 {
			go func() {
				if _, err := r.Do(t.Context(), "id", func(context.Context) error {
					<-time.After(5 * time.Second)
					return nil
				}); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Do(ctx, "id", r.cut(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do behind others: error %v, want the one of its context", err)
		}
		<-time.After(20 * time.Second)
		synctest.Wait()
		r.pending(t, 0)
	})
}

func TestPrepare(t *testing.T) {
	r := newRig(t, hookstest.ScriptedOptions{},
		hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: hookstest.Prepare, Kind: hookstest.ErrorBefore}}},
		hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: hookstest.Prepare, Kind: hookstest.PanicBefore}}})
	err := r.Prepare(t.Context())
	if !errors.Is(err, hookstest.ErrInjected) || !strings.Contains(err.Error(), `prepare "b"`) || !strings.Contains(err.Error(), `prepare "c"`) {
		t.Errorf("error %v, want those of b and c by name", err)
	}
	r.log(t, "a prepare", "b prepare: hookstest: injected fault: prepare error-before", "c prepare: panic")
}

func TestNewGroupRefuses(t *testing.T) {
	persistent := hookstest.Scripted(&hookstest.Target{}, nil)
	held := hookstest.Scripted(&hookstest.Target{}, &hookstest.ScriptedOptions{Traits: session})
	type bare struct{ hooks.Quiescer }
	journal := hooks.NewMemJournal()
	tests := []struct {
		name    string
		app     string
		members []hooks.Member
		opts    *hooks.GroupOptions
		ok      bool
	}{
		{"fine", "app", []hooks.Member{{Name: "a", Quiescer: held}}, nil, true},
		{"longest window", "app", []hooks.Member{{Name: "a", Quiescer: held}}, &hooks.GroupOptions{Window: hooks.MaxWindow}, true},
		{"window above the cap", "app", []hooks.Member{{Name: "a", Quiescer: held}}, &hooks.GroupOptions{Window: hooks.MaxWindow + 1}, false},
		{"negative window", "app", nil, &hooks.GroupOptions{Window: -1}, false},
		{"negative thaw timeout", "app", nil, &hooks.GroupOptions{ThawTimeout: -1}, false},
		{"no name", "", nil, nil, false},
		{"unprintable name", "a\nb", nil, nil, false},
		{"persistent without a journal", "app", []hooks.Member{{Name: "a", Quiescer: persistent}}, nil, false},
		{"persistent with a journal", "app", []hooks.Member{{Name: "a", Quiescer: persistent}}, &hooks.GroupOptions{Journal: journal}, true},
		{"persistent without recovery", "app", []hooks.Member{{Name: "a", Quiescer: bare{persistent}}}, &hooks.GroupOptions{Journal: journal}, false},
		{"twice", "app", []hooks.Member{{Name: "a", Quiescer: held}, {Name: "a", Quiescer: held}}, nil, false},
		{"no quiescer", "app", []hooks.Member{{Name: "a", Quiescer: nil}}, nil, false},
		{"member without a name", "app", []hooks.Member{{Name: "", Quiescer: held}}, nil, false},
		{"member with a path", "app", []hooks.Member{{Name: "a/b", Quiescer: held}}, nil, false},
		{"member with a dot", "app", []hooks.Member{{Name: ".a", Quiescer: held}}, nil, false},
		{"too many", "app", make([]hooks.Member, hooks.MaxMembers+1), nil, false},
	}
	for _, test := range tests {
		if _, err := hooks.NewGroup(test.app, test.members, test.opts); (err == nil) != test.ok {
			t.Errorf("%s: error %v, want ok %t", test.name, err, test.ok)
		}
	}
}

// TestRehearse prepares, freezes, proves and thaws, and measures it.
func TestRehearse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := hookstest.ScriptedOptions{Faults: []hookstest.Fault{
			{Op: hookstest.Quiesce, Kind: hookstest.Late, Delay: time.Second}, {Op: hookstest.Thaw, Kind: hookstest.Late, Delay: 2 * time.Second},
		}}
		r := newRig(t, hookstest.ScriptedOptions{Traits: session}, slow)
		report, err := r.Rehearse(t.Context())
		if err != nil || !report.Proven() {
			t.Fatalf("error %v, doubts %q", err, report.Doubts())
		}
		if report.Quiesce != time.Second || report.Thaw != 2*time.Second || report.Frozen != 3*time.Second {
			t.Errorf("quiesce %v, thaw %v, frozen %v", report.Quiesce, report.Thaw, report.Frozen)
		}
		r.frozen(t, false)
		r.pending(t, 0)
		r.log(t, "a prepare", "b prepare", "a quiesce", "b quiesce", "a held", "b held", "b thaw", "a thaw")

		r = newRig(t, hookstest.ScriptedOptions{}, hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: hookstest.Prepare, Kind: hookstest.ErrorBefore}}})
		if report, err := r.Rehearse(t.Context()); !errors.Is(err, hookstest.ErrInjected) || report != nil {
			t.Errorf("a member that cannot prepare: report %+v, error %v", report, err)
		}
		r.log(t, "a prepare", "b prepare: hookstest: injected fault: prepare error-before")
	})
}

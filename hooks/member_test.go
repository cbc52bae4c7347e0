// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// TestMemberFails covers what a member can do wrong, and what it does to the
// error, the proof and the intent.
func TestMemberFails(t *testing.T) {
	fault := func(op hookstest.Op, kind hookstest.Kind, nth int) hookstest.ScriptedOptions {
		return hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: op, Kind: kind, Nth: nth}}}
	}
	tests := []struct {
		name    string
		b       hookstest.ScriptedOptions
		want    error // of Do
		proven  bool
		pending int
		log     []string
	}{
		{
			"quiesce fails", fault(hookstest.Quiesce, hookstest.ErrorBefore, 1), hookstest.ErrInjected, false, 0,
			[]string{"a quiesce", "b quiesce: hookstest: injected fault: quiesce error-before", "b recover", "a thaw"},
		},
		{
			"quiesce loses its reply", fault(hookstest.Quiesce, hookstest.ErrorAfter, 1), hookstest.ErrInjected, false, 0,
			[]string{"a quiesce", "b quiesce: hookstest: injected fault: quiesce error-after", "b recover", "a thaw"},
		},
		{
			"quiesce hangs", fault(hookstest.Quiesce, hookstest.HangAfter, 1), hooks.ErrWindowExceeded, false, 0,
			[]string{"a quiesce", "b quiesce: context deadline exceeded", "b recover", "a thaw"},
		},
		{
			"quiesce panics", fault(hookstest.Quiesce, hookstest.PanicAfter, 1), nil, false, 0,
			[]string{"a quiesce", "b quiesce: panic", "b recover", "a thaw"},
		},
		{
			"held fails", fault(hookstest.Held, hookstest.ErrorBefore, 1), nil, false, 0,
			[]string{"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held: hookstest: injected fault: held error-before", "c held", "c thaw", "b thaw", "a thaw"},
		},
		{
			"held hangs", fault(hookstest.Held, hookstest.HangBefore, 1), nil, false, 0,
			[]string{
				"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held: context deadline exceeded",
				"c held: context deadline exceeded", "c thaw", "b thaw", "a thaw",
			},
		},
		{
			"hold is lost", fault(hookstest.Held, hookstest.Lose, 1), nil, false, 0,
			[]string{
				"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held: hookstest: target: hooks: the freeze did not hold",
				"c held", "c thaw", "b thaw: hookstest: target: hooks: the freeze did not hold", "a thaw",
			},
		},
		{
			"thaw fails once", fault(hookstest.Thaw, hookstest.ErrorBefore, 1), nil, true, 0,
			[]string{
				"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held", "c held",
				"c thaw", "b thaw: hookstest: injected fault: thaw error-before", "b thaw", "a thaw",
			},
		},
		{
			"thaw loses its reply", fault(hookstest.Thaw, hookstest.ErrorAfter, 1), nil, false, 0,
			[]string{
				"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held", "c held",
				"c thaw", "b thaw: hookstest: injected fault: thaw error-after", "b thaw: hookstest: target: hooks: the freeze did not hold", "a thaw",
			},
		},
		{
			"thaw panics once", fault(hookstest.Thaw, hookstest.PanicBefore, 1), nil, true, 0,
			[]string{"a quiesce", "b quiesce", "c quiesce", "cut", "a held", "b held", "c held", "c thaw", "b thaw: panic", "b thaw", "a thaw"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, hookstest.ScriptedOptions{Traits: session}, test.b, hookstest.ScriptedOptions{})
				report, err := r.Do(t.Context(), "id", r.cut(t))
				if !errors.Is(err, test.want) && !(test.want == nil && report.Cut == 0 && err != nil) {
					// A panic has no sentinel, but then there is no cut.
					if _, ok := errors.AsType[*hooks.PanicError](err); !ok {
						t.Errorf("error %v, want %v", err, test.want)
					}
				}
				if report.Proven() != test.proven {
					t.Errorf("proven: %t, want %t: %q", report.Proven(), test.proven, report.Doubts())
				}
				for _, m := range report.Members {
					if m.Proven && (m.Lost != "" || m.Err != "") {
						t.Errorf("a proven member is in doubt: %+v", m)
					}
				}
				r.frozen(t, false)
				r.pending(t, test.pending)
				r.log(t, test.log...)
			})
		})
	}
}

// TestOverrun is a thaw that takes too long after a cut that succeeded: no
// error, but no proof either.
func TestOverrun(t *testing.T) {
	for delay, proven := range map[time.Duration]bool{5 * time.Second: true, 6 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: hookstest.Thaw, Kind: hookstest.Late, Delay: delay}}})
			report, err := r.Do(t.Context(), "id", func(context.Context) error {
				<-time.After(5 * time.Second)
				return nil
			})
			if err != nil || report.Proven() != proven || report.Overrun() == proven {
				t.Errorf("frozen for %v: error %v, doubts %q, want proven %t", report.Frozen, err, report.Doubts(), proven)
			}
			r.pending(t, 0)
		})
	}
}

// TestThawNeverWorks shows that the others thaw, that the error says so, and
// that the intent lets the next start recover.
func TestThawNeverWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, hookstest.ScriptedOptions{Traits: session},
			hookstest.ScriptedOptions{Faults: []hookstest.Fault{{Op: hookstest.Thaw, Kind: hookstest.ErrorBefore}}})
		errCut := errors.New("cut failed")
		report, err := r.Do(t.Context(), "id", func(context.Context) error { return errCut })
		if !errors.Is(err, errCut) || !errors.Is(err, hookstest.ErrInjected) || report.Proven() {
			t.Errorf("error %v, want the one of the cut and the one of the thaw", err)
		}
		if !strings.HasPrefix(err.Error(), "hooks: cut: cut failed") {
			t.Errorf("error %q does not begin with the primary error", err)
		}
		if frozen, _ := r.targets[0].Frozen(t.Context()); frozen {
			t.Error("a is frozen since the thaw of b failed")
		}
		if frozen, _ := r.targets[1].Frozen(t.Context()); !frozen {
			t.Fatal("b is not frozen: the script did not work")
		}
		if report.Frozen < 9*time.Second || report.Frozen > 11*time.Second {
			t.Errorf("frozen for %v, want about the thaw timeout of 10 s", report.Frozen)
		}
		r.pending(t, 1)
		if err := r.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.frozen(t, false)
		r.pending(t, 0)
	})
}

// finalThaw is a hold whose thaw failed for good.
type finalThaw struct{ calls int }

func (f *finalThaw) Traits() hooks.Traits { return session }
func (f *finalThaw) Quiesce(context.Context, hooks.FreezeRequest) (hooks.Hold, error) {
	return f, nil
}
func (f *finalThaw) Held(context.Context) error { return nil }
func (f *finalThaw) Thaw(context.Context) (hooks.Evidence, error) {
	f.calls++
	return nil, fmt.Errorf("exit status 3: %w", hooks.ErrThawFailed)
}

func TestThawThatFailsForGoodIsNotRepeated(t *testing.T) {
	f := &finalThaw{}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "a", Quiescer: f}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := g.Do(t.Context(), "id", func(context.Context) error { return nil })
	if !errors.Is(err, hooks.ErrThawFailed) || f.calls != 1 || report.Proven() {
		t.Errorf("error %v after %d calls, want ErrThawFailed after one", err, f.calls)
	}
}

// TestLateHold is a quiesce that ignores its deadline and freezes after all.
func TestLateHold(t *testing.T) {
	for _, traits := range []hooks.Traits{session, {}} {
		for _, delay := range []time.Duration{12 * time.Second, time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, hookstest.ScriptedOptions{Traits: session}, hookstest.ScriptedOptions{
					Traits: traits, Faults: []hookstest.Fault{{Op: hookstest.Quiesce, Kind: hookstest.Late, Nth: 1, Delay: delay}},
				})
				began := time.Now()
				report, err := r.Do(t.Context(), "id", r.cut(t))
				if !errors.Is(err, hooks.ErrWindowExceeded) || report.Proven() {
					t.Errorf("error %v, want ErrWindowExceeded", err)
				}
				if report.Frozen > report.Window {
					t.Errorf("a was frozen for %v, longer than the window", report.Frozen)
				}
				if took := time.Since(began); took > 21*time.Second {
					t.Errorf("Do took %v", took)
				}
				r.frozen(t, false)
				if delay == time.Hour {
					r.pending(t, 1)
					// The group does not start a second freeze next to it.
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					if _, err := r.Do(ctx, "id", r.cut(t)); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Do while a quiesce is under way: error %v", err)
					}
					cancel()
					if err := r.Recover(t.Context()); err == nil {
						t.Error("Recover ends an intent whose quiesce is still under way")
					}
				}
				if _, err := r.Do(t.Context(), "id", r.cut(t)); err != nil { // waits for it
					t.Errorf("the next Do: %v", err)
				}
				r.frozen(t, false)
				r.pending(t, 0)
			})
		}
	}
}

// TestCancelAtEachPhase cancels the caller's context before and while each
// member quiesces.
func TestCancelAtEachPhase(t *testing.T) {
	for i := range 3 {
		for _, kind := range []hookstest.Kind{hookstest.HangBefore, hookstest.HangAfter} {
			t.Run(fmt.Sprintf("%c/%s", 'a'+i, kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					scripts := make([]hookstest.ScriptedOptions, 3)
					scripts[i].Faults = []hookstest.Fault{{Op: hookstest.Quiesce, Kind: kind}}
					r := newRig(t, scripts...)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					report, err := r.Do(ctx, "id", r.cut(t))
					if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, hooks.ErrWindowExceeded) {
						t.Errorf("error %v, want the one of the context and not the window", err)
					}
					if report.Frozen != time.Second {
						t.Errorf("frozen for %v, want 1 s", report.Frozen)
					}
					r.frozen(t, false)
					r.pending(t, 0)
				})
			})
		}
	}
}

func TestCancelledBeforeDo(t *testing.T) {
	r := newRig(t, hookstest.ScriptedOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Do(ctx, "id", r.cut(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if log := r.rec.Log(); log != "" {
		t.Errorf("log:\n%s", log)
	}
}

func TestForeignFreezeIsLeftAlone(t *testing.T) {
	r := newRig(t, hookstest.ScriptedOptions{}, hookstest.ScriptedOptions{})
	foreign := hookstest.Scripted(r.targets[1], nil)
	if _, err := foreign.Quiesce(t.Context(), hooks.FreezeRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := r.Do(t.Context(), "id", r.cut(t))
	if !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("error %v", err)
	}
	if frozen, _ := r.targets[1].Frozen(t.Context()); !frozen {
		t.Error("somebody else's freeze was thawed")
	}
	r.pending(t, 0)
}

func TestEvidenceLimit(t *testing.T) {
	for _, size := range []int{hooks.MaxEvidence - 2, hooks.MaxEvidence - 1} {
		r := newRig(t,
			hookstest.ScriptedOptions{Evidence: hooks.Evidence{"k": make([]byte, size-100)}},
			hookstest.ScriptedOptions{Evidence: hooks.Evidence{"k": make([]byte, 100)}})
		_, err := r.Do(t.Context(), "id", r.cut(t))
		if over := size > hooks.MaxEvidence-2; (err != nil) != over {
			t.Errorf("evidence of %d bytes: error %v", size+2, err)
		}
		r.frozen(t, false)
		r.pending(t, 0)
	}
}

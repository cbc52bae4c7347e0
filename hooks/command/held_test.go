// SPDX-License-Identifier: Apache-2.0

//go:build unix

package command_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

func newHeld(t *testing.T, l lockFile, mode string) *command.Quiescer {
	t.Helper()
	opts := &command.Options{Env: quick, Grace: 10 * time.Second} // of a slow machine
	if mode == "stubborn" || mode == "mute" {
		opts.Grace = 200 * time.Millisecond
	}
	q, err := command.New([]string{executable(t), "held", mode, string(l)}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestHeldConformance(t *testing.T) {
	hookstest.Run(t, func(t *testing.T) hookstest.Harness {
		l := newLockFile(t)
		q, err := command.New([]string{executable(t), "held", "good", string(l)}, &command.Options{Env: quick})
		if err != nil {
			t.Fatal(err)
		}
		return hookstest.Harness{Quiescer: q, Frozen: l.frozen, SelfThaws: true}
	})
}

// TestHeld runs programs that behave, and others, through a whole freeze.
func TestHeld(t *testing.T) {
	tests := []struct {
		mode              string
		quiesceErr        string // part of the error of Quiesce
		heldErr, thawErr  error
		evidence, thawMsg string
	}{
		{mode: "good", evidence: "position 42\n"},
		{mode: "no-ready", quiesceErr: `exit status 4, stderr "bo\x1bom"`},
		{mode: "early", heldErr: hooks.ErrHoldLost, thawErr: hooks.ErrHoldLost},
		{mode: "closes", heldErr: hooks.ErrHoldLost, thawErr: hooks.ErrHoldLost},
		{mode: "exit3", thawErr: hooks.ErrThawFailed, thawMsg: `exit status 3, stderr "cannot thaw"`},
		{mode: "stubborn", thawErr: hooks.ErrHoldLost, thawMsg: "was killed"},
		{mode: "mute", quiesceErr: context.DeadlineExceeded.Error()},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			t.Parallel()
			l := newLockFile(t)
			q := newHeld(t, l, test.mode)
			limit := 20 * time.Second
			if test.mode == "mute" {
				limit = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			hold, err := q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 7, Window: time.Minute})
			if test.quiesceErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.quiesceErr) {
					t.Errorf("Quiesce: error %v, want %q", err, test.quiesceErr)
				}
				thawedWithin(t, l.frozen, 0)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			err = hold.Held(t.Context())
			for test.heldErr != nil && err == nil && ctx.Err() == nil { // it takes a moment to end
				<-time.After(time.Millisecond)
				err = hold.Held(t.Context())
			}
			if !errors.Is(err, test.heldErr) {
				t.Errorf("Held: error %v, want %v", err, test.heldErr)
			}
			for range 2 {
				evidence, err := hold.Thaw(t.Context())
				if !errors.Is(err, test.thawErr) || (err != nil && !strings.Contains(err.Error(), test.thawMsg)) {
					t.Errorf("Thaw: error %v, want %v", err, test.thawErr)
				}
				if got := string(evidence["stdout"]); err == nil && got != "" && got != test.evidence {
					t.Errorf("evidence %q, want %q", got, test.evidence)
				}
				thawedWithin(t, l.frozen, time.Second)
			}
		})
	}
}

func TestHeldEvidence(t *testing.T) {
	l := newLockFile(t)
	do := func(mode string) (*hooks.Report, error) {
		g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newHeld(t, l, mode)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g.Do(t.Context(), "id", func(context.Context) error { return nil })
	}
	report, err := do("good")
	if err != nil || string(report.Evidence["db"]["stdout"]) != "position 42\n" {
		t.Errorf("evidence %q, error %v", report.Evidence, err)
	}
	if _, err = do("big"); err == nil || !strings.Contains(err.Error(), "evidence") {
		t.Errorf("more than MaxEvidence: error %v", err)
	}
}

// TestEnvironment shows that nothing of ours leaks into the program.
func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET", "hunter2")
	for _, env := range [][]string{nil, {"A=b", "PROTECT_EPOCH=fake"}} {
		q, err := command.New([]string{executable(t), "held", "env", string(newLockFile(t))}, &command.Options{Env: env})
		if err != nil {
			t.Fatal(err)
		}
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: 9500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		evidence, err := hold.Thaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Split(string(evidence["stdout"]), "\n")
		want := []string{"PROTECT_EPOCH=7", "PROTECT_WINDOW=9.5s", "PROTECT_WINDOW_SECONDS=10"}
		if env == nil {
			want = append(want, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		} else {
			want = append(want, "A=b")
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("environment %q, want %q", got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	tests := map[string]struct {
		argv []string
		opts *command.Options
	}{
		"no program":      {nil, nil},
		"empty program":   {[]string{""}, nil},
		"missing program": {[]string{"no-such-program-here"}, nil},
		"bad environment": {[]string{"true"}, &command.Options{Env: []string{"secret-without-key"}}},
		"negative grace":  {[]string{"true"}, &command.Options{Grace: -1}},
	}
	for name, test := range tests {
		if _, err := command.New(test.argv, test.opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := command.New([]string{"/no/such/program"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing program: error %v, want fs.ErrNotExist", err)
	}
}

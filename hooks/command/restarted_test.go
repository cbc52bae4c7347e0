// SPDX-License-Identifier: Apache-2.0

//go:build unix

package command_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
)

// TestPairTargetRestarts restarts the target of a pair during the cut: it runs
// again, and the watchdog knows nothing of that.
func TestPairTargetRestarts(t *testing.T) {
	tests := map[string]struct {
		restart, ask bool
		doubt        string // empty: proven
	}{
		"asked":                {false, true, ""},
		"restarted":            {true, true, "it runs"},
		"nobody asks":          {false, false, "nobody asks the target"},
		"restarted, not asked": {true, false, "nobody asks the target"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, exe := newFlagFile(t), executable(t)
			opts := pairOptions(exe, "good", string(f))
			if !test.ask {
				opts.Held = nil
			}
			q, err := command.NewPair([]string{exe, "freeze", "good", string(f)}, []string{exe, "thaw", "good", string(f)}, opts)
			if err != nil {
				t.Fatal(err)
			}
			g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: q}}, &hooks.GroupOptions{Journal: hooks.NewMemJournal()})
			if err != nil {
				t.Fatal(err)
			}
			report, err := g.Do(t.Context(), "id", func(context.Context) error {
				if test.restart {
					return os.Remove(string(f))
				}
				return nil
			})
			doubts := strings.Join(report.Doubts(), "; ")
			if err != nil || report.Proven() != (test.doubt == "") || !strings.Contains(doubts, test.doubt) {
				t.Errorf("error %v, doubts %q, want %q", err, doubts, test.doubt)
			}
		})
	}
}

// TestPairWithoutHeldProgram names the program that is missing.
func TestPairWithoutHeldProgram(t *testing.T) {
	exe := executable(t)
	opts := pairOptions(exe, "good", string(newFlagFile(t)))
	opts.Held = []string{"/no/such/program"}
	if _, err := command.NewPair([]string{exe}, []string{exe}, opts); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "held program") {
		t.Errorf("error %v, want one of the held program", err)
	}
}

// TestHeldProgramIsReplaced kills the program that holds, and starts another
// one in its place, which freezes as well.
func TestHeldProgramIsReplaced(t *testing.T) {
	l := newLockFile(t)
	q := newHeld(t, l, "good")
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: q}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var second hooks.Hold
	report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
		pids := children(t, os.Getpid(), "held")
		if len(pids) != 1 {
			t.Fatalf("programs %v, want one", pids)
		}
		p, err := os.FindProcess(pids[0])
		if err == nil {
			err = p.Kill()
		}
		if err == nil {
			second, err = q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 2, Window: hooks.DefaultWindow})
		}
		return err
	})
	if second != nil {
		_, err2 := second.Thaw(t.Context())
		err = errors.Join(err, err2)
	}
	if err != nil || report.Proven() || len(report.Doubts()) == 0 {
		t.Errorf("error %v, doubts %q: want a report that proves nothing", err, report.Doubts())
	}
}

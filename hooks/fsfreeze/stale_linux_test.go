// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// stallWatchdog lets a process freeze, stops its watchdog, and kills the
// process: the freeze has nobody who would end it. It returns the watchdog and
// the journal.
func stallWatchdog(t *testing.T, l *lab) (int, *hooks.DirJournal) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	p, lines := startVictim(t, l, dir, "10s", "1h")
	for lines.Scan() && lines.Text() != "frozen" {
	}
	pids := childrenOf(t, strconv.Itoa(p.Pid))
	if len(pids) != 1 {
		t.Fatalf("watchdogs %v, want one", pids)
	}
	stop(t, pids[0])
	t.Cleanup(func() { _ = syscall.Kill(pids[0], syscall.SIGKILL) })
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-time.After(100 * time.Millisecond)
	if frozen, err := l.frozen(t.Context()); err != nil || !frozen {
		t.Fatalf("frozen: %t, error %v", frozen, err)
	}
	journal, err := hooks.OpenDirJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return pids[0], journal
}

func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// stop stops a process and waits until all of its threads have: they are told
// one by one.
func stop(t *testing.T, pid int) {
	t.Helper()
	signal(t, pid, syscall.SIGSTOP)
	for began := time.Now(); ; <-time.After(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		running := slices.ContainsFunc(stats, func(path string) bool {
			text, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
		if len(stats) > 0 && !running {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

// TestStaleWatchdog wakes the watchdog of a process that is long dead: the
// next freeze waits for it, and holds.
func TestStaleWatchdog(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			l := mountLab(t, kind)
			pid, journal := stallWatchdog(t, l)

			// Somebody who does not know that journal leaves it alone.
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := quiescer(t, l).Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Second}); !errors.Is(err, hooks.ErrForeignFreeze) {
				t.Errorf("Quiesce beside the watchdog: error %v, want hooks.ErrForeignFreeze", err)
			}

			g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}}, &hooks.GroupOptions{Journal: journal})
			if err != nil {
				t.Fatal(err)
			}
			woken := make(chan time.Time, 1)
			go func() {
				<-time.After(300 * time.Millisecond)
				woken <- time.Now()
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}()
			report, err := g.Do(t.Context(), "next", func(context.Context) error {
				select {
				case <-woken:
				default:
					t.Error("froze beside a watchdog that may thaw")
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
				<-time.After(500 * time.Millisecond)
				if frozen, err := l.frozen(t.Context()); err != nil || !frozen {
					t.Errorf("frozen during the cut: %t, error %v", frozen, err)
				}
				return nil
			})
			if err != nil || !report.Proven() {
				t.Errorf("error %v, report %+v", err, report)
			}
			l.thawedWithin(t, time.Second)
		})
	}
}

// TestWatchdogNeverWakes thaws without it, and says that it is in the way
// until it is gone.
func TestWatchdogNeverWakes(t *testing.T) {
	l := mountLab(t, "ext4")
	pid, journal := stallWatchdog(t, l)
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}},
		&hooks.GroupOptions{Journal: journal, ThawTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Recover(t.Context()); err == nil {
		t.Error("recovered although the watchdog may act yet")
	}
	l.thawedWithin(t, time.Second)
	signal(t, pid, syscall.SIGKILL)
	if err := g.Recover(t.Context()); err != nil {
		t.Errorf("recover without the watchdog: %v", err)
	}
}

// TestWatchdogIsStopped thaws without a watchdog that does not answer, in the
// process that froze.
func TestWatchdogIsStopped(t *testing.T) {
	l := mountLab(t, "ext4")
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}},
		&hooks.GroupOptions{Journal: hooks.NewMemJournal(), Window: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stopped := 0
	report, err := g.Do(t.Context(), "id", func(context.Context) error {
		for _, pid := range children(t) {
			stopped = pid
			stop(t, pid)
		}
		return nil
	})
	if err != nil || report.Proven() || report.Frozen > report.Window+time.Second {
		t.Errorf("error %v, report %+v: want a thaw in time without a proof", err, report)
	}
	l.thawedWithin(t, time.Second)
	signal(t, stopped, syscall.SIGCONT)
	if report, err = g.Do(t.Context(), "id", func(context.Context) error { return nil }); err != nil || !report.Proven() {
		t.Errorf("the next freeze: error %v, report %+v", err, report)
	}
}

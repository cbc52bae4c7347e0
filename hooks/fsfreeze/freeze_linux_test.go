// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

func TestConformance(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			l := mountLab(t, kind)
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				return hookstest.Harness{
					Quiescer:  quiescer(t, l),
					Frozen:    l.frozen,
					Lose:      func(context.Context) error { return watchdog.ThawFS(l.dir) },
					SelfThaws: true,
					Window:    2 * time.Second,
				}
			})
		})
	}
}

// TestWritersBlock shows the purpose: nothing is written while the hold is in
// force, and everything goes on afterwards.
func TestWritersBlock(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			l := mountLab(t, kind)
			n := l.writer(t)
			journal, err := hooks.OpenDirJournal(filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}}, &hooks.GroupOptions{Journal: journal})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			report, err := g.Do(t.Context(), "id", func(context.Context) error {
				// One write may have been between its count and the freeze.
				<-time.After(50 * time.Millisecond)
				before := n.Load()
				<-time.After(300 * time.Millisecond)
				if after := n.Load(); after != before {
					t.Errorf("%d writes while frozen", after-before)
				}
				return nil
			})
			if err != nil || !report.Proven() {
				t.Fatalf("error %v, doubts %q", err, report.Doubts())
			}
			l.thawedWithin(t, time.Second)
			before := n.Load()
			<-time.After(200 * time.Millisecond)
			if n.Load() == before {
				t.Error("the writer does not go on")
			}
			t.Logf("frozen for %v, quiesce %v, thaw %v", report.Frozen, report.Quiesce, report.Thaw)
		})
	}
}

// TestForeignFreeze leaves the freeze of fsfreeze(8) alone.
func TestForeignFreeze(t *testing.T) {
	_, err := exec.LookPath("fsfreeze")
	realtest.Require(t, err == nil, "fsfreeze(8) is missing")
	l := mountLab(t, "ext4")
	run(t, "fsfreeze", "--freeze", l.point)
	rec := hookstest.NewRecorder(t)
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: rec.Wrap("fs", quiescer(t, l))}},
		&hooks.GroupOptions{Journal: hooks.NewMemJournal()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Do(t.Context(), "id", func(context.Context) error {
		t.Error("cut on somebody else's freeze")
		return nil
	})
	if !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("error %v, want hooks.ErrForeignFreeze", err)
	}
	if frozen, err := l.frozen(t.Context()); err != nil || !frozen {
		t.Errorf("frozen: %t, error %v: the foreign freeze is gone", frozen, err)
	}
	run(t, "fsfreeze", "--unfreeze", l.point)
	if _, err = g.Do(t.Context(), "id", func(context.Context) error {
		run(t, "fsfreeze", "--unfreeze", l.point)
		return nil
	}); err != nil {
		t.Error(err)
	}
	if log := rec.Log(); !strings.Contains(log, "fs held: ") || !strings.Contains(log, "thawed by somebody else") {
		t.Errorf("the foreign thaw went unnoticed; the log is:\n%s", log)
	}
}

// children returns the watchdogs of this process.
func children(t *testing.T) []int {
	t.Helper()
	return childrenOf(t, "self")
}

// childrenOf returns the watchdogs of a process.
func childrenOf(t *testing.T, process string) []int {
	t.Helper()
	var pids []int
	tasks, err := os.ReadDir("/proc/" + process + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile("/proc/" + process + "/task/" + task.Name() + "/children")
		if err != nil {
			continue // the thread is gone
		}
		for field := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			cmdline, _ := os.ReadFile("/proc/" + field + "/cmdline")
			if strings.Contains(string(cmdline), watchdog.Arg) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestHelperIsKilled thaws without the watchdog and says so.
func TestHelperIsKilled(t *testing.T) {
	l := mountLab(t, "ext4")
	earlier := children(t) // that are about to end
	hold, err := quiescer(t, l).Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = hold.Thaw(context.WithoutCancel(t.Context())) })
	pids := slices.DeleteFunc(children(t), func(pid int) bool { return slices.Contains(earlier, pid) })
	if len(pids) != 1 {
		t.Fatalf("watchdogs %v, want one", pids)
	}
	// It survives what ends a program, and holds.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if err := syscall.Kill(pids[0], sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := hold.Held(t.Context()); err != nil {
		t.Errorf("Held after signals: %v", err)
	}
	if pgid, err := syscall.Getpgid(pids[0]); err != nil || pgid == syscall.Getpgrp() {
		t.Errorf("the watchdog is in our process group %d (error %v)", pgid, err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.thawedWithin(t, time.Second)
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held: error %v, want hooks.ErrHoldLost", err)
	}
	for range 2 {
		if _, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
			t.Errorf("Thaw: error %v, want hooks.ErrHoldLost", err)
		}
	}
}

func TestPrepareRefuses(t *testing.T) {
	l := mountLab(t, "ext4")
	helper := []string{executable(t)}
	tmpfs := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "none", tmpfs)
	t.Cleanup(func() { run(t, "umount", tmpfs) })
	inside := filepath.Join(l.point, "dir")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		path string
		opts fsfreeze.Options
	}{
		{"root", "/", fsfreeze.Options{Helper: helper}},
		{"directory on root", t.TempDir(), fsfreeze.Options{Helper: helper}},
		{"directory on a mount", inside, fsfreeze.Options{Helper: helper}},
		{"tmpfs", tmpfs, fsfreeze.Options{Helper: helper}},
		{"proc", "/proc", fsfreeze.Options{Helper: helper}},
		{"journal inside", l.point, fsfreeze.Options{Helper: helper, Outside: []string{inside}}},
		{"helper inside", l.point, fsfreeze.Options{Helper: []string{inside}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q, err := fsfreeze.New(test.path, &test.opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Prepare(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Prepare: error %v, want errors.ErrUnsupported", err)
			}
			if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Second}); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Quiesce: error %v, want errors.ErrUnsupported", err)
			}
		})
	}
}

// TestNotAHelper is a wrong configuration: it must fail before the freeze.
func TestNotAHelper(t *testing.T) {
	l := mountLab(t, "ext4")
	for _, program := range []string{"/bin/true", "/bin/echo", "/bin/cat", "/nonexistent"} {
		q, err := fsfreeze.New(l.point, &fsfreeze.Options{Helper: []string{program}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err = q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Second}); err == nil {
			t.Errorf("helper %s: no error", program)
		}
		cancel()
		if frozen, err := l.frozen(t.Context()); err != nil || frozen {
			t.Errorf("helper %s: frozen %t, error %v", program, frozen, err)
		}
	}
}

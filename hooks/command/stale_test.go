// SPDX-License-Identifier: Apache-2.0

//go:build darwin || linux

package command_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// stay starts a process that freezes and waits; it returns its watchdog and
// its journal.
func startStay(t *testing.T, f flagFile, mode string) (parent, watchdog int, journal *hooks.DirJournal) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	cmd := exec.Command(executable(t), "stay", mode, string(f), dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "frozen\n" {
		t.Fatalf("the process says %q, error %v", line, err)
	}
	pids := children(t, cmd.Process.Pid, "protect-watchdog")
	if len(pids) != 1 {
		t.Fatalf("watchdogs %v, want one", pids)
	}
	t.Cleanup(func() { _ = syscall.Kill(pids[0], syscall.SIGKILL) })
	if journal, err = hooks.OpenDirJournal(dir); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, pids[0], journal
}

// stop stops a process and waits until it has.
func stop(t *testing.T, pid int) {
	t.Helper()
	send(t, pid, syscall.SIGSTOP)
	waitUntil(t, "stop", func() bool {
		out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
		return err == nil && strings.HasPrefix(string(out), "T")
	})
	<-time.After(20 * time.Millisecond) // its threads are told one by one
}

func send(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// nextFreeze freezes with the journal of a dead process, wakes late while it
// waits, and checks that the freeze holds although the target knows no epochs.
func nextFreeze(t *testing.T, f flagFile, mode string, journal hooks.Journal, wake func()) {
	t.Helper()
	// Somebody who does not know that journal waits as well.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := newPair(t, f, mode).Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Second}); !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("Quiesce beside what may come late: error %v, want hooks.ErrForeignFreeze", err)
	}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newPair(t, f, mode)}}, &hooks.GroupOptions{Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan struct{})
	go func() {
		<-time.After(300 * time.Millisecond)
		close(woken)
		wake()
	}()
	report, err := g.Do(t.Context(), "next", func(ctx context.Context) error {
		select {
		case <-woken:
		default:
			t.Error("froze beside what may come late")
			wake()
		}
		<-time.After(500 * time.Millisecond)
		if frozen, err := f.frozen(ctx); err != nil || !frozen {
			t.Errorf("frozen during the cut: %t, error %v", frozen, err)
		}
		return nil
	})
	if err != nil || !report.Proven() {
		t.Errorf("error %v, report %+v", err, report)
	}
	thawedWithin(t, f.frozen, time.Second)
}

// TestStaleWatchdog wakes the watchdog of a process that is long dead.
func TestStaleWatchdog(t *testing.T) {
	f := newFlagFile(t)
	parent, watchdog, journal := startStay(t, f, "good")
	stop(t, watchdog)
	send(t, parent, syscall.SIGKILL)
	nextFreeze(t, f, "good", journal, func() { _ = syscall.Kill(watchdog, syscall.SIGCONT) })
}

// TestStaleProgram wakes a thaw program whose watchdog is dead as well.
func TestStaleProgram(t *testing.T) {
	f := newFlagFile(t)
	if err := os.WriteFile(string(f)+".stall", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wake := func() { _ = os.WriteFile(string(f)+".wake", nil, 0o600) }
	t.Cleanup(wake)
	parent, watchdog, journal := startStay(t, f, "thaw-stalls")
	send(t, parent, syscall.SIGKILL)
	waitUntil(t, "thaw program", func() bool { return !exists(string(f) + ".stall") })
	send(t, watchdog, syscall.SIGKILL)
	nextFreeze(t, f, "thaw-stalls", journal, wake)
}

// TestPairWatchdogNeverWakes thaws without it, and says that it is in the way
// until it is gone.
func TestPairWatchdogNeverWakes(t *testing.T) {
	f := newFlagFile(t)
	parent, watchdog, journal := startStay(t, f, "good")
	stop(t, watchdog)
	send(t, parent, syscall.SIGKILL)
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newPair(t, f, "good")}},
		&hooks.GroupOptions{Journal: journal, ThawTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Recover(t.Context()); err == nil {
		t.Error("recovered although the watchdog may act yet")
	}
	thawedWithin(t, f.frozen, 0)
	send(t, watchdog, syscall.SIGKILL)
	if err := g.Recover(t.Context()); err != nil {
		t.Errorf("recover without the watchdog: %v", err)
	}
}

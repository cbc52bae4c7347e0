// SPDX-License-Identifier: Apache-2.0

//go:build unix

package command_test

import (
	"bufio"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

func newPair(t *testing.T, f flagFile, mode string) *command.Pair {
	t.Helper()
	exe := executable(t)
	q, err := command.NewPair([]string{exe, "freeze", mode, string(f)}, []string{exe, "thaw", mode, string(f)},
		pairOptions(exe, mode, string(f)))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestPairConformance(t *testing.T) {
	hookstest.Run(t, func(t *testing.T) hookstest.Harness {
		f := newFlagFile(t)
		return hookstest.Harness{Quiescer: newPair(t, f, "good"), Frozen: f.frozen, SelfThaws: true, Window: 3 * time.Second}
	})
}

func TestPairEvidence(t *testing.T) {
	for _, mode := range []string{"good", "fails-once"} {
		f := newFlagFile(t)
		g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newPair(t, f, mode)}},
			&hooks.GroupOptions{Journal: hooks.NewMemJournal()})
		if err != nil {
			t.Fatal(err)
		}
		report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
			if frozen, err := f.frozen(ctx); err != nil || !frozen {
				t.Errorf("frozen during the cut: %t, error %v", frozen, err)
			}
			return nil
		})
		if err != nil || !report.Proven() {
			t.Fatalf("%s: error %v, doubts %q", mode, err, report.Doubts())
		}
		want := map[string]hooks.Evidence{"db": {"freeze": []byte("frozen at 42"), "thaw": []byte("thawed at 43")}}
		if diff := cmp.Diff(want, report.Evidence); diff != "" {
			t.Errorf("%s: evidence (-want +got):\n%s", mode, diff)
		}
	}
}

// TestPairFreezeFails thaws although, and because, the freeze program failed.
func TestPairFreezeFails(t *testing.T) {
	tests := map[string]string{
		"freeze-fails": `exit status 7, stderr`,
		"freeze-hangs": context.DeadlineExceeded.Error(),
	}
	for mode, want := range tests {
		t.Run(mode, func(t *testing.T) {
			f := newFlagFile(t)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			_, err := newPair(t, f, mode).Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			thawedWithin(t, f.frozen, 0)
		})
	}
}

// TestPairThawNeverWorks is an error that is not mistaken for a lost hold.
func TestPairThawNeverWorks(t *testing.T) {
	f := newFlagFile(t)
	earlier := children(t, os.Getpid(), "protect-watchdog")
	hold, err := newPair(t, f, "thaw-fails").Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := hold.Thaw(ctx); err == nil || errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw: error %v, want one that says that the target may be frozen", err)
	}
	recover := func(mode string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		return newPair(t, f, mode).Recover(ctx, 1)
	}
	if err := recover("thaw-fails"); err == nil || !strings.Contains(err.Error(), "exit status 6") {
		t.Errorf("Recover: error %v", err)
	}
	// The watchdog still tries. Recover thaws in spite of it, but cannot promise
	// anything.
	if err := recover("good"); err == nil {
		t.Error("Recover with a program that works, and a watchdog that still tries: no error")
	}
	thawedWithin(t, f.frozen, 0)
	for _, pid := range children(t, os.Getpid(), "protect-watchdog") {
		if !slices.Contains(earlier, pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err := recover("good"); err != nil {
		t.Errorf("Recover without the watchdog: %v", err)
	}
}

// children returns the child processes with arg in their command line.
func children(t *testing.T, parent int, arg string) []int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=,ppid=,args=", "-A").Output()
	if err != nil {
		t.Skipf("ps: %v", err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && fields[1] == strconv.Itoa(parent) && strings.Contains(line, arg) {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestPairHelperIsKilled thaws at once, without the watchdog.
func TestPairHelperIsKilled(t *testing.T) {
	f := newFlagFile(t)
	earlier := children(t, os.Getpid(), "protect-watchdog") // that are about to end
	hold, err := newPair(t, f, "good").Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	pids := slices.DeleteFunc(children(t, os.Getpid(), "protect-watchdog"), func(pid int) bool { return slices.Contains(earlier, pid) })
	if len(pids) != 1 {
		t.Fatalf("watchdogs %v, want one", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	thawedWithin(t, f.frozen, 5*time.Second)
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held: error %v", err)
	}
	if _, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw: error %v", err)
	}
}

// TestPairParentIsKilled kills and stops the freezing process.
func TestPairParentIsKilled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var worst time.Duration
	for i := range 11 {
		f := newFlagFile(t)
		cmd := exec.Command(executable(t), "victim", "2s", string(f))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "frozen" {
			t.Fatalf("the victim says %q", lines.Text())
		}
		sig := syscall.SIGKILL
		if i == 0 {
			sig = syscall.SIGSTOP // only the window ends this freeze
		} else {
			<-time.After(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		// A freeze program that runs at this moment is ended first.
		<-time.After(20 * time.Millisecond)
		took := thawedWithin(t, f.frozen, 3*time.Second) // the window and a second
		if sig == syscall.SIGKILL {
			worst = max(worst, took)
		}
		if sig == syscall.SIGSTOP && took < 200*time.Millisecond {
			t.Errorf("thawed %v after the stop, before the window ended", took)
		}
	}
	// To start the thaw program takes time on a busy machine.
	t.Logf("thawed at most %v after a kill", worst)
}

func TestNewPairRefuses(t *testing.T) {
	helper := &command.Options{Helper: []string{"/bin/true"}, Lock: filepath.Join(t.TempDir(), "lock")}
	ok := []string{"true"}
	tests := map[string]struct {
		freeze, thaw []string
		opts         *command.Options
	}{
		"no helper":       {ok, ok, nil},
		"relative helper": {ok, ok, &command.Options{Helper: []string{"true"}}},
		"no lock":         {ok, ok, &command.Options{Helper: []string{"/bin/true"}}},
		"relative lock":   {ok, ok, &command.Options{Helper: []string{"/bin/true"}, Lock: "lock"}},
		"no freeze":       {nil, ok, helper},
		"no thaw":         {ok, nil, helper},
		"missing thaw":    {ok, []string{filepath.Join(t.TempDir(), "x")}, helper},
	}
	for name, test := range tests {
		if _, err := command.NewPair(test.freeze, test.thaw, test.opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := command.NewPair(ok, ok, helper); err != nil {
		t.Errorf("a good pair: %v", err)
	}
}

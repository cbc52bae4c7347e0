// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks/lint"
)

// frozenWorld is an application whose state is in a file of its volume.
type frozenWorld struct{ *world }

func newFrozen(t *testing.T) *frozenWorld {
	t.Helper()
	w := &frozenWorld{newRepository(t)}
	w.write("data/state", "running\n")
	// Each writes the state into the volume, and what it did into the log.
	w.script("freeze", fmt.Sprintf("echo frozen >%[1]s/data/state; echo freeze >>%[1]s/log; echo bin.000042", w.dir))
	w.script("thaw", fmt.Sprintf("echo running >%[1]s/data/state; echo thaw >>%[1]s/log", w.dir))
	w.script("held", fmt.Sprintf("grep -q frozen %s/data/state", w.dir))
	w.script("hold", fmt.Sprintf("%[1]s/freeze >/dev/null; echo READY; cat >/dev/null; %[1]s/thaw; echo bin.000042", w.dir))
	return w
}

func (w *frozenWorld) holding() []string { return []string{"--hold", w.path("hold")} }

func (w *frozenWorld) pairing() []string {
	return []string{"--freeze", w.path("freeze"), "--thaw", w.path("thaw"), "--held", w.path("held"), "--journal", w.path("journal")}
}

// log returns what the programs did.
func (w *frozenWorld) log() []string {
	b, err := os.ReadFile(w.path("log"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// slow makes a volume whose cut takes time: a file whose holes are copied.
func (w *frozenWorld) slow(size int64) string {
	w.t.Helper()
	p := w.write("slow", "")
	if err := os.Truncate(p, size); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// startSlow starts a backup and returns while its volumes are being cut, which
// takes seconds.
func (w *frozenWorld) startSlow(flags []string) *process {
	w.t.Helper()
	p := w.start(nil, append(flags, "backup", w.path("data"), w.slow(8<<30))...)
	eventually(w.t, "cut", func() bool {
		cuts, err := filepath.Glob(w.path(".protectctl-reflink-*", "file-*", "data"))
		return err == nil && len(cuts) > 0
	})
	return p
}

// TestRehearse freezes and thaws, and stores nothing.
func TestRehearse(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*frozenWorld) []string{"hold": (*frozenWorld).holding, "pair": (*frozenWorld).pairing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFrozen(t)
			var res rehearsalResult
			w.json(&res, append(flags(w), "backup", "--rehearse", "--require", "application", w.path("data"))...)
			if res.Level != "application" || res.FrozenMS <= 0 || len(res.Doubts) > 0 || len(res.Members) != 1 || !res.Members[0].Proven {
				t.Errorf("rehearsal: %+v", res)
			}
			if diff := cmp.Diff([]string{"freeze", "thaw"}, w.log()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var points []pointResult
			w.json(&points, "list")
			if len(points) > 0 {
				t.Errorf("points: %+v", points)
			}
		})
	}
	w := newFrozen(t)
	var res rehearsalResult
	w.json(&res, "--hold", w.path("hold"), "backup", "--rehearse", "--window", "45s", w.path("data"))
	if len(res.Findings) != 1 || res.Findings[0].Rule != lint.LongWindow {
		t.Errorf("findings of a long window: %v", res.Findings)
	}
	if out := w.fails(exitFailure, "backup", "--rehearse", w.path("data")); !strings.Contains(out, "--rehearse needs") {
		t.Errorf("nothing to freeze: %s", out)
	}
	if out := w.fails(exitFailure, "--hold", w.path("nothing"), "backup", "--rehearse", w.path("data")); !strings.Contains(out, "nothing") {
		t.Errorf("a program that does not exist: %s", out)
	}
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*frozenWorld) []string{"hold": (*frozenWorld).holding, "pair": (*frozenWorld).pairing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFrozen(t)
			var res backupResult
			w.json(&res, append(flags(w), "backup", w.path("data"))...)
			if res.Level != "application" || res.FrozenMS <= 0 || len(res.Doubts) > 0 {
				t.Errorf("backup: %+v", res)
			}
			if diff := cmp.Diff([]string{"freeze", "thaw"}, w.log()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if got := w.read("data/state"); got != "running\n" {
				t.Errorf("after the backup the application is %q", got)
			}
			w.ok(nil, "restore", "latest", w.path("out"))
			if got := w.read("out/state"); got != "frozen\n" {
				t.Errorf("the point was cut while the application was %q", got)
			}
			var show showResult
			w.json(&show, "show", "latest")
			if len(show.Evidence[name]) != 1 {
				t.Errorf("evidence: %v", show.Evidence)
			}
			w.staged(0)
			if left, _ := filepath.Glob(w.path("journal", "intent-*")); len(left) > 0 {
				t.Errorf("the journal still has %q", left)
			}
		})
	}
}

// TestProgramsHaveNoPassword checks the environment of what we start.
func TestProgramsHaveNoPassword(t *testing.T) {
	t.Parallel()
	w := newFrozen(t)
	w.script("env-hold", fmt.Sprintf("echo READY; env >%s/env; cat", w.dir))
	w.ok(nil, "backup", "--hold", w.path("env-hold"), w.path("data"))
	if env := w.read("env"); strings.Contains(env, password) || !strings.Contains(env, "XDG_CACHE_HOME=") || !strings.Contains(env, "PROTECT_WINDOW=") {
		t.Errorf("environment of the program:\n%s", env)
	}
}

// TestFailedFreeze stores nothing, thaws, and leaves nothing.
func TestFailedFreeze(t *testing.T) {
	t.Parallel()
	w := newFrozen(t)
	w.script("freeze", fmt.Sprintf("echo freeze >>%s/log; exit 3", w.dir))
	w.fails(exitFailure, append(w.pairing(), "backup", w.path("data"))...)
	// Thaws may be repeated, until nobody doubts them.
	if log := w.log(); log[0] != "freeze" || log[len(log)-1] != "thaw" {
		t.Errorf("log: %q", log)
	}
	if ids := w.points(); len(ids) > 0 {
		t.Errorf("points: %q", ids)
	}
	w.staged(0)
}

// TestLostHold lowers the level, or fails where it was required.
func TestLostHold(t *testing.T) {
	t.Parallel()
	w := newFrozen(t)
	w.script("lost", "echo READY; exit 0")
	var res backupResult
	w.json(&res, "backup", "--hold", w.path("lost"), w.path("data"), w.slow(256<<20))
	if res.Level != "none" || len(res.Doubts) == 0 {
		t.Errorf("backup with a hold that got lost: %+v", res)
	}
	stderr := w.fails(exitFailure, "backup", "--hold", w.path("lost"), "--require", "application", w.path("data"), w.path("slow"))
	if !strings.Contains(stderr, "weaker") {
		t.Errorf("required level not reached: %s", stderr)
	}
	if n := len(w.points()); n != 1 {
		t.Errorf("%d points, want 1", n)
	}
	w.staged(0)
}

// TestSignalled ends a backup whose application is frozen, politely. A second
// signal must not hurry it into leaving the application frozen.
func TestSignalled(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for name, flags := range map[string]func(*frozenWorld) []string{"hold": (*frozenWorld).holding, "pair": (*frozenWorld).pairing} {
			t.Run(fmt.Sprintf("%s %v", name, sig), func(t *testing.T) {
				t.Parallel()
				w := newFrozen(t)
				p := w.startSlow(flags(w))
				for range 2 {
					if err := p.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
				}
				if o := p.wait(); o.code != exitFailure || o.stdout != "" || !strings.Contains(o.stderr, "cancel") && !strings.Contains(o.stderr, "signal") {
					t.Errorf("exit status %d\n%s%s", o.code, o.stdout, o.stderr)
				}
				if diff := cmp.Diff([]string{"freeze", "thaw"}, w.log()); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
				if ids := w.points(); len(ids) > 0 {
					t.Errorf("points: %q", ids)
				}
				w.staged(0)
			})
		}
	}
}

// TestInterruptedStream stores nothing, although its stdin stays open.
func TestInterruptedStream(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer pw.Close()
	p := w.start(r, "backup", "-")
	if _, err := io.CopyN(pw, zeros{}, 8<<20); err != nil { // more than the pipe holds: it is being read
		t.Fatal(err)
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if o := p.wait(); o.code != exitFailure {
		t.Errorf("exit status %d: %s", o.code, o.stderr)
	}
	if ids := w.points(); len(ids) > 0 {
		t.Errorf("points: %q", ids)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestKilled kills a backup whose application is frozen. The program that
// holds ends with its stdin, and the pair's watchdog thaws.
func TestKilled(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*frozenWorld) []string{"hold": (*frozenWorld).holding, "pair": (*frozenWorld).pairing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFrozen(t)
			p := w.startSlow(flags(w))
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			p.wait()
			eventually(t, "thaw", func() bool { return len(w.log()) > 1 })
			w.staged(1)
			// The next one thaws again, to be sure, and cleans up.
			w.ok(nil, append(flags(w), "backup", w.path("data"))...)
			want := []string{"freeze", "thaw", "freeze", "thaw"}
			if name == "pair" {
				want = []string{"freeze", "thaw", "thaw", "freeze", "thaw"}
			}
			if diff := cmp.Diff(want, w.log()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if n := len(w.points()); n != 1 {
				t.Errorf("%d points, want 1", n)
			}
			w.staged(0)
		})
	}
}

// TestRecover thaws what a backup left whose watchdog died with it, before it
// does anything that could fail.
func TestRecover(t *testing.T) {
	t.Parallel()
	w := newFrozen(t)
	p := w.startSlow(w.pairing())
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.Process.Pid))
	if err != nil {
		t.Skipf("cannot find the watchdog: %v", err)
	}
	// Stopped, the parent does not notice the death of its watchdog.
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	helpers := w.childrenOf(p.Process.Pid)
	if len(helpers) != 1 {
		t.Fatalf("%d helpers (main thread: %s)", len(helpers), children)
	}
	for _, pid := range append(helpers, p.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	p.wait()
	if got := w.read("data/state"); got != "frozen\n" {
		t.Fatalf("the application is %q: the watchdog was not killed in time", got)
	}
	// Not even a repository is needed.
	w.fails(exitFailure, append(w.pairing(), "--repo", "dir:///no/such/repository", "backup", w.path("data"))...)
	if diff := cmp.Diff([]string{"freeze", "thaw"}, w.log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// childrenOf returns the processes that a process has started.
func (w *frozenWorld) childrenOf(pid int) []int {
	w.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	var pids []int
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		for s := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(s)
			if err != nil {
				w.t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// SPDX-License-Identifier: Apache-2.0

//go:build unix

package command_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/watchdog"
)

// TestMain makes the test binary the programs of the tests and the watchdog.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case watchdog.Arg:
			os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
		case "held":
			os.Exit(held(os.Args[2], os.Args[3]))
		case "freeze", "thaw", "still":
			os.Exit(pair(os.Args[1], os.Args[2], os.Args[3]))
		case "hold":
			os.Exit(holdAndWait(os.Args[2]))
		case "stay":
			os.Exit(stay(os.Args[2], os.Args[3], os.Args[4]))
		case "victim":
			os.Exit(victim(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

// quick is the environment of programs that may be built with the race
// detector, which otherwise sleeps for a second when they end.
var quick = []string{"GORACE=atexit_sleep_ms=0"}

// held is a program that holds a lock on a file, and misbehaves as told.
func held(mode, path string) int {
	switch mode {
	case "no-ready":
		fmt.Fprintln(os.Stderr, "bo\x1bom")
		return 4
	case "mute":
		signal.Ignore(syscall.SIGTERM)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if mode == "mute" {
		<-time.After(time.Hour)
	}
	fmt.Println("some banner\nREADY")
	switch mode {
	case "early":
		return 0
	case "closes":
		os.Stdout.Close()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		// Descendants must go as well.
		cmd := exec.Command("/bin/sh", "-c", "trap '' TERM; exec sleep 1000")
		cmd.ExtraFiles = []*os.File{f} // inherits the lock
		if err := cmd.Start(); err != nil {
			return 1
		}
		<-time.After(time.Hour)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	switch mode {
	case "exit3":
		fmt.Fprintln(os.Stderr, "cannot thaw")
		return 3
	case "env":
		fmt.Print(strings.Join(os.Environ(), "\n"))
	case "big":
		fmt.Print(strings.Repeat("x", hooks.MaxEvidence+1))
	case "good":
		fmt.Print("position 42\n")
	}
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return 0
}

// pair is the programs of a target that is frozen while a file exists.
func pair(op, mode, path string) int {
	if op == "still" {
		if !exists(path) {
			fmt.Fprintln(os.Stderr, "it runs")
			return 8
		}
		return 0
	}
	if op == "thaw" {
		if mode == "fails-once" {
			if err := os.WriteFile(path+".tried", nil, 0o600); err == nil && os.Remove(path+".first") == nil {
				return 5
			}
		}
		if mode == "thaw-fails" {
			return 6
		}
		if mode == "thaw-stalls" && os.Remove(path+".stall") == nil {
			for !exists(path + ".wake") { // it comes late
				<-time.After(time.Millisecond)
			}
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return 1
		}
		fmt.Print("thawed at 43")
		return 0
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return 1
	}
	switch mode {
	case "freeze-fails":
		fmt.Fprintln(os.Stderr, "half done")
		return 7
	case "freeze-hangs":
		signal.Ignore(syscall.SIGTERM)
		<-time.After(time.Hour)
	case "fails-once":
		if err := os.WriteFile(path+".first", nil, 0o600); err != nil {
			return 1
		}
	}
	fmt.Print("frozen at 42")
	return 0
}

// pairOptions are the options of a pair that can be proven.
func pairOptions(exe, mode, path string) *command.Options {
	return &command.Options{
		Helper: []string{exe}, Env: quick, ThawTimeout: 5 * time.Second, Lock: path + ".lock", Held: []string{exe, "still", mode, path},
	}
}

// stay freezes with a pair, once, and waits to be killed.
func stay(mode, path, journal string) int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	q, err := command.NewPair([]string{exe, "freeze", mode, path}, []string{exe, "thaw", mode, path}, pairOptions(exe, mode, path))
	if err != nil {
		return 1
	}
	j, err := hooks.OpenDirJournal(journal)
	if err != nil {
		return 1
	}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: q}}, &hooks.GroupOptions{Journal: j})
	if err != nil {
		return 1
	}
	_, err = g.Do(context.Background(), "stay", func(context.Context) error {
		fmt.Println("frozen")
		<-time.After(time.Hour)
		return nil
	})
	fmt.Println(err)
	return 1
}

// victim freezes with a pair until it is killed.
func victim(window, path string) int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	q, err := command.NewPair([]string{exe, "freeze", "good", path}, []string{exe, "thaw", "good", path}, pairOptions(exe, "good", path))
	if err != nil {
		return 1
	}
	limit, err := time.ParseDuration(window)
	if err != nil {
		return 1
	}
	for epoch := hooks.Epoch(1); ; epoch++ {
		hold, err := q.Quiesce(context.Background(), hooks.FreezeRequest{Epoch: epoch, Window: limit})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("frozen")
		<-time.After(20 * time.Millisecond)
		_, err = hold.Thaw(context.Background())
		fmt.Println("thawed", err)
	}
}

func executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// lockFile is the target of held programs.
type lockFile string

func newLockFile(t *testing.T) lockFile { return lockFile(filepath.Join(t.TempDir(), "lock")) }

// frozen says whether somebody holds the lock.
func (l lockFile) frozen(context.Context) (bool, error) {
	f, err := os.OpenFile(string(l), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// flagFile is the target of pairs.
type flagFile string

func newFlagFile(t *testing.T) flagFile { return flagFile(filepath.Join(t.TempDir(), "frozen")) }

func (f flagFile) frozen(context.Context) (bool, error) {
	_, err := os.Lstat(string(f))
	if os.IsNotExist(err) {
		return false, nil
	}
	return true, err
}

// thawedWithin waits for the end of the freeze.
func thawedWithin(t *testing.T, frozen func(context.Context) (bool, error), limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		is, err := frozen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !is {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("frozen after %v", limit)
		}
		<-time.After(time.Millisecond)
	}
}

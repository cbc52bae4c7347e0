// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/sqlite"
)

const (
	sqliteServeEnv  = "PROTECT_TEST_SQLITE_SERVE"
	sqliteHolderEnv = "PROTECT_TEST_SQLITE_HOLDER"
	sqliteWindow    = 2 * time.Second
)

// TestSQLiteServeProcess is not a test: it is the program that holds.
func TestSQLiteServeProcess(t *testing.T) {
	path := os.Getenv(sqliteServeEnv)
	if path == "" {
		t.Skip("runs as a child process only")
	}
	window, err := time.ParseDuration(os.Getenv("PROTECT_WINDOW"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Serve(t.Context(), openSQLite(t, path, "wal", time.Second), window, os.Stdin, os.Stdout); err != nil {
		t.Fatal(err)
	}
}

// newServed returns a quiescer that holds the database by another process.
func newServed(t *testing.T, path string) *command.Quiescer {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	q, err := command.New([]string{exe, "-test.run=^TestSQLiteServeProcess$"}, &command.Options{Env: []string{sqliteServeEnv + "=" + path, "TMPDIR=" + os.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestSQLiteHolderProcess is not a test: it freezes, in a process that can be
// stalled, until its input has a line; then it says what it knows.
func TestSQLiteHolderProcess(t *testing.T) {
	path := os.Getenv(sqliteHolderEnv)
	if path == "" {
		t.Skip("runs as a child process only")
	}
	hold, err := newServed(t, path).Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: sqliteWindow})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("HOLDS")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	held := hold.Held(t.Context())
	_, thaw := hold.Thaw(t.Context())
	fmt.Println("LOST", errors.Is(held, hooks.ErrHoldLost), errors.Is(thaw, hooks.ErrHoldLost))
}

// startInserts writes rows until the test is over, and counts them.
func startInserts(t *testing.T, db *sql.DB) *atomic.Int64 {
	t.Helper()
	var acked atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := db.ExecContext(ctx, "INSERT INTO t (x) VALUES (randomblob(500))"); err == nil {
				acked.Add(1)
			} else if ctx.Err() == nil {
				t.Errorf("writer: %v", err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &acked
}

// TestSQLiteServe holds by another process: nobody writes, and it is proven.
func TestSQLiteServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	acked := startInserts(t, openSQLite(t, path, "wal", time.Minute))
	waitFor(t, func() bool { return acked.Load() > 10 })
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newServed(t, path)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := g.Do(t.Context(), "id", func(context.Context) error {
		<-time.After(20 * time.Millisecond) // replies under way arrive
		before := acked.Load()
		<-time.After(200 * time.Millisecond)
		if n := acked.Load() - before; n > 0 {
			t.Errorf("%d commits during the hold", n)
		}
		return nil
	})
	if err != nil || !report.Proven() {
		t.Fatalf("error %v, doubts %q", err, report.Doubts())
	}
	last := acked.Load()
	waitFor(t, func() bool { return acked.Load() > last })
}

// TestSQLiteStalled stops and kills who takes the point: writers go on.
func TestSQLiteStalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	acked := startInserts(t, openSQLite(t, path, "wal", time.Minute))
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			h := startHolder(t, "TestSQLiteHolderProcess", sqliteHolderEnv+"="+path)
			<-time.After(20 * time.Millisecond) // replies under way arrive
			frozen, began := acked.Load(), time.Now()
			h.signal(t, sig)
			waitFor(t, func() bool { return acked.Load() > frozen })
			took := time.Since(began)
			t.Logf("writers went on %v after the signal, with a window of %v", took, sqliteWindow)
			if took > sqliteWindow+time.Second || sig == syscall.SIGSTOP && took < sqliteWindow/4 {
				t.Errorf("writers went on %v after the signal", took)
			}
			if sig == syscall.SIGSTOP {
				h.saysLost(t)
			}
		})
	}
}

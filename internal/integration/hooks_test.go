// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/hooks/sqlite"
)

var sqlitePoints = flag.Int("sqlite.points", 5, "copies of SQLite under load, for each journal mode")

// openSQLite opens the database with one journal mode and busy timeout.
func openSQLite(t testing.TB, path, mode string, timeout time.Duration) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(%s)", path, timeout.Milliseconds(), mode))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x BLOB)"); err != nil {
		t.Fatal(err)
	}
	return db
}

func newSQLite(t testing.TB, db *sql.DB) *sqlite.Quiescer {
	t.Helper()
	q, err := sqlite.New(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// sqliteFrozen returns a probe that asks for the write lock.
func sqliteFrozen(db *sql.DB) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return false, err
		}
		defer conn.Close()
		_, err = conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		if coder, ok := errors.AsType[interface {
			error
			Code() int
		}](err); ok && coder.Code()&0xff == 5 {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		_, err = conn.ExecContext(ctx, "ROLLBACK")
		return false, err
	}
}

func TestSQLiteConformance(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		for _, conns := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/conns=%d", mode, conns), func(t *testing.T) {
				hookstest.Run(t, func(t *testing.T) hookstest.Harness {
					path := filepath.Join(t.TempDir(), "db")
					db := openSQLite(t, path, mode, 5*time.Second)
					db.SetMaxOpenConns(conns)
					return hookstest.Harness{Quiescer: newSQLite(t, db), Frozen: sqliteFrozen(openSQLite(t, path, mode, 0))}
				})
			})
		}
	}
}

// TestSQLiteCopy copies the files of a busy database during the hold, from
// another process. The copy is whole and has every acknowledged commit, and
// the writers, who were blocked, go on.
func TestSQLiteCopy(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "db")
			db := openSQLite(t, path, mode, 20*time.Second)
			var acked atomic.Int64 // of all writers
			ctx, stop := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			for range 3 {
				writers.Go(func() {
					for ctx.Err() == nil {
						if _, err := db.ExecContext(ctx, "INSERT INTO t (x) VALUES (randomblob(2000))"); err == nil {
							acked.Add(1)
						} else if ctx.Err() == nil {
							t.Errorf("writer: %v", err)
							return
						}
					}
				})
			}
			defer writers.Wait()
			defer stop()

			rec := hookstest.NewRecorder(t)
			g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: rec.Wrap("db", newSQLite(t, db))}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range *sqlitePoints {
				waitFor(t, func() bool { return acked.Load() > int64(20*(i+1)) })
				if err := g.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
				into := t.TempDir()
				var before int64
				report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
					<-time.After(20 * time.Millisecond) // replies under way arrive
					before = acked.Load()
					for _, suffix := range []string{"", "-wal", "-journal"} {
						if _, err := os.Lstat(path + suffix); err != nil {
							continue
						}
						if out, err := exec.CommandContext(ctx, "cp", path+suffix, into).CombinedOutput(); err != nil {
							return fmt.Errorf("%w: %s", err, out)
						}
					}
					<-time.After(50 * time.Millisecond)
					if after := acked.Load(); after != before {
						t.Errorf("%d commits during the hold", after-before)
					}
					return nil
				})
				if err != nil || !report.Proven() {
					t.Fatalf("error %v, doubts %q", err, report.Doubts())
				}
				checkSQLiteCopy(t, filepath.Join(into, "db"), mode, before)
			}
			last := acked.Load()
			waitFor(t, func() bool { return acked.Load() > last+10 })
		})
	}
}

func checkSQLiteCopy(t *testing.T, path, mode string, want int64) {
	t.Helper()
	db := openSQLite(t, path, mode, 0)
	if _, err := sqlite.Verify(t.Context(), db, nil); err != nil {
		t.Error(err)
	}
	var got int64
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM t").Scan(&got); err != nil || got != want {
		t.Errorf("the copy has %d rows (error %v), %d were acknowledged", got, err, want)
	}
}

func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("nothing happens for 20 s")
		}
		<-time.After(time.Millisecond)
	}
}

// TestSQLiteCommitWhileHeld falls into the POSIX lock trap on purpose: closing
// a descriptor of the database drops the lock, and another process commits.
// Held and the report must say that the hold is lost.
func TestSQLiteCommitWhileHeld(t *testing.T) {
	if path := os.Getenv("PROTECT_TEST_SQLITE_COMMIT"); path != "" {
		db := openSQLite(t, path, "delete", 0)
		if _, err := db.ExecContext(t.Context(), "INSERT INTO t (x) VALUES ('other')"); err != nil {
			t.Fatal(err)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "db")
	db := openSQLite(t, path, "delete", time.Second)
	commit := func() ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSQLiteCommitWhileHeld$")
		cmd.Env = append(os.Environ(), "PROTECT_TEST_SQLITE_COMMIT="+path)
		return cmd.CombinedOutput()
	}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "db", Quiescer: newSQLite(t, db)}}, &hooks.GroupOptions{Window: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	report, err := g.Do(t.Context(), "id", func(context.Context) error {
		if out, err := commit(); err == nil {
			t.Errorf("another process commits during the hold: %s", out)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil { // the trap
			return err
		}
		if out, err := commit(); err != nil {
			return fmt.Errorf("the trap did not work: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Proven() || len(report.Doubts()) != 1 {
		t.Errorf("proven: %t, doubts %q: the foreign commit went unnoticed", report.Proven(), report.Doubts())
	}
}

// TestSQLitePool shows that connections come back to the pool, with their
// settings, or not at all.
func TestSQLitePool(t *testing.T) {
	db := openSQLite(t, filepath.Join(t.TempDir(), "db"), "wal", 1234*time.Millisecond)
	q := newSQLite(t, db)
	for range 5 {
		if err := q.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if in := db.Stats().InUse; in != 0 {
		t.Errorf("%d connections are still in use", in)
	}
	var timeouts []int
	for range 3 {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var timeout int
		if err := conn.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&timeout); err != nil {
			t.Fatal(err)
		}
		timeouts = append(timeouts, timeout)
	}
	if !slices.Equal(timeouts, []int{1234, 1234, 1234}) {
		t.Errorf("busy timeouts %v, want 1234 each", timeouts)
	}
}

// TestSQLiteBusy gives up when its context ends, leaves no connection behind,
// and gets the lock from writers that keep it for long.
func TestSQLiteBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, other := openSQLite(t, path, "wal", 10*time.Second), openSQLite(t, path, "wal", 0)
	tx, err := newSQLite(t, other).Quiesce(t.Context(), hooks.FreezeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	q := newSQLite(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err = q.Quiesce(ctx, hooks.FreezeRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the one of the context", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("gave up after %v, long after the context ended", took)
	}
	if err := q.Prepare(t.Context()); err != nil {
		t.Errorf("Prepare while somebody writes: %v", err)
	}
	if in := db.Stats().InUse; in != 0 {
		t.Errorf("%d connections are still in use", in)
	}
	time.AfterFunc(300*time.Millisecond, func() { _, _ = tx.Thaw(t.Context()) })
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.Thaw(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSQLiteBroken loses the transaction under the hold.
func TestSQLiteBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := openSQLite(t, path, "wal", time.Second)
	hold, err := newSQLite(t, db).Quiesce(t.Context(), hooks.FreezeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hold.Thaw(ended); err != nil && !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw on a connection that does not answer: %v", err)
	}
	if frozen, err := sqliteFrozen(openSQLite(t, path, "wal", 0))(t.Context()); err != nil || frozen {
		t.Errorf("frozen: %t, error %v", frozen, err)
	}
	if _, err := sqlite.New(nil, nil); err == nil {
		t.Error("New(nil): no error")
	}
}

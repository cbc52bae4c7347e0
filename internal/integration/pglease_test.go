// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
)

const (
	pgHolderEnv = "PROTECT_TEST_PG_HOLDER"
	pgWindow    = 3 * time.Second
)

// TestPostgresHolderProcess is not a test: it holds a backup, in a process that
// can be stalled, until its input has a line; then it says what it knows.
func TestPostgresHolderProcess(t *testing.T) {
	socket := os.Getenv(pgHolderEnv)
	if socket == "" {
		t.Skip("runs as a child process only")
	}
	q, err := postgres.NewBackup(openPG(t, socket, 5432, "postgres", "postgres"), postgres.Directory(t.TempDir()), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: pgWindow})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("HOLDS")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	held := hold.Held(t.Context())
	_, thaw := hold.Thaw(t.Context())
	fmt.Println("LOST", errors.Is(held, hooks.ErrHoldLost), errors.Is(thaw, hooks.ErrHoldLost))
}

// TestPostgresStalled stops and kills who holds a backup: the server ends it by
// its lease, and at once.
func TestPostgresStalled(t *testing.T) {
	s := newPG(t)
	load := startLoad(t, s, 2, 100, time.Millisecond)
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) { testStalled(t, s, load, sig) })
	}
}

func testStalled(t *testing.T, s *pgServer, load *pgLoad, sig syscall.Signal) {
	h := startHolder(t, "TestPostgresHolderProcess", pgHolderEnv+"="+s.socket)
	began := time.Now()
	h.signal(t, sig)
	held := func() (n int) {
		if err := s.db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_replication_slots").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	if sig == syscall.SIGSTOP && held() != 1 {
		t.Error("the process did not hold a backup")
	}
	load.waitMore(t, 1) // nobody is blocked meanwhile
	waitFor(t, func() bool { return held() == 0 })
	took := time.Since(began)
	t.Logf("the server ended the backup %v after the signal", took)
	limit := time.Second
	if sig == syscall.SIGSTOP {
		limit += pgWindow
	}
	if took > limit {
		t.Errorf("the backup ended %v after the signal, want at most %v", took, limit)
	}
	if sig == syscall.SIGSTOP {
		h.saysLost(t)
	}
}

// TestPostgresOldLease tries what version 13 is held with, on any version: the
// server ends a session that idles in a transaction, with its backup.
func TestPostgresOldLease(t *testing.T) {
	s := newPG(t)
	conn, err := s.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, q := range []string{
		"SELECT set_config('idle_in_transaction_session_timeout', '1000', false)", "BEGIN ISOLATION LEVEL READ COMMITTED",
		"SELECT pg_create_physical_replication_slot('protect_old', true, true)", "SELECT pg_backup_start('old', true)",
	} {
		if _, err := conn.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	var held bool
	query := "SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = (SELECT active_pid FROM pg_replication_slots)"
	if err := s.db.QueryRowContext(t.Context(), query).Scan(&held); err != nil || !held {
		t.Errorf("the idle transaction keeps no snapshot: %t, %v", held, err)
	}
	began := time.Now()
	waitFor(t, func() bool {
		var n int
		err := s.db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_replication_slots").Scan(&n)
		return err == nil && n == 0
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the server ended it after %v", took)
	}
}

// keeperFunc is a Keeper that is a function.
type keeperFunc func(ctx context.Context, name string, size int64, content io.Reader) error

func (f keeperFunc) Keep(ctx context.Context, name string, size int64, content io.Reader) error {
	return f(ctx, name, size, content)
}

// TestPostgresLosesProof does what makes a cut worthless, during the hold.
func TestPostgresLosesProof(t *testing.T) {
	s := newPG(t)
	admin := s.open(t, "postgres", "postgres")
	run := func(queries ...string) func(*testing.T) {
		return func(t *testing.T) {
			for _, q := range queries {
				if _, err := admin.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	space := own(t, filepath.Join(serverDir(t), "space"))
	ok := postgres.Directory(t.TempDir())
	tests := []struct {
		name   string
		keep   postgres.Keeper // nil: a cut at one instant
		during func(*testing.T)
		after  func(*testing.T)
		held   bool // Held cannot know
	}{
		{name: "full_page_writes", during: run("ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()", "SELECT pg_sleep(0.3)"), after: run("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()", "SELECT pg_sleep(0.3)")},
		{name: "tablespace", keep: ok, during: run("CREATE TABLESPACE late LOCATION '" + space + "'"), after: run("DROP TABLESPACE late")},
		{name: "session", keep: ok, during: run("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name LIKE 'protect epoch %'")},
		{name: "keeper fails", held: true, keep: keeperFunc(func(context.Context, string, int64, io.Reader) error { return errors.New("disk full") })},
		{name: "keeper does not read", held: true, keep: keeperFunc(func(context.Context, string, int64, io.Reader) error { return nil })},
		{name: "keeper reads half", held: true, keep: keeperFunc(func(_ context.Context, _ string, size int64, r io.Reader) error {
			_, err := io.CopyN(io.Discard, r, size/2)
			return err
		})},
		{name: "directory is gone", held: true, keep: postgres.Directory(filepath.Join(t.TempDir(), "none"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, err := postgres.NewAtomic(s.db, nil)
			if tt.keep != nil {
				q, err = postgres.NewBackup(s.db, tt.keep, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if tt.during != nil {
				tt.during(t)
			}
			if tt.after != nil {
				defer tt.after(t)
			}
			if err := hold.Held(t.Context()); errors.Is(err, hooks.ErrHoldLost) == tt.held {
				t.Errorf("Held: %v", err)
			}
			evidence, err := hold.Thaw(t.Context())
			if !errors.Is(err, hooks.ErrHoldLost) || len(evidence) > 0 {
				t.Errorf("Thaw: evidence %v, error %v; want hooks.ErrHoldLost", evidence, err)
			}
		})
	}
}

// TestPostgresArchive lets the server archive, and recovers from the archive,
// to a new timeline.
func TestPostgresArchive(t *testing.T) {
	dir := serverDir(t)
	data, archive := filepath.Join(dir, "data"), own(t, filepath.Join(dir, "archive"))
	initPG(t, data, "")
	s := startPG(t, data, "archive_mode=on", "archive_command=test ! -f "+archive+"/%f && cp %p "+archive+"/%f")
	load := startLoad(t, s, 2, 1000, time.Millisecond)
	q, err := postgres.NewBackup(s.db, postgres.Archive{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	load.waitMore(t, 20)
	before := load.seen()
	copied := filepath.Join(dir, "copy")
	g, err := hooks.NewGroup("shop", []hooks.Member{{Name: "db", Quiescer: q}}, &hooks.GroupOptions{Window: hooks.MaxWindow, ThawTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	report, err := g.Do(t.Context(), "id", func(ctx context.Context) error { return copyTree(ctx, data, copied, 0) })
	if err != nil || !report.Proven() {
		t.Fatalf("error %v, doubts %q", err, report.Doubts())
	}
	owner := postgres.Owner(serverAccount(t))
	if _, err := postgres.PrepareRestore(t.Context(), copied, report.Evidence["db"], &postgres.RestoreOptions{Owner: &owner}); !errors.Is(err, postgres.ErrInconsistent) {
		t.Errorf("PrepareRestore without any WAL: %v", err)
	}
	info, err := postgres.PrepareRestore(t.Context(), copied, report.Evidence["db"], &postgres.RestoreOptions{RestoreCommand: "cp '" + archive + "/%f' \"%p\"", Owner: &owner})
	if err != nil {
		t.Fatal(err)
	}
	v, err := postgres.Verify(t.Context(), pgBin(t), copied, &postgres.VerifyOptions{Info: info, Check: load.check(t, before)})
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := filepath.Glob(filepath.Join(copied, "pg_wal", "*.history")); err != nil || !slices.ContainsFunc(entries, func(e string) bool { return filepath.Base(e) == "00000002.history" }) {
		t.Errorf("it did not begin a new timeline: %v, %v", entries, err)
	}
	t.Logf("window %v, %+v", report.Frozen, v)
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// pgBin returns the directory with the programs of the newest PostgreSQL.
func pgBin(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		found = append(found, p)
	}
	realtest.Require(t, len(found) > 0, "there is no PostgreSQL server")
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) })
	return filepath.Dir(found[len(found)-1])
}

// pgCommand makes a program of PostgreSQL ready to run.
func pgCommand(ctx context.Context, t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	return serverCommand(ctx, t, filepath.Join(pgBin(t), program), args...)
}

// pgServer is a server that runs until the test is over.
type pgServer struct {
	*daemon
	data, socket string
	db           *sql.DB
}

// initPG makes a cluster in data, with its WAL elsewhere if wal is not empty.
func initPG(t testing.TB, data, wal string) {
	t.Helper()
	args := []string{"-D", data, "-U", "postgres", "-A", "trust", "-k", "--no-sync", "--no-instructions"}
	if wal != "" {
		args = append(args, "-X", wal)
	}
	if out, err := pgCommand(t.Context(), t, "initdb", args...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
}

// startPG starts a server on data.
func startPG(t testing.TB, data string, settings ...string) *pgServer {
	t.Helper()
	s := &pgServer{data: data, socket: serverDir(t)}
	args := []string{"-D", data}
	for _, set := range append([]string{
		"listen_addresses=", "unix_socket_directories=" + s.socket, "shared_buffers=16MB", "max_wal_size=64MB", "autovacuum_naptime=1s",
	}, settings...) {
		args = append(args, "-c", set)
	}
	s.daemon = startDaemon(t, func(ctx context.Context) *exec.Cmd { return pgCommand(ctx, t, "postgres", args...) }, syscall.SIGQUIT)
	s.db = s.open(t, "postgres", "postgres")
	s.await(t, s.db.PingContext)
	return s
}

// shutdown ends the server cleanly.
func (s *pgServer) shutdown() { s.end(syscall.SIGINT) }

// open connects as a role to a database.
func (s *pgServer) open(t testing.TB, role, database string) *sql.DB {
	t.Helper()
	return openPG(t, s.socket, 5432, role, database)
}

func openPG(t testing.TB, socket string, port int, role, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable connect_timeout=10", socket, port, role, database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// exec runs statements that must succeed.
func (s *pgServer) exec(t testing.TB, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if _, err := s.db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

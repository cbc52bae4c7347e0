// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/stillpoint-go/protect/hooks/postgres"
	"github.com/stillpoint-go/protect/internal/realtest"
)

// pgBin returns the directory with the programs of the newest PostgreSQL.
func pgBin(t *testing.T) string {
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

// pgOwner is who the servers of the tests run as.
func pgOwner(t *testing.T) postgres.Owner {
	t.Helper()
	realtest.Require(t, os.Geteuid() == 0, "starting servers as another user needs root")
	u, err := user.Lookup("nobody")
	realtest.Require(t, err == nil, "there is no user nobody")
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return postgres.Owner{UID: uid, GID: gid}
}

// pgDir is a directory of the test that others can pass through, and that the
// server's user may write to.
func pgDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "protect-pg-") //nolint:usetesting // below t.TempDir only its owner can pass, and its path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	o := pgOwner(t)
	if err := os.Chown(dir, o.UID, o.GID); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pgCommand runs a program as the server's user.
func pgCommand(ctx context.Context, t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	o := pgOwner(t)
	c := exec.CommandContext(ctx, filepath.Join(pgBin(t), program), args...)
	c.Dir, c.Env = "/", []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)},
		Pdeathsig:  syscall.SIGQUIT, // even if the test is killed
	}
	return c
}

// pgServer is a server that runs until the test is over.
type pgServer struct {
	data, socket string
	db           *sql.DB
	cmd          *exec.Cmd
	log          string
}

// initPG makes a cluster in data, with its WAL elsewhere if wal is not empty.
func initPG(t *testing.T, data, wal string) {
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
func startPG(t *testing.T, data string, settings ...string) *pgServer {
	t.Helper()
	s := &pgServer{data: data, socket: pgDir(t)}
	s.log = filepath.Join(s.socket, "log")
	args := []string{"-D", data}
	for _, set := range append([]string{
		"listen_addresses=", "unix_socket_directories=" + s.socket, "shared_buffers=16MB", "max_wal_size=64MB", "autovacuum_naptime=1s",
	}, settings...) {
		args = append(args, "-c", set)
	}
	// It must outlive the context of the test: Cleanup ends it.
	s.cmd = pgCommand(context.WithoutCancel(t.Context()), t, "postgres", args...)
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(s.log)
			t.Logf("the end of the server's log:\n%s", text[max(0, len(text)-4000):])
		}
	})
	s.db = s.open(t, "postgres", "postgres")
	for deadline := time.Now().Add(time.Minute); ; {
		if err = s.db.PingContext(t.Context()); err == nil {
			return s
		}
		if time.Now().After(deadline) || s.cmd.ProcessState != nil {
			text, _ := os.ReadFile(s.log)
			t.Fatalf("the server does not start: %v\n%s", err, text)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// stop ends the server as a crash would; again is fine.
func (s *pgServer) stop(t *testing.T) {
	t.Helper()
	s.end(syscall.SIGQUIT)
}

// shutdown ends the server cleanly.
func (s *pgServer) shutdown(t *testing.T) {
	t.Helper()
	s.end(syscall.SIGINT)
}

func (s *pgServer) end(sig syscall.Signal) {
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	timer := time.AfterFunc(30*time.Second, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait()
	timer.Stop()
}

// open connects as a role to a database.
func (s *pgServer) open(t *testing.T, role, database string) *sql.DB {
	t.Helper()
	return openPG(t, s.socket, 5432, role, database)
}

func openPG(t *testing.T, socket string, port int, role, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable connect_timeout=10", socket, port, role, database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// exec runs statements that must succeed.
func (s *pgServer) exec(t *testing.T, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if _, err := s.db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// mountFS makes a small file system on a loop device, until the test is over,
// that the server's user may write to.
func mountFS(t *testing.T, kind string) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	realtest.Require(t, err == nil, "mkfs."+kind+" is missing")
	dir := pgDir(t)
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 2<<30); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	system(t, mkfs, "-q", image)
	system(t, "mount", "-o", "loop", image, mount)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
			_ = exec.CommandContext(ctx, "umount", "-l", mount).Run() // better invisible than left over
		}
	})
	return mount
}

// own gives a new directory to the server's user.
func own(t *testing.T, dir string) string {
	t.Helper()
	o := pgOwner(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, o.UID, o.GID); err != nil {
		t.Fatal(err)
	}
	return dir
}

// system runs a program that must succeed.
func system(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

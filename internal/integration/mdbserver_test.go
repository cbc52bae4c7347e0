// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// mdbProgram returns the path of a program of MariaDB.
func mdbProgram(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	realtest.Require(t, false, "there is no MariaDB server: "+name+" is missing")
	return ""
}

const mdbBin = "/usr/bin"

// mdbServer is a server that runs until the test is over.
type mdbServer struct {
	*daemon
	data, socket string
	db           *sql.DB
}

// mdbSmall keeps the redo log small, so that checkpoints are frequent.
func mdbSmall() []string {
	return []string{"--innodb-log-file-size=10M", "--innodb-buffer-pool-size=24M", "--innodb-flush-method=fsync", "--aria-pagecache-buffer-size=8M", "--key-buffer-size=1M"}
}

// initMDB makes a data directory.
func initMDB(t testing.TB, data string, settings ...string) {
	t.Helper()
	own(t, data)
	args := []string{"--no-defaults", "--datadir=" + data, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-doublewrite=OFF"}
	c := serverCommand(t.Context(), t, mdbProgram(t, "mariadb-install-db"), append(append(append(args, mdbSmall()...), settings...), "--innodb-flush-method=nosync")...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v: %s", err, out)
	}
}

// startMDB starts a server on data.
func startMDB(t testing.TB, data string, settings ...string) *mdbServer {
	t.Helper()
	dir := serverDir(t)
	s := &mdbServer{data: data, socket: filepath.Join(dir, "s")}
	args := []string{
		"--no-defaults", "--datadir=" + data, "--socket=" + s.socket, "--pid-file=" + filepath.Join(dir, "pid"), "--tmpdir=" + dir,
		"--skip-networking", "--server-id=7", "--sync-binlog=1", "--max-connections=100",
	}
	args = append(append(args, mdbSmall()...), settings...)
	s.daemon = startDaemon(t, func(ctx context.Context) *exec.Cmd { return serverCommand(ctx, t, mdbProgram(t, "mariadbd"), args...) }, syscall.SIGKILL)
	s.db = openMDB(t, s.socket, "root", "mysql")
	s.await(t, s.db.PingContext)
	return s
}

// newMDB starts a server on a new data directory with a binary log.
func newMDB(t testing.TB, settings ...string) *mdbServer {
	t.Helper()
	data := filepath.Join(serverDir(t), "data")
	initMDB(t, data)
	return startMDB(t, data, append([]string{"--log-bin=bin"}, settings...)...)
}

// openMDB connects as a user.
func openMDB(t testing.TB, socket, user, database string) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.DBName, c.InterpolateParams = "unix", socket, user, database, true
	c.Logger = &mysql.NopLogger{} // sessions that are closed on purpose are no news
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// exec runs statements that must succeed.
func (s *mdbServer) exec(t testing.TB, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if _, err := s.db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// status returns a number that the server counts.
func (s *mdbServer) status(t testing.TB, name string) int64 {
	t.Helper()
	var n int64
	if err := s.db.QueryRowContext(t.Context(), "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = ?", name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

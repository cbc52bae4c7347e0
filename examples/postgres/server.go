// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"github.com/stillpoint-go/protect/hooks/postgres"
)

// programs are those of one version of PostgreSQL, and who runs them.
type programs struct {
	bin   string
	owner *postgres.Owner // nil: we do
}

// findPrograms looks where distributions put PostgreSQL.
func findPrograms(bin string) (*programs, error) {
	if bin == "" {
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		if err != nil {
			return nil, err
		}
		if path, err := exec.LookPath("postgres"); err == nil {
			found = append(found, path)
		}
		if len(found) == 0 {
			return nil, errors.New("PostgreSQL is not installed, or elsewhere: say where with -bin")
		}
		bin = filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return len(a) - len(b) }))
	}
	p := &programs{bin: bin}
	if os.Geteuid() != 0 {
		return p, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		p.owner = &postgres.Owner{UID: uid, GID: gid}
		return p, nil
	}
	return nil, errors.New("there is no other user than root to run the server")
}

// mkdir makes a directory for the server.
func (p *programs) mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil || p.owner == nil {
		return err
	}
	return os.Chown(dir, p.owner.UID, p.owner.GID)
}

// command makes a program ready to run as the server's user.
func (p *programs) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	c.Dir, c.Env = "/", []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to handle
	if p.owner != nil {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.owner.UID), Gid: uint32(p.owner.GID)}
	}
	return c
}

// initdb makes a cluster, with its log on a volume of its own.
func (p *programs) initdb(ctx context.Context, at place) error {
	out, err := p.command(ctx, "initdb", "-D", at.data, "-X", at.wal, "-U", "postgres", "-A", "trust", "-k", "--no-instructions").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// server is one that runs.
type server struct {
	*programs
	cmd     *exec.Cmd
	socket  string
	db      *sql.DB
	version string
}

// start starts a server that listens on a socket only.
func (p *programs) start(ctx context.Context, data string) (_ *server, err error) {
	s := &server{programs: p, socket: data + ".socket"}
	if err := p.mkdir(s.socket); err != nil {
		return nil, err
	}
	// It is ended by kill.
	s.cmd = p.command(context.WithoutCancel(ctx), "postgres", "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+s.socket)
	log, err := os.Create(filepath.Join(s.socket, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if s.db, err = connect(postgres.Instance{Socket: s.socket, Port: 5432, User: "postgres"}); err != nil {
		return nil, errors.Join(err, s.kill())
	}
	for deadline := time.Now().Add(time.Minute); ; {
		err := s.db.QueryRowContext(ctx, "SHOW server_version").Scan(&s.version)
		if err == nil {
			return s, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			text, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("the server does not start: %w\n%s", err, text), s.kill())
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, errors.Join(err, s.kill())
		}
	}
}

func connect(i postgres.Instance) (*sql.DB, error) {
	return sql.Open("pgx", fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", i.Socket, i.Port, i.User))
}

// kill has the server end at once, without a checkpoint, and waits for it.
func (s *server) kill() error {
	if s.cmd.ProcessState != nil {
		return nil
	}
	if s.db != nil {
		_ = s.db.Close() // what it says of the connections does not matter any more
	}
	err := s.cmd.Process.Signal(syscall.SIGQUIT)
	_ = s.cmd.Wait() // it says how it ended
	return err
}

// pgbench runs PostgreSQL's own benchmark.
func (s *server) pgbench(ctx context.Context, args ...string) error {
	out, err := s.command(ctx, "pgbench", append([]string{"-h", s.socket, "-U", "postgres"}, append(args, "postgres")...)...).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("pgbench: %w: %s", err, out)
	}
	return nil
}

// startLoad has four clients move money until the returned function is called.
func (s *server) startLoad(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.pgbench(ctx, "-n", "-c", "4", "-T", "86400") }()
	return func() error {
		cancel()
		return <-done
	}
}

// transactions returns how many were committed so far.
func (s *server) transactions(ctx context.Context) (n int64, err error) {
	return n, s.db.QueryRowContext(ctx, "SELECT count(*) FROM pgbench_history").Scan(&n)
}

// audit checks what is true at every instant: all four tables of pgbench
// account for the same money; and that nothing is missing from before.
func audit(ctx context.Context, i postgres.Instance, transactions int64) (err error) {
	db, err := connect(i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var accounts, tellers, branches, history, n int64
	err = db.QueryRowContext(ctx, `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
 (SELECT sum(bbalance) FROM pgbench_branches), COALESCE(sum(delta), 0), count(*) FROM pgbench_history`).Scan(&accounts, &tellers, &branches, &history, &n)
	if err != nil {
		return err
	}
	if accounts != history || tellers != history || branches != history {
		return fmt.Errorf("balances of %d, %d and %d, and a history of %d", accounts, tellers, branches, history)
	}
	if n < transactions {
		return fmt.Errorf("%d transactions, and %d were committed before the point", n, transactions)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// instance is a private server.
type instance struct {
	Instance
	bin     string
	private string // directory of the socket and of the configuration
	owner   program.Owner
	control map[string]string // what pg_controldata says
	cmd     *exec.Cmd
	log     *program.Tail
	ended   chan struct{} // closed when the server has
	err     error         // why it has, then
}

const (
	instancePort = 5432
	stopTimeout  = 5 * time.Minute
	pollStart    = 50 * time.Millisecond
)

// startInstance starts a server on the files and returns when it has recovered.
func startInstance(ctx context.Context, v *verifying) (_ *instance, err error) {
	at := &instance{bin: v.bin, log: new(program.Tail), ended: make(chan struct{})}
	at.User, at.Port = v.opts.User, instancePort
	if at.owner, err = program.OwnerOf(filepath.Join(v.dir, "PG_VERSION")); err != nil {
		return nil, err
	}
	if err := at.makePrivate(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, at.remove())
		}
	}()
	if err := at.readControl(ctx, v.dir); err != nil {
		return nil, err
	}
	args := []string{"-D", v.dir}
	for name, value := range at.settings(v.opts.Settings) {
		args = append(args, "-c", name+"="+value)
	}
	// Its life is not that of ctx: stop sees to it.
	at.cmd, err = at.command(context.WithoutCancel(ctx), "postgres", args...)
	if err != nil {
		return nil, err
	}
	at.cmd.Stdout, at.cmd.Stderr = at.log, at.log
	if err := at.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(at.ended)
		at.err = at.cmd.Wait()
	}()
	if err := at.waitRecovered(ctx, v.opts.StartTimeout); err != nil {
		return nil, errors.Join(err, at.stop(ctx))
	}
	return at, nil
}

// makePrivate makes the directory that nobody else can enter.
func (at *instance) makePrivate() error {
	var err error
	// A short path: the name of a socket has about a hundred bytes.
	if at.private, err = os.MkdirTemp("", "protect-pg-"); err != nil {
		return err
	}
	at.Socket = at.private
	for name, text := range map[string]string{"hba": "local all all trust\n", "ident": "", "conf": ""} {
		if err := os.WriteFile(filepath.Join(at.private, name), []byte(text), 0o644); err != nil {
			return errors.Join(err, at.remove())
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chown(at.private, at.owner.UID, at.owner.GID); err != nil {
		return errors.Join(err, at.remove())
	}
	return nil
}

// readControl asks pg_controldata, also to see that its version fits.
func (at *instance) readControl(ctx context.Context, dir string) error {
	var out bytes.Buffer
	var failed program.Tail
	if err := at.run(ctx, &out, &failed, "pg_controldata", dir); err != nil {
		return fmt.Errorf("%w: pg_controldata: %w: %s", ErrInconsistent, err, failed.String())
	}
	at.control = map[string]string{}
	for line := range strings.Lines(out.String()) {
		if k, val, ok := strings.Cut(line, ":"); ok {
			at.control[k] = strings.TrimSpace(val)
		}
	}
	return nil
}

// settings returns the configuration: nothing of that of the original takes
// part that could reach the world outside, or be missing here.
func (at *instance) settings(extra map[string]string) map[string]string {
	in := func(name string) string { return filepath.Join(at.private, name) }
	settings := map[string]string{
		"config_file": in("conf"), "hba_file": in("hba"), "ident_file": in("ident"), "external_pid_file": "",
		"listen_addresses": "", "unix_socket_directories": at.private, "unix_socket_permissions": "0700", "port": fmt.Sprint(at.Port), "ssl": "off",
		"logging_collector": "off", "log_destination": "stderr", "lc_messages": "C", "log_min_messages": "warning",
		"archive_mode": "off", "primary_conninfo": "", "max_wal_senders": "0", "max_logical_replication_workers": "0",
		"shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
		"autovacuum": "off", "checkpoint_timeout": "1d", "hot_standby": "off", "huge_pages": "off", "fsync": "on", "full_page_writes": "on",
		"statement_timeout": "0", "default_transaction_read_only": "off", "zero_damaged_pages": "off", "ignore_checksum_failure": "off",
	}
	// A recovery needs room for what the original had prepared.
	for setting, name := range map[string]string{
		"max_prepared_transactions": "max_prepared_xacts setting", "max_locks_per_transaction": "max_locks_per_xact setting",
	} {
		if value := at.control[name]; value != "" {
			settings[setting] = value
		}
	}
	maps.Copy(settings, extra)
	return settings
}

// waitRecovered returns when the server accepts queries, outside of recovery.
func (at *instance) waitRecovered(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		if _, err := os.Lstat(filepath.Join(at.private, fmt.Sprintf(".s.PGSQL.%d", at.Port))); err == nil {
			if text, err := at.query(ctx, "SELECT pg_is_in_recovery()"); err == nil && text == "f" {
				return nil
			}
		}
		timer := time.NewTimer(pollStart)
		select {
		case <-at.ended:
			timer.Stop()
			return fmt.Errorf("%w: the server does not start: %w: %s", ErrInconsistent, at.err, at.log.String())
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the server has not recovered: %w: %s", ctx.Err(), at.log.String())
		case <-timer.C:
		}
	}
}

// stop ends the server, cleanly if it can, and returns when it has ended.
func (at *instance) stop(ctx context.Context) error {
	select {
	case <-at.ended:
		return nil // said by who has waited for it
	default:
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	_ = at.cmd.Process.Signal(os.Interrupt) // a fast shutdown
	select {
	case <-at.ended:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	at.quit()
	timer.Reset(stopTimeout)
	select {
	case <-at.ended:
	case <-timer.C:
		_ = at.cmd.Process.Kill()
		<-at.ended
	}
	return errors.New("the server did not shut down in time")
}

// remove removes what was private to the instance.
func (at *instance) remove() error { return os.RemoveAll(at.private) }

// has says whether there is such a program.
func (at *instance) has(name string) bool {
	_, err := os.Stat(filepath.Join(at.bin, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// command is a program of the server's version that runs as the owner of the
// files.
func (at *instance) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, filepath.Join(at.bin, name), args...)
	c.Dir = at.private
	// Nothing is inherited that libpq or the server would listen to.
	c.Env = []string{
		"PATH=/usr/bin:/bin", "LC_ALL=C", "PGHOST=" + at.Socket, fmt.Sprintf("PGPORT=%d", at.Port), "PGUSER=" + at.User,
		"PGDATABASE=postgres", "PGCONNECT_TIMEOUT=10", "PGPASSFILE=/dev/null", "HOME=" + at.private,
	}
	return c, program.As(c, at.owner)
}

// run runs a program to its end.
func (at *instance) run(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error {
	c, err := at.command(ctx, name, args...)
	if err != nil {
		return err
	}
	c.Stdout, c.Stderr = stdout, stderr
	return c.Run()
}

// query returns the lines of the answer to a query.
func (at *instance) query(ctx context.Context, sql string) (string, error) {
	return at.queryIn(ctx, "postgres", sql)
}

func (at *instance) queryIn(ctx context.Context, database, sql string) (string, error) {
	var out bytes.Buffer
	var failed program.Tail
	err := at.run(ctx, &out, &failed, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--dbname="+connString(database), "--command="+sql)
	if err != nil {
		return "", fmt.Errorf("query: %w: %s", err, failed.String())
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// connString names a database, whatever is in its name.
func connString(database string) string {
	return "dbname='" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(database) + "'"
}

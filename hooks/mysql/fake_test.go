// SPDX-License-Identifier: Apache-2.0

package mysql_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// fakeServer answers as a MySQL server would, which no test machine has. What it
// says is from the manuals, not from a server.
type fakeServer struct {
	mu        sync.Mutex
	log       []string
	sessions  map[*fakeConn]bool
	variables map[string]string
	grants    []string
	others    [][]driver.Value // tables that are not InnoDB's
	busy      [][]driver.Value
	files     [][]driver.Value // tablespaces with an absolute path
	uuid      string
	gtid      string
	proxied   bool // answers CONNECTION_ID itself
	lastID    int64
}

const (
	fakeUUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	fakeGTID = fakeUUID + ":1-77"
)

func newFake() *fakeServer {
	return &fakeServer{
		sessions: map[*fakeConn]bool{}, uuid: fakeUUID, gtid: fakeGTID,
		variables: map[string]string{
			"version": "8.0.36", "datadir": "/data/", "performance_schema": "ON", "innodb_page_size": "16384", "innodb_doublewrite": "ON",
			"innodb_flush_log_at_trx_commit": "1", "sync_binlog": "1", "log_bin": "ON", "log_bin_basename": "/data/binlog", "log_bin_index": "/data/binlog.index",
			"innodb_data_file_path": "ibdata1:12M:autoextend", "lower_case_table_names": "0", "gtid_mode": "ON", "server_id": "3", "innodb_force_recovery": "0",
		},
		grants: []string{
			"GRANT RELOAD, PROCESS, SHOW VIEW ON *.* TO `keeper`@`%`", "GRANT BACKUP_ADMIN ON *.* TO `keeper`@`%`",
			"GRANT SELECT ON `performance_schema`.* TO `keeper`@`%`",
		},
	}
}

// locked says how many sessions have a lock.
func (f *fakeServer) locked(lock string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for c := range f.sessions {
		if slices.Contains(c.locks, lock) {
			n++
		}
	}
	return n
}

// kill ends all sessions.
func (f *fakeServer) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
}

func (f *fakeServer) statements() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fakeServer) Connect(context.Context) (driver.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastID++
	c := &fakeConn{f: f, id: f.lastID}
	f.sessions[c] = true
	return c, nil
}

func (f *fakeServer) Driver() driver.Driver { return nil }

type fakeConn struct {
	f     *fakeServer
	id    int64
	nonce string
	locks []string
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *fakeConn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (c *fakeConn) Close() error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	delete(c.f.sessions, c)
	return nil
}

// enter takes the server's mutex for a statement, unless the session has ended.
func (c *fakeConn) enter(ctx context.Context, statement string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.f.mu.Lock()
	if !c.f.sessions[c] {
		c.f.mu.Unlock()
		return errors.New("the session has ended")
	}
	c.f.log = append(c.f.log, statement)
	return nil
}

func (c *fakeConn) ExecContext(ctx context.Context, statement string, _ []driver.NamedValue) (driver.Result, error) {
	if err := c.enter(ctx, statement); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	switch {
	case strings.HasPrefix(statement, "SET @protect_session = '"):
		c.nonce = strings.Split(statement, "'")[1]
	case strings.HasPrefix(statement, "SET SESSION wait_timeout"):
	case statement == "LOCK INSTANCE FOR BACKUP":
		c.locks = append(c.locks, "BACKUP LOCK")
	case statement == "FLUSH TABLES WITH READ LOCK":
		c.locks = append(c.locks, "GLOBAL", "COMMIT")
	case statement == "UNLOCK TABLES":
		c.locks = slices.DeleteFunc(c.locks, func(l string) bool { return l != "BACKUP LOCK" })
	case statement == "UNLOCK INSTANCE":
		c.locks = slices.DeleteFunc(c.locks, func(l string) bool { return l == "BACKUP LOCK" })
	default:
		return nil, fmt.Errorf("the fake server does not know %q", statement)
	}
	return driver.ResultNoRows, nil
}

func (c *fakeConn) QueryContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.enter(ctx, query); err != nil {
		return nil, err
	}
	defer c.f.mu.Unlock()
	has := func(s string) bool { return strings.Contains(query, s) }
	switch {
	case query == "SELECT CONNECTION_ID()":
		return rowsOf([]driver.Value{c.id}), nil
	case has("pseudo_thread_id"):
		thread := c.id
		if c.f.proxied {
			thread += 1000
		}
		return rowsOf([]driver.Value{c.id, thread, c.nonce}), nil
	case query == "SHOW GLOBAL VARIABLES":
		var all [][]driver.Value
		for name, value := range c.f.variables {
			all = append(all, []driver.Value{name, value})
		}
		return rowsOf(all...), nil
	case has("Innodb_redo_log_enabled"):
		return rowsOf([]driver.Value{"Innodb_redo_log_enabled", "ON"}), nil
	case query == "SHOW GRANTS":
		var all [][]driver.Value
		for _, g := range c.f.grants {
			all = append(all, []driver.Value{g})
		}
		return rowsOf(all...), nil
	case query == "SELECT CURRENT_USER()":
		return rowsOf([]driver.Value{"keeper@%"}), nil
	case has("performance_schema.log_status"):
		if !slices.ContainsFunc(c.f.grants, func(g string) bool { return strings.Contains(g, "performance_schema") }) {
			return nil, errors.New("SELECT command denied")
		}
		return rowsOf([]driver.Value{
			c.f.uuid, `{"gtid_executed": "` + c.f.gtid + `", "binary_log_file": "binlog.000005", "binary_log_position": 1067}`,
			`{"channels": []}`, `{"InnoDB": {"LSN": 19461872, "LSN_checkpoint": 19461800}}`,
		}), nil
	case has("metadata_locks"):
		var all [][]driver.Value
		for _, l := range c.locks {
			all = append(all, []driver.Value{l})
		}
		return rowsOf(all...), nil
	case has("information_schema.TABLES"):
		return rowsOf(c.f.others...), nil
	case has("information_schema.FILES"):
		return rowsOf(c.f.files...), nil
	case has("information_schema.PROCESSLIST"):
		return rowsOf(c.f.busy...), nil
	}
	return nil, fmt.Errorf("the fake server does not know %q", query)
}

type rows struct{ all [][]driver.Value }

func rowsOf(all ...[]driver.Value) *rows { return &rows{all} }

func (r *rows) Columns() []string {
	if len(r.all) == 0 {
		return []string{"", "", ""}
	}
	return make([]string, len(r.all[0]))
}
func (r *rows) Close() error { return nil }
func (r *rows) Next(dest []driver.Value) error {
	if len(r.all) == 0 {
		return io.EOF
	}
	copy(dest, r.all[0])
	r.all = r.all[1:]
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
)

// fakeServer answers as a server of some version would, for the versions that
// no test machine has. What it says is from the manuals, not from a server.
type fakeServer struct {
	version   int
	exclusive bool
	granted   bool
	pid       int64

	mu  sync.Mutex
	log []string
}

const (
	fakeSystem  = "7711388328249803370"
	fakeSegment = 1 << 20
	fakeLabel   = "START WAL LOCATION: 0/200028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/200060\n" +
		"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-23 08:00:00 UTC\nLABEL: protect\nSTART TIMELINE: 1\n"
)

func (f *fakeServer) Connect(context.Context) (driver.Conn, error) { return fakeConn{f}, nil }
func (f *fakeServer) Driver() driver.Driver                        { return nil }

func (f *fakeServer) statements() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

type fakeConn struct{ f *fakeServer }

func (c fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c fakeConn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (c fakeConn) Close() error                        { return nil }

func (c fakeConn) note(query string, args []driver.NamedValue) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	for i, a := range args {
		query = strings.ReplaceAll(query, fmt.Sprintf("$%d", i+1), fmt.Sprint(a.Value))
	}
	c.f.log = append(c.f.log, query)
}

func (c fakeConn) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.note(query, args)
	return driver.ResultNoRows, nil
}

func (c fakeConn) QueryContext(_ context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.note(query, args)
	has := func(s string) bool { return strings.Contains(query, s) }
	switch {
	case has("server_version_num"):
		return row(int64(c.f.version)), nil
	case has("pg_control_system"):
		return row(c.f.pid, "2026-11-23 07:00:00+00", false, fakeSystem, "0/200060", "000000010000000000000002", "0/200100", "0/200200",
			int64(fakeSegment), int64(8192), "on", "on", "replica", "off", "on", "postgres", "/data", int64(10), int64(0)), nil
	case has("rolsuper"), has("has_function_privilege"), has("pg_has_role"):
		return row(c.f.granted), nil
	case has("pg_is_in_backup"):
		return row(c.f.exclusive), nil
	case has("pg_tablespace_location"):
		return &rows{}, nil
	case has("quote_ident"):
		return row("keeper"), nil
	case has("pg_start_backup($1"), has("pg_backup_start($1"):
		return row("0/200028"), nil
	case has("pg_stop_backup("), has("pg_backup_stop("):
		return row("0/380000", fakeLabel, ""), nil
	case has("pg_read_binary_file($1"):
		return row(fakeWAL(args[0].Value.(string), args[2].Value.(int64))), nil
	case has("set_config"):
		return row(args[1].Value), nil
	case has("active_pid"):
		return row(true), nil
	}
	return nil, fmt.Errorf("the fake server does not know %q", query)
}

// fakeWAL is a segment of one megabyte: a header, and nothing.
func fakeWAL(name string, size int64) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b[4:], 1)
	var n uint64
	if _, err := fmt.Sscanf(name, "pg_wal/0000000100000000%X", &n); err != nil {
		panic(err)
	}
	binary.LittleEndian.PutUint64(b[8:], n*fakeSegment)
	binary.LittleEndian.PutUint64(b[24:], 7711388328249803370)
	binary.LittleEndian.PutUint32(b[32:], fakeSegment)
	return b
}

type rows struct{ values []driver.Value }

func row(values ...driver.Value) *rows { return &rows{values} }

func (r *rows) Columns() []string { return make([]string, max(1, len(r.values))) }
func (r *rows) Close() error      { return nil }
func (r *rows) Next(dest []driver.Value) error {
	if r.values == nil {
		return io.EOF
	}
	copy(dest, r.values)
	r.values = nil
	return nil
}

// keeper remembers what it was given.
type keeper struct{ names []string }

func (k *keeper) Keep(_ context.Context, name string, size int64, content io.Reader) error {
	n, err := io.Copy(io.Discard, content)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes, want %d", n, size)
	}
	k.names = append(k.names, name)
	return err
}

// TestVersions checks what each version is asked for: the names of the
// functions, and the kind of lease.
func TestVersions(t *testing.T) {
	tests := []struct {
		version    int
		want, none []string
	}{
		{130012, []string{"set_config(idle_in_transaction_session_timeout, 5000", "BEGIN", "pg_start_backup(protect, true, false)", "pg_stop_backup(false, false)"}, []string{"idle_session_timeout,", "pg_backup_"}},
		{140008, []string{"set_config(idle_session_timeout, 5000", "pg_start_backup(protect, true, false)", "pg_stop_backup(false, false)"}, []string{"BEGIN", "pg_backup_"}},
		{150018, []string{"set_config(idle_session_timeout, 5000", "pg_backup_start(protect, true)", "pg_backup_stop(false)"}, []string{"BEGIN", "_backup(", "pg_is_in_backup"}},
		{180000, []string{"pg_backup_start(protect, true)", "pg_backup_stop(false)"}, []string{"_backup(", "pg_is_in_backup"}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.version), func(t *testing.T) {
			f := &fakeServer{version: tt.version, pid: 42}
			k := new(keeper)
			q, err := postgres.NewBackup(sql.OpenDB(f), k, nil)
			if err != nil {
				t.Fatal(err)
			}
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := hold.Held(t.Context()); err != nil {
				t.Error(err)
			}
			evidence, err := hold.Thaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all := strings.ReplaceAll(strings.Join(f.statements(), "\n"), "pg_catalog.", "")
			at := 0
			for _, want := range tt.want {
				i := strings.Index(all[at:], want)
				if i < 0 {
					t.Fatalf("%q is missing, or is not in its place:\n%s", want, all)
				}
				at += i
			}
			for _, none := range tt.none {
				if strings.Contains(all, none) {
					t.Errorf("%q is not for this version:\n%s", none, all)
				}
			}
			if want := []string{"000000010000000000000002", "000000010000000000000003"}; !slices.Equal(k.names, want) {
				t.Errorf("kept %v, want %v", k.names, want)
			}
			info, err := postgres.ParseEvidence(evidence)
			if err != nil {
				t.Fatal(err)
			}
			if info.Start.String() != "0/200028" || info.Stop.String() != "0/380000" || info.Checkpoint.String() != "0/200060" || info.ServerVersion != tt.version || string(info.Label) != fakeLabel {
				t.Errorf("evidence %+v", info)
			}
		})
	}
}

// TestPooler changes the server process behind the connection.
func TestPooler(t *testing.T) {
	f := &fakeServer{version: 150018, pid: 42}
	q, err := postgres.NewAtomic(sql.OpenDB(f), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	f.pid++
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held: %v", err)
	}
	if _, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw: %v", err)
	}
}

func TestOldVersions(t *testing.T) {
	for _, tt := range []struct {
		server *fakeServer
		want   error
		says   string
	}{
		{&fakeServer{version: 120022}, errors.ErrUnsupported, "12"},
		{&fakeServer{version: 130012, exclusive: true}, postgres.ErrUnsafe, "exclusive"},
		{&fakeServer{version: 140012}, nil, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_stop_backup(boolean, boolean) TO keeper"},
	} {
		q, err := postgres.NewBackup(sql.OpenDB(tt.server), new(keeper), nil)
		if err != nil {
			t.Fatal(err)
		}
		err = q.Prepare(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.says) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("version %d: %v, want %v with %q", tt.server.version, err, tt.want, tt.says)
		}
	}
}

func TestNew(t *testing.T) {
	db := sql.OpenDB(&fakeServer{})
	for name, err := range map[string]error{
		"nil database": second(postgres.NewAtomic(nil, nil)),
		"nil keeper":   second(postgres.NewBackup(db, nil, nil)),
		"label":        second(postgres.NewAtomic(db, &postgres.Options{Label: "two\nlines"})),
		"volume":       second(postgres.NewAtomic(db, &postgres.Options{Volumes: []string{"relative"}})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_ *postgres.Quiescer, err error) error { return err }

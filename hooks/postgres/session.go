// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// session is one connection that is ours until it is closed.
type session struct {
	conn *sql.Conn
}

func (q *Quiescer) open(ctx context.Context) (*session, error) {
	conn, err := q.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn}
	// Nobody's functions and tables stand in for those of the system.
	if err := s.set(ctx, "search_path", "pg_catalog"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// set changes a setting of the session.
func (s *session) set(ctx context.Context, name, value string) error {
	var got string
	err := s.conn.QueryRowContext(ctx, "SELECT pg_catalog.set_config($1, $2, false)", name, value).Scan(&got)
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// close ends the session, and with it whatever it holds: the pool must not
// give it to anybody else. The server notices by itself; it need not be
// reachable.
func (s *session) close() {
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.conn.Close()
}

// lease makes the server end the session if it hears nothing for the window:
// a client that is stalled, or on the other side of a broken network, does not
// hold a backup for ever. It is set before there is anything to hold.
func (s *session) lease(ctx context.Context, srv *server, req hooks.FreezeRequest) error {
	if err := s.set(ctx, "application_name", fmt.Sprintf("protect epoch %d", req.Epoch)); err != nil {
		return err
	}
	// A statement of ours never outlives the window either.
	if err := s.set(ctx, "statement_timeout", milliseconds(req.Window)); err != nil {
		return err
	}
	if err := s.set(ctx, "lock_timeout", milliseconds(req.Window)); err != nil {
		return err
	}
	if err := s.set(ctx, srv.leaseSetting(), milliseconds(req.Window)); err != nil {
		return err
	}
	if srv.version >= versionIdleSession {
		return nil
	}
	// Version 13 knows a limit for idle transactions only. One that has read
	// nothing yet, or between its statements at this level, keeps no snapshot
	// and no row: VACUUM is not held up.
	_, err := s.conn.ExecContext(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED")
	return err
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}

// server is what is known of the server at one moment.
type server struct {
	version          int // like 150018
	pid              int64
	started          string // when the postmaster did
	recovering       bool
	system           string
	timeline         uint32
	checkpoint       LSN
	flushed          LSN
	inserted         LSN
	segmentSize      int64
	blockSize        int64
	fsync            string
	fullPageWrites   string
	walLevel         string
	archiveMode      string
	checksums        string
	superuser        string // of the cluster
	exclusive        bool   // an exclusive backup is in progress
	dataDirectory    sql.NullString
	slots, slotsUsed int
}

const (
	versionOldest      = 130000
	versionIdleSession = 140000
	versionRenamed     = 150000 // pg_start_backup became pg_backup_start
)

// leaseSetting is the setting by which the server ends an idle session.
func (srv *server) leaseSetting() string {
	if srv.version >= versionIdleSession {
		return "idle_session_timeout"
	}
	return "idle_in_transaction_session_timeout"
}

const serverQuery = `SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time()::text, pg_catalog.pg_is_in_recovery(),
 (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
 (SELECT checkpoint_lsn::text FROM pg_catalog.pg_control_checkpoint()),
 CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
 CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0' ELSE pg_catalog.pg_current_wal_flush_lsn()::text END,
 CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0' ELSE pg_catalog.pg_current_wal_insert_lsn()::text END,
 (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'),
 (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'block_size'),
 pg_catalog.current_setting('fsync'), pg_catalog.current_setting('full_page_writes'), pg_catalog.current_setting('wal_level'),
 pg_catalog.current_setting('archive_mode'), pg_catalog.current_setting('data_checksums'),
 (SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10),
 (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'),
 pg_catalog.current_setting('max_replication_slots')::int, (SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_replication_slots)`

// server asks for what is known of the server.
func (s *session) server(ctx context.Context) (*server, error) {
	srv := new(server)
	if err := s.conn.QueryRowContext(ctx, "SELECT pg_catalog.current_setting('server_version_num')::int").Scan(&srv.version); err != nil {
		return nil, err
	}
	if srv.version < versionOldest {
		return nil, errTooOld(srv.version)
	}
	var file, checkpoint, flushed, inserted string
	err := s.conn.QueryRowContext(ctx, serverQuery).Scan(&srv.pid, &srv.started, &srv.recovering, &srv.system, &checkpoint, &file,
		&flushed, &inserted, &srv.segmentSize, &srv.blockSize, &srv.fsync, &srv.fullPageWrites, &srv.walLevel, &srv.archiveMode,
		&srv.checksums, &srv.superuser, &srv.dataDirectory, &srv.slots, &srv.slotsUsed)
	if err != nil {
		return nil, err
	}
	if len(file) == segmentName {
		tli, err := strconv.ParseUint(file[:8], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("name of a WAL file: %w", err)
		}
		srv.timeline = uint32(tli)
	}
	for _, l := range []struct {
		to   *LSN
		text string
	}{{&srv.checkpoint, checkpoint}, {&srv.flushed, flushed}, {&srv.inserted, inserted}} {
		if *l.to, err = ParseLSN(l.text); err != nil {
			return nil, err
		}
	}
	if srv.version < versionRenamed {
		// Later versions have no exclusive backups.
		err = s.conn.QueryRowContext(ctx, "SELECT pg_catalog.pg_is_in_backup()").Scan(&srv.exclusive)
	}
	return srv, err
}

// tablespaces returns the places of the tablespaces that have one, by OID.
func (s *session) tablespaces(ctx context.Context) (map[string]string, error) {
	rows, err := s.conn.QueryContext(ctx, `SELECT oid::text, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace
 WHERE pg_catalog.pg_tablespace_location(oid) <> ''`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found map[string]string
	for rows.Next() {
		var oid, place string
		if err := rows.Scan(&oid, &place); err != nil {
			return nil, err
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[oid] = place
	}
	return found, rows.Err()
}

// SPDX-License-Identifier: Apache-2.0

// Package mysql protects a MySQL server, version 8.0 or newer, and brings its
// data directory back: checks ahead of the window, a quiescer, what has to be done
// to the restored files, and a verification that starts them.
//
// No test of this package has met a MySQL server. Its tests use a driver that
// answers as the manuals say, and what it shares with package mariadb is tried
// there, on a real one. Rehearse, and verify a restored copy, before you rely on
// it.
//
// No lock of the server stops InnoDB from writing. Files that are copied one after
// another under a lock do not fit together. Therefore the volumes with data, redo,
// undo and binary log have to be cut at one instant, always: the Traits say
// AtomicCut, so that a point whose volumes were not is not called
// application-consistent, and is an error for who requires that.
//
//	tables                       use        what waits meanwhile
//	InnoDB only                  NewAtomic  nothing
//	InnoDB only, no DDL wanted   NewBackup  DDL
//	other engines as well        NewBackup  all writes
//
// [NewAtomic] freezes nothing. InnoDB recovers from such a copy as from a power
// failure: every commit that was acknowledged before the cut is in it.
//
// [NewBackup] holds [LOCK INSTANCE FOR BACKUP], and, if there are tables of other
// engines, also FLUSH TABLES WITH READ LOCK, which is not begun while a statement
// runs for longer than Options.MaxStatement.
//
// # The session
//
// Both hold one dedicated connection, which is closed afterwards, never reused. It
// must reach the server directly: another session in its place is noticed, and the
// hold lost. The server itself ends the session, and its locks, when the client is
// stalled for longer than the window, in whole seconds (wait_timeout). Held asks
// performance_schema.metadata_locks whether this very session still has the locks.
//
// # Permissions
//
// Prepare names what is missing:
//
//	GRANT BACKUP_ADMIN, PROCESS, SHOW VIEW ON *.* TO u;
//	GRANT SELECT ON performance_schema.* TO u;
//	GRANT RELOAD ON *.* TO u;           -- NewBackup with other engines
//
// # Restore
//
//  1. Restore the volumes to an empty place.
//  2. [PrepareRestore] with the evidence that is stored with the point: it checks
//     that the files belong to it, and deletes auto.cnf, so that the restored
//     server gets a UUID of its own.
//  3. [Verify] starts a private instance on the files, checks all tables, and
//     says what it checked. Verify a copy, or before the server is used.
//  4. Start the server, with the same log_bin as the original at its first
//     start: the binary log decides about transactions that were prepared.
//
// # Limits
//
// MEMORY tables are empty after a restore. The keyring of encrypted tables is not
// part of the data: protect it in another way. A restored replica begins to
// replicate unless it is started with skip_replica_start, and a member of a group
// to join it. An instance of Verify outlives a process that is killed.
//
// [LOCK INSTANCE FOR BACKUP]: https://dev.mysql.com/doc/refman/8.0/en/lock-instance-for-backup.html
package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

var (
	// ErrUnsafe reports a server whose settings, tables or layout do not allow
	// a copy that is certain to recover.
	ErrUnsafe = errors.New("mysql: no safe copy is possible")

	// ErrBusy reports that a statement runs for so long that a lock would wait
	// for it, and everybody else for the lock.
	ErrBusy = errors.New("mysql: the server is busy")

	// ErrInconsistent reports restored files that do not belong together, or
	// that are not what the evidence says, or that are damaged.
	ErrInconsistent = errors.New("mysql: the copy is not consistent")
)

// Options are the optional settings of NewAtomic and NewBackup.
type Options struct {
	// Volumes are the directories, as the server sees them, that the protected
	// volumes are mounted at. Prepare refuses a server with its data, redo,
	// undo or binary log elsewhere. Empty means that all of these have to be in
	// the data directory.
	Volumes []string
	// MaxStatement is how long a statement may run for before all writes are
	// blocked; else ErrBusy, in whole seconds. Zero means 10 s.
	MaxStatement time.Duration
	// Relaxed accepts that commits of about the last second before the cut may
	// be missing: innodb_flush_log_at_trx_commit or sync_binlog may be other
	// than 1.
	Relaxed bool
	// AtomicPageWrites says that the storage never shows half of a page that is
	// written, so that innodb_doublewrite=OFF is safe.
	AtomicPageWrites bool
}

const (
	defaultMaxStatement = 10 * time.Second
	versionOldest       = 80000
)

// Quiescer protects one server. It is safe for concurrent use.
type Quiescer struct {
	db     *sql.DB
	method Method
	opts   Options
}

var (
	_ hooks.Quiescer = (*Quiescer)(nil)
	_ hooks.Preparer = (*Quiescer)(nil)
)

// NewAtomic returns a quiescer for the server of db, with InnoDB tables only,
// which freezes nothing. db remains the caller's, and the driver the caller's
// choice.
func NewAtomic(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, MethodAtomic, opts)
}

// NewBackup returns a quiescer for the server of db that blocks DDL, and all
// writes if there are tables of other engines than InnoDB.
func NewBackup(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, MethodBackup, opts)
}

func newQuiescer(db *sql.DB, method Method, opts *Options) (*Quiescer, error) {
	if db == nil {
		return nil, errors.New("mysql: database is nil")
	}
	q := &Quiescer{db: db, method: method}
	if opts != nil {
		q.opts = *opts
	}
	if q.opts.MaxStatement < 0 {
		return nil, fmt.Errorf("mysql: MaxStatement %v is negative", q.opts.MaxStatement)
	}
	if q.opts.MaxStatement == 0 {
		q.opts.MaxStatement = defaultMaxStatement
	}
	var err error
	if q.opts.Volumes, err = innodb.CleanVolumes(q.opts.Volumes); err != nil {
		return nil, fmt.Errorf("mysql: %w", err)
	}
	return q, nil
}

// Traits implements hooks.Quiescer: a session that vouches for the data of the
// application in a cut at one instant.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}
}

// Prepare implements hooks.Preparer: it checks the server, its tables and layout
// and the permissions. Its error joins everything that is wrong, and matches
// fs.ErrPermission for missing grants, ErrUnsafe, ErrBusy, and
// errors.ErrUnsupported for a server that is too old or of another make.
func (q *Quiescer) Prepare(ctx context.Context) error {
	s, err := innodb.Open(ctx, q.db)
	if err != nil {
		return fmt.Errorf("mysql: prepare: %w", err)
	}
	defer s.Close()
	srv, err := readServer(ctx, s)
	if err != nil {
		return fmt.Errorf("mysql: prepare: %w", err)
	}
	if err := errors.Join(q.check(ctx, s, srv)...); err != nil {
		return fmt.Errorf("mysql: prepare: %w", err)
	}
	return nil
}

// Quiesce implements hooks.Quiescer. A server that cannot be copied safely is an
// error, as in Prepare.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (_ hooks.Hold, err error) {
	if req.Window <= 0 {
		req.Window = hooks.DefaultWindow
	}
	s, err := innodb.Open(ctx, q.db)
	if err != nil {
		return nil, fmt.Errorf("mysql: quiesce: %w", err)
	}
	defer func() {
		if err != nil {
			s.Close() // whatever it holds goes with the session
		}
	}()
	h := &hold{q: q, s: s, end: time.Now().Add(req.Window)}
	if h.srv, err = readServer(ctx, s); err != nil {
		return nil, fmt.Errorf("mysql: quiesce: %w", err)
	}
	if err := errors.Join(q.checkSettings(h.srv)...); err != nil {
		return nil, fmt.Errorf("mysql: quiesce: %w", err)
	}
	if err := s.Lease(ctx, req.Window); err != nil {
		return nil, fmt.Errorf("mysql: lease: %w", err)
	}
	if err := h.begin(ctx); err != nil {
		return nil, fmt.Errorf("mysql: quiesce: %w", err)
	}
	return h, nil
}

// SPDX-License-Identifier: Apache-2.0

// Package sqlite quiesces a SQLite database by holding its write lock: a
// transaction begun with BEGIN IMMEDIATE, on a connection of its own, from the
// first freeze to the rollback. Readers go on; writers of all processes wait
// for as long as their busy timeout lets them. A cut of the volume, or a copy
// of the database file and then of its -wal file, made meanwhile holds every
// commit that was acknowledged before.
//
// The package works with any driver for database/sql and imports none.
//
// # The POSIX lock trap
//
// SQLite locks with POSIX advisory locks on most systems. They belong to the
// process, and closing any descriptor of the file drops all of them, silently.
// Therefore this process must not open the database file, its -wal or its -shm
// file by other means than the same driver, not even to copy it: let another
// process copy, or cut the volume below. The same goes for a second SQLite
// library in the process. A lock that was lost like that is noticed by Held if
// somebody has committed since, given that the pool allows two connections.
//
// # A process that is stalled
//
// SQLite has no lease: while the process that holds the lock is stopped, the
// writers of other processes wait. [Serve] holds it in a process of its own, which
// ends with its parent or with the window.
//
// # Restore
//
// The restored files need no preparation. [Verify] opens nothing itself: it
// checks what a *sql.DB of the caller shows, every table, index and value.
//
// # Limits
//
// The database must be on a local file system, since locks over NFS are not
// reliable. The pool must allow one connection beyond those of the
// application, better two, and must be able to reach the same database with
// each of them, which an in-memory database without a shared cache cannot.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

const (
	// busyTimeout is how long SQLite itself waits for a lock while we freeze,
	// in milliseconds. It bounds how late the end of a context is noticed.
	busyTimeout = 50
	// pause is the rest between two attempts to lock. SQLite's lock is not
	// fair, so that a long pause would starve us next to busy writers.
	pause = 5 * time.Millisecond
)

// Options are the optional settings of New.
type Options struct {
	// NoCheckpoint keeps Prepare from moving the content of the write-ahead
	// log into the database file. It then does nothing but reach the database.
	NoCheckpoint bool
}

// Quiescer freezes one database. It is safe for concurrent use; a second
// freeze waits for the end of the first.
type Quiescer struct {
	db   *sql.DB
	opts Options
}

var (
	_ hooks.Quiescer = (*Quiescer)(nil)
	_ hooks.Preparer = (*Quiescer)(nil)
)

// New returns a quiescer for the database of db, which remains the caller's.
func New(db *sql.DB, opts *Options) (*Quiescer, error) {
	if db == nil {
		return nil, errors.New("sqlite: database is nil")
	}
	q := &Quiescer{db: db}
	if opts != nil {
		q.opts = *opts
	}
	return q, nil
}

// Traits implements hooks.Quiescer: a session freeze of the application.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
}

// Prepare implements hooks.Preparer: it empties the write-ahead log, so that
// what is cut needs no recovery worth mentioning. Readers and writers that are
// in the way are not waited for: a log that stays is no error, since it
// belongs to the cut as well.
func (q *Quiescer) Prepare(ctx context.Context) error {
	s, err := q.open(ctx, 0)
	if err != nil {
		return fmt.Errorf("sqlite: prepare: %w", err)
	}
	defer s.close(ctx)
	if q.opts.NoCheckpoint {
		return nil
	}
	var busy, log, done int
	err = s.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &done)
	if err != nil && !isBusy(err) {
		s.broken = true
		return fmt.Errorf("sqlite: checkpoint: %w", err)
	}
	return nil
}

// Quiesce implements hooks.Quiescer. It tries to get the write lock until ctx
// ends; every other error is final, given that the driver's errors have a
// method Code with SQLite's result code. With other drivers it tries again
// after each error.
func (q *Quiescer) Quiesce(ctx context.Context, _ hooks.FreezeRequest) (hooks.Hold, error) {
	var witness *session
	var err error
	if limit := q.db.Stats().MaxOpenConnections; limit == 0 || limit > 1 {
		if witness, err = q.open(ctx, busyTimeout); err != nil {
			return nil, fmt.Errorf("sqlite: quiesce: %w", err)
		}
	}
	s, err := q.open(ctx, busyTimeout)
	if err != nil {
		witness.close(ctx)
		return nil, fmt.Errorf("sqlite: quiesce: %w", err)
	}
	h := &hold{lock: s, witness: witness}
	if err := h.begin(ctx); err != nil {
		s.broken = true // whatever it holds goes with the connection
		s.close(ctx)
		witness.close(ctx)
		return nil, fmt.Errorf("sqlite: quiesce: %w", err)
	}
	return h, nil
}

// isBusy says whether the driver reports SQLITE_BUSY or SQLITE_LOCKED.
func isBusy(err error) bool {
	code, ok := resultCode(err)
	return ok && (code == resultBusy || code == resultLocked)
}

// Primary result codes, of https://www.sqlite.org/rescode.html.
const (
	resultBusy    = 5
	resultLocked  = 6
	resultCorrupt = 11
	resultNotADB  = 26
)

// resultCode returns SQLite's primary result code.
func resultCode(err error) (int, bool) {
	coder, ok := errors.AsType[interface {
		error
		Code() int
	}](err)
	if !ok {
		return 0, false
	}
	return coder.Code() & 0xff, true
}

// session is one connection of the pool with a busy timeout of our own.
type session struct {
	conn    *sql.Conn
	timeout int  // to put back
	broken  bool // not fit for the pool any more
}

func (q *Quiescer) open(ctx context.Context, timeout int) (*session, error) {
	conn, err := q.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn}
	err = conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&s.timeout)
	if err == nil {
		err = s.setTimeout(ctx, timeout)
	}
	if err != nil {
		s.broken = true
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

// setTimeout uses a query, since the pragma returns a row.
func (s *session) setTimeout(ctx context.Context, milliseconds int) error {
	return s.conn.QueryRowContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", milliseconds)).Scan(new(int))
}

// close gives the connection back to the pool as it was, or has the pool close
// it, which releases every lock. A nil session is fine.
func (s *session) close(ctx context.Context) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if !s.broken && s.setTimeout(ctx, s.timeout) != nil {
		s.broken = true
	}
	if s.broken {
		_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = s.conn.Close()
}

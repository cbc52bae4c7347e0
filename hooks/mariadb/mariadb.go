// SPDX-License-Identifier: Apache-2.0

// Package mariadb protects a MariaDB server, version 10.4 or newer, and brings
// its data directory back: checks ahead of the window, a quiescer, what has to be
// done to the restored files, and a verification that starts them.
//
// No lock of the server stops InnoDB from writing: its pages, redo log and
// checkpoints go on under BACKUP STAGE and FLUSH TABLES WITH READ LOCK alike.
// Files that are copied one after another under a lock do not fit together. What
// matters is how the volumes are cut, and the layout decides:
//
//	data, redo and binary log             use        what waits meanwhile
//	one instant, InnoDB only              NewAtomic  nothing
//	one instant, other engines as well    NewBackup  commits, DDL, writes to other engines
//	several volumes one after another,    NewStill   all writes
//	clones or copies file by file
//
// # A cut at one instant
//
// [NewAtomic] freezes nothing. InnoDB recovers from such a copy as from a power
// failure: every commit that was acknowledged before the cut is in it. Tables of
// engines that do not recover are refused; Aria tables with ROW_FORMAT=PAGE, as
// those of the server itself, do recover.
//
// [NewBackup] blocks commits with [BACKUP STAGE] BLOCK_COMMIT, which also closes
// the tables of MyISAM, Aria and CSV. The binary log and the GTID of the evidence
// are those of the cut. Its Traits say AtomicCut as well, since InnoDB goes on.
//
// # Any other cut
//
// [NewStill] blocks all writes with FLUSH TABLES WITH READ LOCK, has InnoDB write
// what is dirty, and waits until it is still: nothing dirty, and its counters of
// writes and its log sequence number as they were. Held and Thaw compare the
// counters: one write in between, and the hold is lost. A transaction that is rolled
// back counts, and so does InnoDB when it recalculates statistics or removes old
// rows.
//
// The time that the writing takes is part of the window: a busy server with gigabytes
// of dirty pages needs a low innodb_max_dirty_pages_pct, or another way. It is not
// done ahead, since the server would try to catch up with its writers for ever. On
// servers without innodb_log_checkpoint_now nobody can ask for it, and they have to
// come to rest by themselves.
//
// # The session
//
// All of them hold one dedicated connection, which is closed afterwards, never
// reused. It must reach the server directly: another session in its place is
// noticed, and the hold lost. The server itself ends the session, and its locks,
// when the client is stalled for longer than the window, in whole seconds
// (wait_timeout). Held asks the server for a refusal that only the holder of the
// stage, or of the lock, gets.
//
// # Permissions
//
// Prepare names what is missing:
//
//	GRANT RELOAD, PROCESS ON *.* TO u;
//	GRANT BINLOG MONITOR ON *.* TO u;  -- with a binary log
//	GRANT SHOW VIEW ON *.* TO u;       -- to see the engines of all tables
//	GRANT SUPER ON *.* TO u;           -- NewStill, unless Options.NoCheckpoint
//
// # Restore
//
//  1. Restore the volumes to an empty place.
//  2. [PrepareRestore] with the evidence that is stored with the point. It
//     checks that the files belong to it, and refuses otherwise.
//  3. [Verify] starts a private instance on the files, checks all tables, and
//     says what it checked. Verify a copy, or before the server is used.
//  4. Start the server, with the same log_bin as the original at its first
//     start: the binary log decides about transactions that were prepared.
//
// # Limits
//
// Galera is refused. A replica is as good as its primary; a restored one begins
// to replicate unless it is started with skip-slave-start. MEMORY tables are empty
// after a restore. Tables with DATA DIRECTORY outside of the data directory, and
// symbolic links to databases, are refused where they can be seen. Keys of
// encrypted tables are not part of the data: protect them in another way. An
// instance of Verify outlives a process that is killed.
//
// [BACKUP STAGE]: https://mariadb.com/kb/en/backup-stage/
package mariadb

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
	ErrUnsafe = errors.New("mariadb: no safe copy is possible")

	// ErrBusy reports that a statement runs for so long that a lock would wait
	// for it, and every writer for the lock.
	ErrBusy = errors.New("mariadb: the server is busy")

	// ErrInconsistent reports restored files that do not belong together, or
	// that are not what the evidence says, or that are damaged.
	ErrInconsistent = errors.New("mariadb: the copy is not consistent")
)

// Options are the optional settings of NewAtomic, NewBackup and NewStill.
type Options struct {
	// Volumes are the directories, as the server sees them, that the protected
	// volumes are mounted at. Prepare refuses a server with its data, redo,
	// undo or binary log elsewhere. Empty means that all of these have to be in
	// the data directory.
	Volumes []string
	// MaxStatement is how long a statement may run for before a freeze is
	// refused with ErrBusy, in whole seconds. Zero means 10 s. NewAtomic has no
	// lock and does not look.
	MaxStatement time.Duration
	// Relaxed accepts that commits of about the last second before the cut may
	// be missing: innodb_flush_log_at_trx_commit or sync_binlog may be other
	// than 1.
	Relaxed bool
	// AtomicPageWrites says that the storage never shows half of a page that is
	// written, so that innodb_doublewrite=OFF is safe in a cut at one instant.
	AtomicPageWrites bool
	// NoCheckpoint keeps NewStill from setting innodb_log_checkpoint_now: it
	// waits until the server has come to rest by itself.
	NoCheckpoint bool
}

const (
	defaultMaxStatement = 10 * time.Second
	versionOldest       = 100400
)

// Quiescer protects one server. It is safe for concurrent use. A server has one
// backup stage, and one freeze at a time.
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
// whose volumes are cut at one instant. db remains the caller's, and the driver
// the caller's choice.
func NewAtomic(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, MethodAtomic, opts)
}

// NewBackup returns a quiescer for the server of db whose volumes are cut at one
// instant, while commits and all other engines wait.
func NewBackup(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, MethodBackup, opts)
}

// NewStill returns a quiescer for the server of db whose volumes are cut in any
// way, while it writes nothing at all.
func NewStill(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, MethodStill, opts)
}

func newQuiescer(db *sql.DB, method Method, opts *Options) (*Quiescer, error) {
	if db == nil {
		return nil, errors.New("mariadb: database is nil")
	}
	q := &Quiescer{db: db, method: method}
	if opts != nil {
		q.opts = *opts
	}
	if q.opts.MaxStatement < 0 {
		return nil, fmt.Errorf("mariadb: MaxStatement %v is negative", q.opts.MaxStatement)
	}
	if q.opts.MaxStatement == 0 {
		q.opts.MaxStatement = defaultMaxStatement
	}
	var err error
	if q.opts.Volumes, err = innodb.CleanVolumes(q.opts.Volumes); err != nil {
		return nil, fmt.Errorf("mariadb: %w", err)
	}
	return q, nil
}

// Traits implements hooks.Quiescer: a session that vouches for the data of the
// application, except after NewStill in a cut at one instant only.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: q.method != MethodStill}
}

// Prepare implements hooks.Preparer: it checks the server, its tables and layout
// and the permissions. Its error joins everything that is wrong, and matches
// fs.ErrPermission for missing grants, ErrUnsafe, ErrBusy, and
// errors.ErrUnsupported for a server that is too old, of another make, or part of
// a Galera cluster.
func (q *Quiescer) Prepare(ctx context.Context) error {
	s, err := innodb.Open(ctx, q.db)
	if err != nil {
		return fmt.Errorf("mariadb: prepare: %w", err)
	}
	defer s.Close()
	srv, err := readServer(ctx, s)
	if err != nil {
		return fmt.Errorf("mariadb: prepare: %w", err)
	}
	if err := errors.Join(q.check(ctx, s, srv)...); err != nil {
		return fmt.Errorf("mariadb: prepare: %w", err)
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
		return nil, fmt.Errorf("mariadb: quiesce: %w", err)
	}
	defer func() {
		if err != nil {
			s.Close() // whatever it holds goes with the session
		}
	}()
	h := &hold{q: q, s: s, end: time.Now().Add(req.Window)}
	if h.srv, err = readServer(ctx, s); err != nil {
		return nil, fmt.Errorf("mariadb: quiesce: %w", err)
	}
	if err := errors.Join(append(q.checkSettings(h.srv), q.checkBusy(ctx, s))...); err != nil {
		return nil, fmt.Errorf("mariadb: quiesce: %w", err)
	}
	if err := s.Lease(ctx, req.Window); err != nil {
		return nil, fmt.Errorf("mariadb: lease: %w", err)
	}
	if err := h.begin(ctx); err != nil {
		return nil, fmt.Errorf("mariadb: quiesce: %w", err)
	}
	return h, nil
}

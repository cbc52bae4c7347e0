// SPDX-License-Identifier: Apache-2.0

// Package postgres protects a PostgreSQL server, version 13 or newer, and
// brings its data directory back: checks ahead of the window, a quiescer, what
// has to be done to the restored files, and a verification that starts them.
//
// PostgreSQL has no command that stops all writes, and needs none. There are
// two ways to a copy that recovers, and the layout of the volumes decides:
//
//	data and WAL of one server               use          what the copy needs
//	cut at one instant (one btrfs            NewAtomic    nothing else
//	subvolume, an atomic group snapshot)
//	several volumes, one after another       NewBackup    the WAL of the backup,
//	a copy or clones, file by file           NewBackup    which a Keeper stores
//
// # A cut at one instant
//
// [NewAtomic] freezes nothing. The server recovers from such a copy as from a
// power failure ([file system level backup]): every commit that was flushed
// before the cut is in it. Its Traits say AtomicCut, so that a point whose
// volumes were not cut at one instant is not called application-consistent,
// and is an error for who requires that. Servers with fsync=off, and with
// full_page_writes=off unless the storage is said to write pages atomically,
// are refused.
//
// # The backup API
//
// [NewBackup] holds the server in [backup mode] on a connection of its own
// while the volumes are cut, in any order and as slowly as the window allows.
// Writes go on. The copy alone is worth nothing: it recovers with the
// backup_label that the server returns at the end, and with the WAL from the
// start to the end of the backup. The end is known only after the cut, so that
// the WAL in the cut can never reach it. Therefore New wants a [Keeper], which
// gets that WAL while the hold is thawed: [Staging], a volume of the application
// that is cut after the thaw, [Directory], the server's own [Archive], or one of
// the caller's. A thaw that cannot hand over all of it
// says that the hold is lost.
//
// Backup mode blocks nobody, and its end may take seconds of reading WAL: make
// this member the first of an application, which is thawed last.
//
// # The session
//
// Both hold one dedicated connection, from pool to hand back: it is closed
// afterwards, never reused. It must reach the server directly: a pooler in
// transaction mode is noticed, and refused. The server itself ends the session
// when the client is stalled for longer than the window ([idle_session_timeout];
// version 13 has none, there the session waits in a transaction under
// idle_in_transaction_session_timeout). The end of the session ends the backup.
//
// # Permissions
//
// Prepare names what is missing. A role that is no superuser needs, in the
// database that it connects to, for NewBackup:
//
//	GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO r;
//	GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO r;
//	ALTER ROLE r REPLICATION;                -- the temporary slot that keeps the WAL
//	GRANT pg_checkpoint TO r;                -- or Options.NoCheckpoint; before 15: superuser
//	GRANT pg_read_all_settings TO r;         -- if Options.Volumes is set
//
// Versions 13 and 14 call the functions pg_start_backup(text, boolean, boolean)
// and pg_stop_backup(boolean, boolean). NewAtomic needs the last two only. The
// slot and pg_read_binary_file are not needed with [Archive].
//
// # Restore
//
//  1. Restore the volumes to an empty place.
//  2. [PrepareRestore] with the evidence that is stored with the point. It
//     checks that the copy and the WAL belong to it, and refuses otherwise.
//  3. [Verify] starts a private instance on the files, checks all of them, and
//     says what it checked. Verify a copy, or before the server is used.
//  4. Start the server. Nothing else may be done with the files before.
//
// # Limits
//
// Standbys are refused: their copies need pg_control last, and WAL that only
// the primary can complete. Protect the primary. Commits with
// synchronous_commit=off may be lost up to the server's own bound. Unlogged
// tables are empty after a recovery. Timelines fork when a restored server runs
// beside the original: do not let both archive to one place. A client that
// stalls while it reads the WAL, after the backup has ended, keeps the temporary
// slot until it goes on or dies. An instance of Verify outlives a process that is
// killed.
//
// [file system level backup]: https://www.postgresql.org/docs/current/backup-file.html
// [backup mode]: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
// [idle_session_timeout]: https://www.postgresql.org/docs/current/runtime-config-client.html
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

var (
	// ErrUnsafe reports a server whose settings or layout do not allow a copy
	// that is certain to recover.
	ErrUnsafe = errors.New("postgres: no safe copy is possible")

	// ErrInconsistent reports restored files that do not belong together, or
	// that are not what the evidence says, or that are damaged.
	ErrInconsistent = errors.New("postgres: the copy is not consistent")
)

// Options are the optional settings of NewAtomic and NewBackup.
type Options struct {
	// Label is the text by which people recognize the backup in the server's
	// log and in backup_label: at most 200 bytes of printable ASCII. The
	// default is "protect".
	Label string
	// Volumes are the directories, as the server sees them, that the protected
	// volumes are mounted at. Prepare refuses a server with its data directory
	// or a tablespace elsewhere; so too its WAL, where its files can be seen
	// from here. Empty means that only tablespaces are looked at: a server
	// that has any is refused.
	Volumes []string
	// NoCheckpoint keeps Prepare from a CHECKPOINT, which makes the freeze
	// and the recovery short.
	NoCheckpoint bool
	// AtomicPageWrites says that the storage never shows half of a page that
	// is written, so that full_page_writes=off is safe in a cut at one instant.
	AtomicPageWrites bool
	// NoSlot makes a backup rely on wal_keep_size instead of a temporary
	// replication slot. WAL that is gone too early makes the hold lost.
	NoSlot bool
}

// Quiescer protects one server. It is safe for concurrent use, and several
// holds of one server may exist at a time.
type Quiescer struct {
	db   *sql.DB
	keep Keeper // nil: cut at one instant
	opts Options
}

var (
	_ hooks.Quiescer = (*Quiescer)(nil)
	_ hooks.Preparer = (*Quiescer)(nil)
)

// NewAtomic returns a quiescer for the server of db whose volumes are cut at
// one instant. db remains the caller's. The driver is the caller's choice; its
// errors should have a method SQLState.
func NewAtomic(db *sql.DB, opts *Options) (*Quiescer, error) {
	return newQuiescer(db, nil, opts)
}

// NewBackup returns a quiescer for the server of db whose volumes are cut in
// any other way. keep gets the WAL without which the copy is worth nothing.
func NewBackup(db *sql.DB, keep Keeper, opts *Options) (*Quiescer, error) {
	if keep == nil {
		return nil, errors.New("postgres: a backup needs a Keeper for its WAL")
	}
	return newQuiescer(db, keep, opts)
}

const maxLabel = 200

func newQuiescer(db *sql.DB, keep Keeper, opts *Options) (*Quiescer, error) {
	if db == nil {
		return nil, errors.New("postgres: database is nil")
	}
	q := &Quiescer{db: db, keep: keep}
	if opts != nil {
		q.opts = *opts
	}
	if q.opts.Label == "" {
		q.opts.Label = "protect"
	}
	if len(q.opts.Label) > maxLabel || strings.ContainsFunc(q.opts.Label, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, fmt.Errorf("postgres: label %.40q is not at most %d printable ASCII characters", q.opts.Label, maxLabel)
	}
	q.opts.Volumes = slices.Clone(q.opts.Volumes)
	for i, v := range q.opts.Volumes {
		if !path.IsAbs(v) {
			return nil, fmt.Errorf("postgres: volume %q is not an absolute path", v)
		}
		q.opts.Volumes[i] = path.Clean(v)
	}
	return q, nil
}

// Traits implements hooks.Quiescer: a session that vouches for the data of the
// application, in a cut at one instant or with the WAL of a backup.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: q.keep == nil}
}

// archived says whether the server's own archive keeps the WAL.
func (q *Quiescer) archived() bool {
	_, ok := q.keep.(Archive)
	return ok
}

// Prepare implements hooks.Preparer: it checks the server, its layout and the
// permissions, and takes a checkpoint. Its error joins everything that is
// wrong, and matches fs.ErrPermission for missing grants, ErrUnsafe, and
// errors.ErrUnsupported for a server that is a standby or too old.
func (q *Quiescer) Prepare(ctx context.Context) error {
	s, err := q.open(ctx)
	if err != nil {
		return fmt.Errorf("postgres: prepare: %w", err)
	}
	defer s.close()
	srv, err := s.server(ctx)
	if err != nil {
		return fmt.Errorf("postgres: prepare: %w", err)
	}
	if err := errors.Join(q.check(ctx, s, srv)...); err != nil {
		return fmt.Errorf("postgres: prepare: %w", err)
	}
	if dir, ok := q.keep.(Staging); ok {
		if err := dir.clear(); err != nil {
			return err
		}
	}
	if q.opts.NoCheckpoint {
		return nil
	}
	if _, err := s.conn.ExecContext(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("postgres: checkpoint: %w", err)
	}
	return nil
}

// Quiesce implements hooks.Quiescer. A server that cannot be copied safely is
// an error, as in Prepare. With a backup it returns when the checkpoint that
// begins it is done.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (_ hooks.Hold, err error) {
	if req.Window <= 0 {
		req.Window = hooks.DefaultWindow
	}
	s, err := q.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("postgres: quiesce: %w", err)
	}
	defer func() {
		if err != nil {
			s.close() // whatever it holds goes with the session
		}
	}()
	h := &hold{q: q, s: s, end: time.Now().Add(req.Window)}
	if h.srv, err = s.server(ctx); err != nil {
		return nil, fmt.Errorf("postgres: quiesce: %w", err)
	}
	if err := errors.Join(q.checkSettings(h.srv)...); err != nil {
		return nil, fmt.Errorf("postgres: quiesce: %w", err)
	}
	if h.tablespaces, err = s.tablespaces(ctx); err != nil {
		return nil, fmt.Errorf("postgres: quiesce: %w", err)
	}
	if err := s.lease(ctx, h.srv, req); err != nil {
		return nil, fmt.Errorf("postgres: lease: %w", err)
	}
	if err := h.begin(ctx, q.opts.Label); err != nil {
		return nil, fmt.Errorf("postgres: quiesce: %w", err)
	}
	return h, nil
}

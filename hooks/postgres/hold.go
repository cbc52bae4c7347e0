// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// hold is a session that vouches for what is cut.
type hold struct {
	q           *Quiescer
	srv         *server // before the cut
	tablespaces map[string]string
	start       LSN       // of the backup, or what was flushed before the cut
	slot        string    // that keeps the WAL; empty if there is none
	end         time.Time // of the window

	mu   sync.Mutex
	s    *session
	done bool
	kept hooks.Evidence
	last error
}

// begin starts the backup. The server still has all WAL since the start when
// the slot is made first.
func (h *hold) begin(ctx context.Context, label string) error {
	if h.q.keep == nil {
		h.start = h.srv.flushed
		return nil
	}
	if h.q.needsSlot() {
		slot := "protect_" + strings.ToLower(rand.Text())
		_, err := h.s.conn.ExecContext(ctx, "SELECT pg_catalog.pg_create_physical_replication_slot($1, true, true)", slot)
		if err != nil {
			return fmt.Errorf("create a temporary replication slot: %w", err)
		}
		h.slot = slot
	}
	query := "SELECT pg_catalog.pg_backup_start($1, true)::text"
	if h.srv.version < versionRenamed {
		query = "SELECT pg_catalog.pg_start_backup($1, true, false)::text"
	}
	var start string
	if err := h.s.conn.QueryRowContext(ctx, query, label).Scan(&start); err != nil {
		return fmt.Errorf("start the backup: %w", err)
	}
	var err error
	h.start, err = ParseLSN(start)
	return err
}

// Held implements hooks.Hold: it is the same session with the same server
// process, which therefore is still in backup mode, or, without a backup, has
// the settings that the cut rests on.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("postgres: thawed: %w", hooks.ErrHoldLost)
	}
	if _, err := h.ask(ctx); err != nil {
		return lost(err)
	}
	// The lease does not begin anew because we asked.
	left := time.Until(h.end)
	if left <= 0 {
		return lost(errors.New("the window is over"))
	}
	if err := h.s.set(ctx, h.srv.leaseSetting(), milliseconds(left)); err != nil {
		return lost(err)
	}
	return nil
}

// lost says that the cut proves nothing.
func lost(err error) error {
	return fmt.Errorf("postgres: %w: %w", hooks.ErrHoldLost, err)
}

// ask compares the server with what it was before the cut.
func (h *hold) ask(ctx context.Context) (*server, error) {
	now, err := h.s.server(ctx)
	if err != nil {
		return nil, err
	}
	was := h.srv
	switch {
	case now.pid != was.pid:
		return nil, errors.New("another server process answers than the one that began: a pooler is in between")
	case now.started != was.started:
		return nil, errors.New("the server was restarted")
	case now.system != was.system || now.timeline != was.timeline:
		return nil, fmt.Errorf("it is system %s on timeline %d, not %s on %d", now.system, now.timeline, was.system, was.timeline)
	}
	if err := errors.Join(h.q.checkSettings(now)...); err != nil {
		return nil, err
	}
	if err := h.sameTablespaces(ctx); err != nil {
		return nil, err
	}
	if h.slot == "" {
		return now, nil
	}
	var reserved bool
	err = h.s.conn.QueryRowContext(ctx, "SELECT active_pid = pg_catalog.pg_backend_pid() AND wal_status IN ('reserved', 'extended') FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", h.slot).Scan(&reserved)
	if err != nil {
		return nil, fmt.Errorf("the replication slot is gone: %w", err)
	}
	if !reserved {
		return nil, errors.New("the replication slot does not keep the WAL any more: see max_slot_wal_keep_size")
	}
	return now, nil
}

// sameTablespaces notices a tablespace that came or went meanwhile: it would be
// in one part of the cut only, and the replay of its creation would make a link
// to where the original has it.
func (h *hold) sameTablespaces(ctx context.Context) error {
	spaces, err := h.s.tablespaces(ctx)
	if err == nil && !maps.Equal(spaces, h.tablespaces) {
		err = errors.New("tablespaces were created, moved or dropped")
	}
	return err
}

// Thaw implements hooks.Hold. It ends the backup, hands its WAL to the keeper,
// and closes the session in any case. The evidence is for PrepareRestore; see
// ParseEvidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("postgres: thaw: %w", err) // nothing is tried, and nothing lost
	}
	h.done = true
	defer h.s.close()
	info, err := h.finish(ctx)
	if err == nil {
		h.kept, err = info.evidence()
	}
	if err != nil {
		h.last = lost(err)
	}
	return h.kept, h.last
}

// finish ends the backup and returns what is to be known of it.
func (h *hold) finish(ctx context.Context) (*Info, error) {
	now, err := h.ask(ctx)
	if err != nil {
		return nil, err
	}
	info := &Info{
		Format: infoFormat, Method: MethodAtomic, ServerVersion: now.version, System: now.system, Timeline: now.timeline,
		Start: h.start, Stop: now.inserted, Checkpoint: h.srv.checkpoint, SegmentSize: now.segmentSize, BlockSize: now.blockSize,
		Tablespaces: h.tablespaces, Superuser: now.superuser, Checksums: now.checksums == "on",
	}
	if h.q.keep == nil {
		return info, h.release(ctx)
	}
	info.Method, info.Archived = MethodBackup, h.q.archived()
	if err := errors.Join(h.stop(ctx, info), h.sameTablespaces(ctx)); err != nil {
		return nil, err
	}
	if !info.Archived {
		if err := keepSegments(ctx, h.s, h.q.keep, info); err != nil {
			return nil, err
		}
	}
	return info, h.release(ctx)
}

// release takes back what others can see of the hold: the end of a session
// shows a little after it is closed.
func (h *hold) release(ctx context.Context) error {
	if h.slot != "" {
		if _, err := h.s.conn.ExecContext(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1)", h.slot); err != nil {
			return fmt.Errorf("drop the temporary replication slot: %w", err)
		}
	}
	return h.s.set(ctx, "application_name", "")
}

// stop ends the backup.
func (h *hold) stop(ctx context.Context, info *Info) error {
	query := "SELECT lsn::text, labelfile, COALESCE(spcmapfile, '') FROM pg_catalog.pg_backup_stop($1)"
	if h.srv.version < versionRenamed {
		query = "SELECT lsn::text, labelfile, COALESCE(spcmapfile, '') FROM pg_catalog.pg_stop_backup(false, $1)"
	}
	var stop, label, spaces string
	if err := h.s.conn.QueryRowContext(ctx, query, info.Archived).Scan(&stop, &label, &spaces); err != nil {
		return fmt.Errorf("stop the backup: %w", err)
	}
	info.Label, info.TablespaceMap = []byte(label), []byte(spaces)
	var err error
	if info.Stop, err = ParseLSN(stop); err != nil {
		return err
	}
	return info.checkLabel()
}

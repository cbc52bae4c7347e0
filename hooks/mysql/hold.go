// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// hold is a session that vouches for what is cut.
type hold struct {
	q     *Quiescer
	srv   *server
	info  *Info
	locks []string  // what metadata_locks calls them
	end   time.Time // of the window

	mu   sync.Mutex
	s    *innodb.Session
	done bool
	kept hooks.Evidence
	last error
}

// The locks of a freeze, by OBJECT_TYPE.
const (
	lockInstance = "BACKUP LOCK"
	lockWrites   = "GLOBAL"
)

// begin freezes what has to be frozen, and reads what the evidence needs inside
// of the freeze.
func (h *hold) begin(ctx context.Context) error {
	others, err := h.q.others(ctx, h.s)
	if err != nil {
		return err
	}
	if err := errors.Join(h.q.checkEngines(others), h.q.checkBusy(ctx, h.s, len(others) > 0)); err != nil {
		return err
	}
	if h.q.method == MethodBackup {
		if err := h.s.Exec(ctx, "LOCK INSTANCE FOR BACKUP"); err != nil {
			return err
		}
		h.locks = append(h.locks, lockInstance)
		// A table of another engine may have been made before the lock.
		if others, err = h.q.others(ctx, h.s); err != nil {
			return err
		}
		if err := h.q.checkEngines(others); err != nil {
			return err
		}
		if len(others) > 0 {
			if err := h.s.Exec(ctx, "FLUSH TABLES WITH READ LOCK"); err != nil {
				return err
			}
			h.locks = append(h.locks, lockWrites)
		}
	}
	if h.info, err = h.read(ctx); err != nil {
		return err
	}
	return h.locked(ctx)
}

// blocked says whether nothing can be committed.
func (h *hold) blocked() bool { return slices.Contains(h.locks, lockWrites) }

// locked asks the server for the locks of this very session.
func (h *hold) locked(ctx context.Context) error {
	if len(h.locks) == 0 {
		return nil
	}
	rows, err := h.s.Rows(ctx, `SELECT OBJECT_TYPE FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED' AND LOCK_TYPE = 'SHARED'
 AND OWNER_THREAD_ID = (SELECT THREAD_ID FROM performance_schema.threads WHERE PROCESSLIST_ID = CONNECTION_ID())`)
	if err != nil {
		return err
	}
	for _, lock := range h.locks {
		if !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == lock }) {
			return fmt.Errorf("the server does not say that this session has the %s: it is gone, or the instrument wait/lock/metadata/sql/mdl is off", lock)
		}
	}
	return nil
}

// ask compares the server with what it was before the cut.
func (h *hold) ask(ctx context.Context) (*logStatus, error) {
	if err := errors.Join(h.s.Same(ctx), h.locked(ctx)); err != nil {
		return nil, err
	}
	srv, err := readServer(ctx, h.s)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.q.checkSettings(srv)...); err != nil {
		return nil, err
	}
	now, err := readLogStatus(ctx, h.s)
	switch {
	case err != nil:
		return nil, err
	case now.ServerUUID != h.info.ServerUUID:
		return nil, fmt.Errorf("it is server %.40q, not %.40q", now.ServerUUID, h.info.ServerUUID)
	case h.blocked() && now.local.GTID != h.info.GTID:
		return nil, errors.New("something was committed: gtid_executed has changed")
	}
	return now, nil
}

// Held implements hooks.Hold: it is the same session, of the same server, and the
// server says that it has the locks.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("mysql: thawed: %w", hooks.ErrHoldLost)
	}
	if _, err := h.ask(ctx); err != nil {
		return lost(err)
	}
	// The lease does not begin anew because we asked.
	left := time.Until(h.end)
	if left <= 0 {
		return lost(errors.New("the window is over"))
	}
	if err := h.s.Lease(ctx, left); err != nil {
		return lost(err)
	}
	return nil
}

// lost says that the cut proves nothing.
func lost(err error) error {
	return fmt.Errorf("mysql: %w: %w", hooks.ErrHoldLost, err)
}

// Thaw implements hooks.Hold. It asks for the proof a last time, releases the
// locks, and closes the session in any case. The evidence is for PrepareRestore;
// see ParseEvidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mysql: thaw: %w", err) // nothing is tried, and nothing lost
	}
	h.done = true
	defer h.s.Close()
	err := h.finish(ctx)
	if err == nil {
		h.kept, err = h.info.evidence()
	}
	if err != nil {
		h.kept, h.last = nil, lost(err)
	}
	return h.kept, h.last
}

// finish proves the freeze and ends it.
func (h *hold) finish(ctx context.Context) error {
	now, err := h.ask(ctx)
	if err != nil {
		return err
	}
	h.info.StopLSN = now.lsn
	if h.blocked() {
		if err := h.s.Exec(ctx, "UNLOCK TABLES"); err != nil {
			return err
		}
	}
	if len(h.locks) > 0 {
		return h.s.Exec(ctx, "UNLOCK INSTANCE")
	}
	return nil
}

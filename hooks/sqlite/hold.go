// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// savepoint marks our transaction: it can only be rolled back to while that
// very transaction is open.
const savepoint = "protect_hold"

// hold is an open transaction that has the write lock.
type hold struct {
	mu      sync.Mutex
	lock    *session
	witness *session // sees commits of others; nil if the pool is too small
	version int64    // what the witness saw when the lock was taken
	done    bool
	last    error
}

// begin takes the write lock.
func (h *hold) begin(ctx context.Context) error {
	for {
		_, err := h.lock.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		if err == nil {
			break
		}
		if _, known := resultCode(err); known && !isBusy(err) && ctx.Err() == nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w, last: %w", ctx.Err(), err)
		}
	}
	if _, err := h.lock.conn.ExecContext(ctx, "SAVEPOINT "+savepoint); err != nil {
		return err
	}
	var err error
	h.version, err = h.seen(ctx)
	return err
}

// seen returns a number that changes with every commit of another connection
// than the witness.
func (h *hold) seen(ctx context.Context) (version int64, err error) {
	if h.witness == nil {
		return 0, nil
	}
	err = h.witness.conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version)
	return version, err
}

// Held implements hooks.Hold: the very transaction must be open, and nobody
// may have committed since it began. The latter is not checked if the pool
// allows a single connection only.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("sqlite: thawed: %w", hooks.ErrHoldLost)
	}
	if _, err := h.lock.conn.ExecContext(ctx, "ROLLBACK TO "+savepoint); err != nil {
		return fmt.Errorf("sqlite: the transaction is not open: %w: %w", hooks.ErrHoldLost, err)
	}
	switch version, err := h.seen(ctx); {
	case err != nil:
		return fmt.Errorf("sqlite: look for commits: %w: %w", hooks.ErrHoldLost, err)
	case version != h.version:
		return fmt.Errorf("sqlite: somebody has committed: %w", hooks.ErrHoldLost)
	}
	return nil
}

// Thaw implements hooks.Hold. The lock is released in any case: a transaction
// that cannot be rolled back ends with its connection, and then the hold is
// lost. There is no evidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return nil, h.last
	}
	h.done = true
	if _, err := h.lock.conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		h.lock.broken = true
		h.last = fmt.Errorf("sqlite: roll back: %w", errors.Join(hooks.ErrHoldLost, err))
	}
	h.lock.close(ctx)
	h.witness.close(ctx)
	return nil, h.last
}

// SPDX-License-Identifier: Apache-2.0

package fsfreeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

// impatience is how long a thaw waits for the watchdog before it does without:
// a thaw takes milliseconds, but the machine may be busy.
const impatience = 100 * time.Millisecond

// hold is a freeze in force.
type hold struct {
	q      *Quiescer
	epoch  hooks.Epoch
	device uint64 // of the file system
	client *watchdog.Client

	mu    sync.Mutex
	dir   *os.File // for the death of the watchdog; nil once thawed
	last  error    // what Thaw returns once dir is nil
	ended chan struct{}
}

// guard watches over the watchdog. It ends with it, which is when the hold is
// thawed or the window has ended.
func (h *hold) guard(ctx context.Context) {
	select {
	case <-h.client.Gone():
	case <-h.ended:
		return
	}
	err := h.client.LastWord(ctx)
	if !errors.Is(err, watchdog.ErrDead) {
		h.end(err)
		return
	}
	// From now on nobody would thaw if this process died.
	h.q.opts.Logger.Warn("watchdog died while the file system was frozen; thawing", "epoch", h.epoch, "error", err)
	if err := h.rescue(err); err != nil {
		h.q.opts.Logger.Error("file system may be frozen", "epoch", h.epoch, "error", err)
	}
}

// end settles the hold when the watchdog has spoken: nil and ErrLost say that
// the file system is thawed, after anything else a rescue may still help.
func (h *hold) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && !errors.Is(err, watchdog.ErrLost) {
		return
	}
	h.settle(err)
}

func (h *hold) settle(err error) {
	if h.dir == nil {
		return
	}
	_ = h.dir.Close()
	h.dir = nil
	if err != nil {
		h.last = fmt.Errorf("fsfreeze: thaw %q: %w", h.q.path, translate(err))
	}
	h.client.Close()
	close(h.ended)
	h.q.ended(h)
}

// rescue thaws in place of a watchdog that cannot. The hold is lost.
func (h *hold) rescue(cause error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir == nil {
		return nil
	}
	if err := thawOwn(h.dir); err != nil {
		return err
	}
	h.settle(fmt.Errorf("%w: %w", watchdog.ErrLost, cause))
	return nil
}

// Held implements hooks.Hold: the kernel must still know of a freeze, and the
// path still lead to what is frozen.
func (h *hold) Held(ctx context.Context) error {
	if err := h.client.Held(ctx); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", hooks.ErrHoldLost, err)
		}
		return fmt.Errorf("fsfreeze: held %q: %w", h.q.path, translate(err))
	}
	// Without h.mu: what is mounted there now may not answer.
	var st unix.Stat_t
	if err := unix.Stat(h.q.path, &st); err != nil {
		return fmt.Errorf("fsfreeze: held %q: %w: %w", h.q.path, hooks.ErrHoldLost, err)
	}
	if st.Dev != h.device {
		return fmt.Errorf("fsfreeze: held %q: %w: another file system is mounted there now", h.q.path, hooks.ErrHoldLost)
	}
	return nil
}

// Thaw implements hooks.Hold. There is no evidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	if err := h.thaw(ctx, nil); err != nil {
		return nil, err
	}
	_, err := h.done()
	return nil, err
}

// revoke thaws on behalf of Recover: the hold is lost.
func (h *hold) revoke(ctx context.Context) error {
	return h.thaw(ctx, fmt.Errorf("%w: it was recovered", watchdog.ErrLost))
}

// thaw ends the freeze, if it has not ended, and settles the hold; its outcome
// is how, unless something worse happened. An error says that the file system
// may be frozen.
func (h *hold) thaw(ctx context.Context, how error) error {
	if done, _ := h.done(); done {
		return nil
	}
	quick, cancel := context.WithTimeout(ctx, impatience)
	defer cancel()
	err := h.client.Thaw(quick)
	if err != nil && quick.Err() != nil && ctx.Err() == nil {
		if h.thawHere() {
			h.end(how)
			return nil
		}
		// It is at it, or has been: its word counts, if it comes.
		half, cancel := watchdog.Half(ctx)
		defer cancel()
		err = h.client.Thaw(half)
	}
	switch {
	case err == nil:
		h.end(how)
	case errors.Is(err, watchdog.ErrLost):
		h.end(err)
	case ctx.Err() != nil:
		return fmt.Errorf("fsfreeze: thaw %q: %w", h.q.path, err)
	default:
		if rescue := h.rescue(err); rescue != nil {
			return fmt.Errorf("fsfreeze: thaw %q: %w: %w", h.q.path, rescue, err)
		}
	}
	return nil
}

// thawHere ends the freeze without the watchdog, which is stalled. That the
// kernel had a freeze to end says that it was ours: the watchdog has not thawed
// it, and nobody else can freeze while it lives.
func (h *hold) thawHere() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir == nil {
		return false
	}
	ours, err := watchdog.TryLock(h.dir)
	return ours && err == nil && watchdog.ThawFS(h.dir) == nil
}

func (h *hold) done() (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dir == nil, h.last
}

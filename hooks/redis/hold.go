// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// lost says that the cut proves nothing.
func lost(err error) error {
	return fmt.Errorf("redis: %w: %w", hooks.ErrHoldLost, err)
}

// state asks for all that a hold rests on.
func (c *client) state(ctx context.Context) (*server, settings, error) {
	srv, err := c.server(ctx)
	if err != nil {
		return nil, settings{}, err
	}
	set, err := c.settings(ctx)
	return srv, set, err
}

// Quiesce implements hooks.Quiescer. It freezes nothing. A server that cannot be
// copied safely is an error, as in Prepare; the first rewrite of an AOF is
// waited for.
func (q *Atomic) Quiesce(ctx context.Context, _ hooks.FreezeRequest) (hooks.Hold, error) {
	set, err := q.settings(ctx)
	var srv *server
	if err == nil {
		srv, err = q.poll(ctx, func(s *server) (bool, error) { return !s.firstRewrite(), nil })
	}
	if err == nil {
		err = errors.Join(append(q.check(srv, set, oldestAtomic), q.checkVolumes(set))...)
	}
	if err != nil {
		return nil, fmt.Errorf("redis: quiesce: %w", err)
	}
	return &atomicHold{q: q, srv: srv, set: set}, nil
}

// atomicHold remembers the server as it was before the cut.
type atomicHold struct {
	q   *Atomic
	srv *server
	set settings

	mu   sync.Mutex
	done bool
	kept hooks.Evidence
	last error
}

// ask compares the server with what it was.
func (h *atomicHold) ask(ctx context.Context) (*server, error) {
	srv, set, err := h.q.state(ctx)
	switch {
	case err != nil:
		return nil, err
	case srv.runID != h.srv.runID:
		return nil, errors.New("the server was restarted")
	case srv.aof != h.srv.aof || set != h.set:
		return nil, errors.New("settings of the server were changed")
	}
	return srv, errors.Join(h.q.check(srv, set, oldestAtomic)...)
}

// Held implements hooks.Hold: it is the same server, with the settings that the
// cut rests on, and no write of its files has failed.
func (h *atomicHold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return lost(errors.New("thawed"))
	}
	if _, err := h.ask(ctx); err != nil {
		return lost(err)
	}
	return nil
}

// Thaw implements hooks.Hold. The evidence is for PrepareRestore.
func (h *atomicHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("redis: thaw: %w", err)
	}
	h.done = true
	now, err := h.ask(ctx)
	if err == nil {
		h.kept, err = h.info(now).evidence()
	}
	if err != nil {
		h.last = lost(err)
	}
	return h.kept, h.last
}

// info says what the server was before the cut, and how long its AOF can be.
func (h *atomicHold) info(now *server) *Info {
	i := newInfo(MethodAtomic, h.srv, h.set)
	if h.srv.rewriting || now.rewriting || now.rewrites != h.srv.rewrites {
		return i // it is the one before the rewrite, or the one after
	}
	i.AOFMost = now.aofSize
	if h.set.appendFsync == "always" {
		i.AOFLeast = h.srv.aofSize
	}
	return i
}

// pausedHold is a pause in force.
type pausedHold struct {
	q        *Paused
	epoch    hooks.Epoch
	end      time.Time // of the window; the server's own is not before
	leaseEnd time.Time // the same by the clock of the server
	srv      *server   // since the pause; nothing of it may change
	set      settings

	mu     sync.Mutex
	judged bool // whether it held is known
	done   bool
	kept   hooks.Evidence
	last   error
}

// compare says whether the pause has lasted from Quiesce on.
func (h *pausedHold) compare(now *server, set settings) error {
	was := h.srv
	switch {
	case now.runID != was.runID:
		return errors.New("the server was restarted")
	case now.resets != was.resets || now.commands < was.commands:
		return errors.New("the counters were reset (CONFIG RESETSTAT): nobody knows whether the pause was ended")
	case now.unpauses != was.unpauses:
		return errors.New("somebody has ended the pause (CLIENT UNPAUSE)")
	case now.pauses != was.pauses:
		return errors.New("somebody else has paused clients (CLIENT PAUSE)")
	case time.Until(h.end) <= 0 || !now.now.Before(h.leaseEnd) || now.now.Before(was.now):
		return errors.New("the window is over, or the clock of the server was changed")
	case set != h.set || now.aof != was.aof:
		return errors.New("settings of the server were changed")
	case now.aof && (now.rewriting || now.rewrites != was.rewrites || now.aofSize != was.aofSize || now.aofBuffer != 0):
		return errors.New("the AOF was written to")
	case !now.aof && (now.saving || now.saves != was.saves || now.lastSave != was.lastSave || now.changes != 0):
		return errors.New("there were writes or saves")
	}
	return errors.Join(h.q.check(now, set, oldestPaused)...)
}

// Held implements hooks.Hold: the server says that nobody has ended the pause,
// that it has not ended by itself, and that nothing was written.
func (h *pausedHold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done || h.judged {
		return lost(errors.New("thawed"))
	}
	srv, set, err := h.q.state(ctx)
	if err == nil {
		err = h.compare(srv, set)
	}
	if err != nil {
		return lost(err)
	}
	return nil
}

// Thaw implements hooks.Hold. A pause that somebody else has made since is not
// ended. The evidence is for PrepareRestore.
func (h *pausedHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := h.thaw(ctx); err != nil {
		return nil, fmt.Errorf("redis: thaw: %w", err)
	}
	h.done = true
	h.q.live.leave(h.epoch)
	return h.kept, h.last
}

// thaw judges the hold, once, and ends the pause.
func (h *pausedHold) thaw(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now, set, err := h.q.state(ctx)
	if err != nil {
		// A server that cannot be asked has ended the pause by itself by then.
		if time.Since(h.end) > undoTimeout {
			h.judge(err, nil)
			return nil
		}
		return err
	}
	h.judge(h.compare(now, set), now)
	switch {
	case now.runID != h.srv.runID:
		return nil // the pause is gone with the process
	case now.pauses == h.srv.pauses:
		_, err := h.q.do(ctx, "CLIENT", "UNPAUSE")
		return err
	}
	// Ours has merged with one that is not ours to end: it must be over at least.
	timer := time.NewTimer(time.Until(h.end))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// judge decides what the cut is worth.
func (h *pausedHold) judge(doubt error, now *server) {
	if h.judged {
		return // an UNPAUSE since may be ours, with its reply lost
	}
	h.judged = true
	if doubt == nil {
		h.kept, doubt = newInfo(MethodPaused, now, h.set).evidence()
	}
	if doubt != nil {
		h.last = lost(doubt)
	}
}

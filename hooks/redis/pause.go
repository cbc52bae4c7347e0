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

// undoTimeout bounds what is done to undo a pause that came to nothing. The
// server ends it by itself if that fails.
const undoTimeout = 5 * time.Second

// errRewrite says that a rewrite began just before the pause.
var errRewrite = errors.New("redis: a rewrite of the AOF has begun")

// live is the newest freeze of this process. A pause has no owner: a second one
// would merge with it.
type live struct {
	mu    sync.Mutex
	taken bool
	epoch hooks.Epoch
	end   time.Time
}

// take reserves the server for a freeze, until it is left or over.
func (l *live) take(epoch hooks.Epoch, end time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken && time.Now().Before(l.end) {
		return false
	}
	l.taken, l.epoch, l.end = true, epoch, end
	return true
}

// leave ends the reservation of an epoch.
func (l *live) leave(epoch hooks.Epoch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken && l.epoch == epoch {
		l.taken = false
	}
}

// newer says whether a freeze of a later epoch is in force.
func (l *live) newer(epoch hooks.Epoch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken && l.epoch > epoch && time.Now().Before(l.end)
}

// any says whether a freeze is in force.
func (l *live) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken && time.Now().Before(l.end)
}

// Quiesce implements hooks.Quiescer. It waits for a rewrite of the AOF that is
// running, pauses writes, and returns when the files have everything that was
// acknowledged before. Writes that are paused already are an error that wraps
// hooks.ErrForeignFreeze.
func (q *Paused) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("redis: quiesce: %w", err)
	}
	if req.Window <= 0 {
		req.Window = hooks.DefaultWindow
	}
	end := time.Now().Add(req.Window)
	if !q.live.take(req.Epoch, end) {
		return nil, fmt.Errorf("redis: quiesce: %w: by this quiescer", hooks.ErrForeignFreeze)
	}
	for {
		h, err := q.pause(ctx, end)
		switch {
		case err == nil:
			h.epoch = req.Epoch
			return h, nil
		case !errors.Is(err, errRewrite):
			q.live.leave(req.Epoch)
			return nil, fmt.Errorf("redis: quiesce: %w", err)
		}
	}
}

// calm waits until the server writes nothing but its AOF, and is about to write
// nothing else.
func (q *Paused) calm(ctx context.Context) (*server, settings, error) {
	set, err := q.settings(ctx)
	if err != nil {
		return nil, set, err
	}
	srv, err := q.poll(ctx, func(s *server) (bool, error) {
		return !s.busy() && !s.rewriteDue(set), errors.Join(q.check(s, set, oldestPaused)...)
	})
	return srv, set, err
}

// pause tries to pause writes with files that do not change.
func (q *Paused) pause(ctx context.Context, end time.Time) (_ *pausedHold, err error) {
	before, set, err := q.calm(ctx)
	if err != nil {
		return nil, err
	}
	if err := q.checkVolumes(set); err != nil {
		return nil, err
	}
	if err := q.writable(ctx); err != nil {
		return nil, err
	}
	window := time.Until(end)
	if window < time.Millisecond {
		return nil, fmt.Errorf("%w: before writes could be paused", hooks.ErrWindowExceeded)
	}
	defer func() {
		if err == nil {
			return
		}
		// Also if it seems that nothing was paused: the reply may be what is lost.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if _, undone := q.do(undo, "CLIENT", "UNPAUSE"); undone != nil {
			err = errors.Join(err, undone)
		}
	}()
	if _, err := q.do(ctx, "CLIENT", "PAUSE", window.Milliseconds(), "WRITE"); err != nil {
		return nil, err
	}
	srv, err := q.settle(ctx, before, set)
	if err != nil {
		return nil, err
	}
	return &pausedHold{q: q, end: end, set: set, srv: srv, leaseEnd: before.now.Add(window)}, nil
}

// settle waits until the files have everything, and returns the state that must
// last.
func (q *Paused) settle(ctx context.Context, before *server, set settings) (*server, error) {
	srv, err := q.poll(ctx, func(s *server) (bool, error) {
		switch {
		case s.runID != before.runID:
			return false, errors.New("the server was restarted")
		case s.pauses != before.pauses+1 || s.unpauses != before.unpauses:
			return false, errors.New("somebody else has paused or unpaused writes at the same time, or the client repeats commands")
		case s.rewriting || s.rewriteDue(set):
			return false, errRewrite
		}
		return s.aofBuffer == 0, nil
	})
	if err != nil || srv.aof {
		return srv, err
	}
	saved, err := q.save(ctx)
	if err != nil {
		return nil, err
	}
	if saved.changes != 0 || saved.pauses != srv.pauses || saved.unpauses != srv.unpauses {
		return nil, errors.New("there were writes during the save: the pause has ended")
	}
	return saved, nil
}

// Recover implements hooks.Recoverer: it makes sure that writes are not paused,
// unless a newer freeze of this quiescer is in force. It cannot tell who has
// paused them.
func (q *Paused) Recover(ctx context.Context, epoch hooks.Epoch) error {
	if q.live.newer(epoch) {
		return nil
	}
	if !q.live.any() {
		err := q.writable(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, hooks.ErrForeignFreeze) {
			return fmt.Errorf("redis: recover: %w", err)
		}
	}
	if _, err := q.do(ctx, "CLIENT", "UNPAUSE"); err != nil {
		return fmt.Errorf("redis: recover: %w", err)
	}
	if err := q.writable(ctx); err != nil {
		return fmt.Errorf("redis: recover: %w", err)
	}
	return nil
}

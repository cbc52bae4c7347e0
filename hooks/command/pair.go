// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

// goodbye is how long a quiesce that failed waits for the watchdog, beyond the
// time that the thaw program has.
const goodbye = 2 * time.Second

// Pair freezes with one program and thaws with another. It is safe for
// concurrent use.
type Pair struct {
	freeze, thaw []string
	opts         Options

	mu   sync.Mutex
	live *pairHold // the newest freeze of this process, until it has ended
}

var (
	_ hooks.Quiescer  = (*Pair)(nil)
	_ hooks.Recoverer = (*Pair)(nil)
)

// NewPair returns a quiescer that runs freeze to freeze and thaw to thaw; both
// are a program and its arguments. They are looked up now, in the PATH of this
// process if they have no slash, and must exist. Options.Helper is required.
func NewPair(freeze, thaw []string, opts *Options) (*Pair, error) {
	o, err := opts.check()
	if err != nil {
		return nil, err
	}
	if len(o.Helper) == 0 {
		return nil, errors.New("command: Options.Helper is required for a pair")
	}
	if !filepath.IsAbs(o.Helper[0]) {
		return nil, fmt.Errorf("command: helper %q is not an absolute path", o.Helper[0])
	}
	o.Helper = slices.Clone(o.Helper)
	if freeze, err = resolve("freeze", freeze); err != nil {
		return nil, err
	}
	if thaw, err = resolve("thaw", thaw); err != nil {
		return nil, err
	}
	return &Pair{freeze: freeze, thaw: thaw, opts: o}, nil
}

// Traits implements hooks.Quiescer: a persistent freeze.
func (q *Pair) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Persistent, Scope: q.opts.scope()}
}

// Quiesce implements hooks.Quiescer. When it fails it waits, as long as one
// run of the thaw program may take, for the watchdog to thaw.
func (q *Pair) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	env := q.opts.environ(req)
	client, err := watchdog.Arm(ctx, q.opts.Helper, env, watchdog.Spec{
		Window: req.Window, Freeze: q.freeze, Thaw: q.thaw, Env: env,
		Timeout: q.opts.ThawTimeout, MaxOutput: hooks.MaxEvidence,
	})
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	if err := client.Freeze(ctx); err != nil {
		client.Close()
		q.leave(client)
		return nil, fmt.Errorf("command: freeze with %q: %w", q.freeze[0], err)
	}
	h := &pairHold{q: q, req: req, client: client}
	q.mu.Lock()
	q.live = h
	q.mu.Unlock()
	// Not ctx: the hold outlives it.
	go h.guard(context.WithoutCancel(ctx))
	return h, nil
}

// leave waits for a watchdog that has been let go of.
func (q *Pair) leave(client *watchdog.Client) {
	timer := time.NewTimer(q.opts.ThawTimeout + goodbye)
	defer timer.Stop()
	select {
	case <-client.Gone():
	case <-timer.C:
	}
}

// ended notes that a freeze is over.
func (q *Pair) ended(h *pairHold) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.live == h {
		q.live = nil
	}
}

// Recover implements hooks.Recoverer: it runs the thaw program, unless a newer
// freeze of this quiescer is in force.
func (q *Pair) Recover(ctx context.Context, epoch hooks.Epoch) error {
	q.mu.Lock()
	h := q.live
	q.mu.Unlock()
	if h != nil && h.req.Epoch > epoch {
		return nil
	}
	if h != nil {
		// Its watchdog must end too, or it would thaw the next freeze.
		return h.thaw(ctx, errors.New("it was recovered"))
	}
	return q.runThaw(ctx, hooks.FreezeRequest{Epoch: epoch})
}

func (q *Pair) runThaw(ctx context.Context, req hooks.FreezeRequest) error {
	ctx, cancel := context.WithTimeout(ctx, q.opts.ThawTimeout)
	defer cancel()
	if _, err := watchdog.RunProgram(ctx, q.thaw, q.opts.environ(req), hooks.MaxEvidence); err != nil {
		return fmt.Errorf("command: thaw with %q: %w", q.thaw[0], err)
	}
	return nil
}

// pairHold is a pair between its programs.
type pairHold struct {
	q      *Pair
	req    hooks.FreezeRequest
	client *watchdog.Client

	mu   sync.Mutex
	done bool
	last error
}

// guard thaws when the watchdog dies, because nobody would if this process
// died too. It ends with the watchdog, hence with the hold or the window.
func (h *pairHold) guard(ctx context.Context) {
	<-h.client.Gone()
	if err := h.client.LastWord(ctx); err == nil || errors.Is(err, watchdog.ErrLost) {
		return
	}
	if err := h.thaw(ctx, nil); err != nil {
		h.q.opts.Logger.Error("target may be frozen", "epoch", h.req.Epoch, "error", err)
	}
}

// Held implements hooks.Hold: the watchdog must answer that it has not thawed.
func (h *pairHold) Held(ctx context.Context) error {
	if err := h.client.Held(ctx); err != nil {
		return fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, err)
	}
	return nil
}

// Thaw implements hooks.Hold. If the watchdog is dead, or could not thaw, the
// thaw program runs here; the hold is lost then.
func (h *pairHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	if err := h.thaw(ctx, nil); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last != nil {
		return nil, h.last
	}
	var evidence hooks.Evidence
	for phase, out := range h.client.Output() {
		if evidence == nil {
			evidence = make(hooks.Evidence)
		}
		evidence[phase] = out
	}
	return evidence, nil
}

// thaw ends the freeze, if it has not ended. The hold is lost for the reason
// lost, if there is one, or if something went wrong. An error says that the
// target may be frozen.
func (h *pairHold) thaw(ctx context.Context, lost error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return nil
	}
	err := h.client.Thaw(ctx)
	switch {
	case err == nil:
	case errors.Is(err, watchdog.ErrLost):
		lost = err
	case ctx.Err() != nil:
		return fmt.Errorf("command: thaw with %q: %w", h.q.thaw[0], err)
	default:
		h.q.opts.Logger.Warn("watchdog could not thaw, thawing without it", "epoch", h.req.Epoch, "error", err)
		if thaw := h.q.runThaw(ctx, h.req); thaw != nil {
			return fmt.Errorf("%w (watchdog: %w)", thaw, err)
		}
		lost = err
	}
	h.done = true
	if lost != nil {
		h.last = fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, lost)
	}
	h.client.Close()
	h.q.ended(h)
	return nil
}

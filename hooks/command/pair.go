// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// patience is how long Prepare waits for another freeze of the target to end.
const patience = 10 * time.Second

// Pair freezes with one program and thaws with another. It is safe for
// concurrent use.
type Pair struct {
	freeze, thaw []string
	held         []string // nil: nobody asks the target
	opts         Options

	mu   sync.Mutex
	live *pairHold // the newest freeze of this process, until it has ended
}

var (
	_ hooks.Preparer  = (*Pair)(nil)
	_ hooks.Recoverer = (*Pair)(nil)
)

// NewPair returns a quiescer that runs freeze to freeze and thaw to thaw; both
// are a program and its arguments. They are looked up now, as is Options.Held, in
// the PATH of this process if they have no slash, and must exist. Options.Helper
// and Options.Lock are required, and without Options.Held nothing is proven.
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
	if !filepath.IsAbs(o.Lock) {
		return nil, fmt.Errorf("command: Options.Lock is required for a pair, as an absolute path, and is %q", o.Lock)
	}
	o.Helper = slices.Clone(o.Helper)
	if freeze, err = resolve("freeze", freeze); err != nil {
		return nil, err
	}
	if thaw, err = resolve("thaw", thaw); err != nil {
		return nil, err
	}
	var held []string
	if len(o.Held) > 0 {
		if held, err = resolve("held", o.Held); err != nil {
			return nil, err
		}
	}
	return &Pair{freeze: freeze, thaw: thaw, held: held, opts: o}, nil
}

// Traits implements hooks.Quiescer: a persistent freeze.
func (q *Pair) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Persistent, Scope: q.opts.scope()}
}

// Describe says what the quiescer runs and touches, for package hooks/lint.
func (q *Pair) Describe() hooks.Description {
	return hooks.Description{Freeze: slices.Clone(q.freeze), Thaw: slices.Clone(q.thaw), Helper: slices.Clone(q.opts.Helper)}
}

// Prepare implements hooks.Preparer: it checks that the lock can be had, and
// waits up to ten seconds for another freeze of the target. If that does not
// end, the error wraps hooks.ErrForeignFreeze.
func (q *Pair) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lock, err := watchdog.OpenLock(q.opts.Lock)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	defer lock.Close()
	if err := watchdog.Lock(ctx, lock); err != nil {
		return q.busy(err)
	}
	return nil
}

// busy explains an error that may be one of the lock.
func (q *Pair) busy(err error) error {
	if errors.Is(err, watchdog.ErrLocked) {
		return fmt.Errorf("command: lock %q: %w: %w", q.opts.Lock, hooks.ErrForeignFreeze, err)
	}
	return fmt.Errorf("command: %w", err)
}

// Quiesce implements hooks.Quiescer. It waits for another freeze of the target
// until ctx ends; then the error wraps hooks.ErrForeignFreeze. When it fails it
// waits, as long as one run of the thaw program may take, for the watchdog to
// thaw.
func (q *Pair) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	lock, err := watchdog.OpenLock(q.opts.Lock)
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	env := q.opts.environ(req)
	client, err := watchdog.Arm(ctx, q.opts.Helper, env, watchdog.Spec{
		Window: req.Window, Freeze: q.freeze, Thaw: q.thaw, Env: env,
		Timeout: q.opts.ThawTimeout, MaxOutput: hooks.MaxEvidence,
	}, lock)
	if err != nil {
		return nil, errors.Join(q.busy(err), lock.Close())
	}
	if err := client.Freeze(ctx); err != nil {
		client.Close()
		q.leave(client)
		return nil, errors.Join(fmt.Errorf("command: freeze with %q: %w", q.freeze[0], err), lock.Close())
	}
	h := &pairHold{q: q, req: req, client: client, lock: lock}
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
//
// It waits for a watchdog or a program that has not ended, half of the time
// that ctx leaves. If that one does not end, because it is stopped or because
// another process holds a freeze, Recover thaws all the same and returns an
// error: whoever comes late must have gone before the next freeze.
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
	return q.recover(ctx, hooks.FreezeRequest{Epoch: epoch})
}

// recover thaws once nobody is left who may come late, and if need be before.
func (q *Pair) recover(ctx context.Context, req hooks.FreezeRequest) error {
	lock, err := watchdog.OpenLock(q.opts.Lock)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	defer lock.Close()
	half, cancel := watchdog.Half(ctx)
	defer cancel()
	locked := watchdog.Lock(half, lock)
	if err := q.runThaw(ctx, req, lock); err != nil {
		return err
	}
	if locked != nil {
		return fmt.Errorf("command: recover: %w", locked)
	}
	return nil
}

func (q *Pair) runThaw(ctx context.Context, req hooks.FreezeRequest, lock *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, q.opts.ThawTimeout)
	defer cancel()
	if _, err := watchdog.RunProgram(ctx, q.thaw, q.opts.environ(req), hooks.MaxEvidence, lock); err != nil {
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
	lock *os.File // for the death of the watchdog; nil after a rescue
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

// errUnasked is the doubt about a target that nobody can ask.
var errUnasked = errors.New("nobody asks the target whether it is still frozen, since there is no program for it")

// Held implements hooks.Hold: the watchdog must answer that it has not thawed,
// and the target, which may have been restarted, that it is frozen.
func (h *pairHold) Held(ctx context.Context) error {
	if err := h.client.Held(ctx); err != nil {
		return fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, err)
	}
	if h.q.held == nil {
		return fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, errUnasked)
	}
	if _, err := watchdog.RunProgram(ctx, h.q.held, h.q.opts.environ(h.req), hooks.MaxEvidence, nil); err != nil {
		return fmt.Errorf("command: held with %q: %w: %w", h.q.held[0], hooks.ErrHoldLost, err)
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
		if thaw := h.rescue(ctx); thaw != nil {
			return fmt.Errorf("%w (watchdog: %w)", thaw, err)
		}
		lost = err
	}
	h.done = true
	if lost != nil {
		h.last = fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, lost)
	}
	h.client.Close()
	if h.lock != nil {
		_ = h.lock.Close()
	}
	h.q.ended(h)
	return nil
}

// rescue thaws in place of a watchdog that cannot. After a failure it can be
// called again, and others can recover the target meanwhile.
func (h *pairHold) rescue(ctx context.Context) error {
	if h.lock == nil {
		return h.q.recover(ctx, h.req)
	}
	// That somebody else has the lock says that the watchdog had thawed: it
	// gives the lock up only then.
	ours, err := watchdog.TryLock(h.lock)
	if ours {
		err = h.q.runThaw(ctx, h.req, h.lock)
	}
	// A program that a dead watchdog left behind keeps the lock.
	_ = h.lock.Close()
	h.lock = nil
	return err
}

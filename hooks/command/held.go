// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/internal/holder"
)

// ready is what a held program says once its target is frozen.
const ready = "READY"

// maxOutput is how much unread output of a held program is kept, in bytes.
const maxOutput = 64 << 10

// Quiescer freezes with a held program. It is safe for concurrent use.
type Quiescer struct {
	argv []string
	opts Options
}

var _ hooks.Quiescer = (*Quiescer)(nil)

// New returns a quiescer that runs argv, a program and its arguments, and
// holds it on its standard input. The program is looked up now, in the PATH of
// this process if it has no slash, and must exist.
func New(argv []string, opts *Options) (*Quiescer, error) {
	o, err := opts.check()
	if err != nil {
		return nil, err
	}
	if argv, err = resolve("quiesce", argv); err != nil {
		return nil, err
	}
	return &Quiescer{argv: argv, opts: o}, nil
}

// Traits implements hooks.Quiescer: a session freeze.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: q.opts.scope()}
}

// Describe says what the quiescer runs and touches, for package hooks/lint.
func (q *Quiescer) Describe() hooks.Description {
	return hooks.Description{Held: slices.Clone(q.argv)}
}

// Quiesce implements hooks.Quiescer. On every error the program has ended, or
// been killed with its process group, when Quiesce returns.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	p, err := holder.Start(holder.Spec{Argv: q.argv, Env: q.opts.environ(req), MaxOutput: maxOutput})
	if err != nil {
		return nil, fmt.Errorf("command: start %q: %w", q.argv[0], err)
	}
	if err := awaitReady(ctx, p); err != nil {
		// ctx may have ended, and the program may have frozen: it gets its time.
		_, stop := p.Stop(context.WithoutCancel(ctx), q.opts.Grace)
		return nil, fmt.Errorf("command: %q did not get ready: %w", q.argv[0], errors.Join(describe(p, err), stop))
	}
	h := &hold{q: q, p: p, thawed: make(chan struct{})}
	// Not ctx: the hold outlives it.
	go h.guard(context.WithoutCancel(ctx), req.Window)
	return h, nil
}

// awaitReady reads up to the line READY.
func awaitReady(ctx context.Context, p *holder.Process) error {
	for read := 0; read <= maxOutput; {
		line, err := p.ReadLine(ctx)
		if err != nil {
			return err
		}
		if line == ready || line == ready+"\r" {
			return nil
		}
		read += len(line) + 1
	}
	return io.ErrShortBuffer
}

// describe adds how the program ended to an error of reading from it. The
// program has been stopped.
func describe(p *holder.Process, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	err = errors.New("it ended its output before")
	select {
	case <-p.Exited():
		if end := p.Err(); end != nil {
			return end
		}
	default:
	}
	if tail := p.Stderr(); len(tail) > 0 {
		err = fmt.Errorf("%w, stderr %q", err, tail)
	}
	return err
}

// hold is a held program.
type hold struct {
	q *Quiescer
	p *holder.Process

	mu       sync.Mutex
	lost     error // the window ended
	done     bool
	evidence hooks.Evidence
	last     error
	thawed   chan struct{}
}

// guard enforces the window: it lets go of the program when it has passed. It
// ends with the hold or with the program.
func (h *hold) guard(ctx context.Context, window time.Duration) {
	timer := time.NewTimer(window)
	defer timer.Stop()
	select {
	case <-h.thawed:
		return
	case <-h.p.Exited():
		return
	case <-timer.C:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return
	}
	h.lost = fmt.Errorf("command: the window of %v ended: %w", window, hooks.ErrHoldLost)
	h.q.opts.Logger.Warn("window ended, letting go of the program", "program", h.q.argv[0])
	_, err := h.p.Stop(ctx, h.q.opts.Grace)
	if err != nil {
		h.q.opts.Logger.Error("program that holds a freeze cannot be stopped", "program", h.q.argv[0], "error", err)
	}
}

// Held implements hooks.Hold: the program must run and have kept its standard
// output open, by which it said READY.
func (h *hold) Held(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("command: %w: %w", hooks.ErrHoldLost, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost != nil {
		return h.lost
	}
	if h.done {
		return fmt.Errorf("command: thawed: %w", hooks.ErrHoldLost)
	}
	return h.gone()
}

// gone says whether the program has let go on its own.
func (h *hold) gone() error {
	select {
	case <-h.p.Exited():
		err := h.p.Err()
		if err == nil {
			err = errors.New("exit status 0")
		}
		return fmt.Errorf("command: %q ended before it was thawed: %w: %w", h.q.argv[0], hooks.ErrHoldLost, err)
	default:
	}
	if h.p.OutputEnded() {
		return fmt.Errorf("command: %q has closed its output: %w", h.q.argv[0], hooks.ErrHoldLost)
	}
	return nil
}

// Thaw implements hooks.Hold. It ends the program's input and waits for it to
// end; a program that takes longer than Options.Grace, or than ctx, is
// terminated and then killed, which loses the proof. A program that ends with
// another status than 0 may not have thawed: hooks.ErrThawFailed.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return nil, h.last
	}
	early := h.lost
	if early == nil {
		early = h.gone()
	}
	willingly, err := h.p.Stop(ctx, h.q.opts.Grace)
	if err != nil {
		return nil, fmt.Errorf("command: thaw with %q: %w", h.q.argv[0], err)
	}
	h.done = true
	close(h.thawed)
	switch {
	case early != nil:
		h.last = early
	case !willingly:
		h.last = fmt.Errorf("command: %q did not end within %v and was killed: %w", h.q.argv[0], h.q.opts.Grace, hooks.ErrHoldLost)
	case h.p.Err() != nil:
		h.last = fmt.Errorf("command: thaw with %q: %w: %w", h.q.argv[0], hooks.ErrThawFailed, h.p.Err())
	default:
		// More than MaxEvidence is passed on as such, for the group to refuse.
		if out, _ := h.p.Output(); len(out) > 0 {
			h.evidence = hooks.Evidence{"stdout": out}
		}
	}
	return h.evidence, h.last
}

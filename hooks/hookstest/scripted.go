// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// ErrInjected is the error of scripted faults.
var ErrInjected = errors.New("hookstest: injected fault")

// Op names a call into a quiescer.
type Op string

// The calls that a fault can hit.
const (
	Prepare Op = "prepare"
	Quiesce Op = "quiesce"
	Held    Op = "held"
	Thaw    Op = "thaw"
	Recover Op = "recover"
)

// Ops lists the calls in the order in which a freeze makes them.
func Ops() []Op { return []Op{Prepare, Quiesce, Held, Thaw, Recover} }

// Kind is a way to fail.
type Kind string

// The faults. Those that end in After let the call have its effect first: the
// reply is what is lost.
const (
	ErrorBefore Kind = "error-before"
	ErrorAfter  Kind = "error-after"
	// HangBefore and HangAfter wait for the end of the context, with its error.
	HangBefore Kind = "hang-before"
	HangAfter  Kind = "hang-after"
	// Late ignores the context, waits for Fault.Delay, and then works.
	Late        Kind = "late"
	PanicBefore Kind = "panic-before"
	PanicAfter  Kind = "panic-after"
	// Lose lets somebody else thaw the target just before the call.
	Lose Kind = "lose"
	// KillBefore and KillAfter kill the Process of the quiescer.
	KillBefore Kind = "kill-before"
	KillAfter  Kind = "kill-after"
)

// Kinds lists all faults.
func Kinds() []Kind {
	return []Kind{
		ErrorBefore, ErrorAfter, HangBefore, HangAfter, Late, PanicBefore, PanicAfter, Lose, KillBefore, KillAfter,
	}
}

// Fault is one entry of a script.
type Fault struct {
	Op   Op
	Kind Kind
	// Nth is the call that fails, counted from 1. Zero means every call.
	Nth int
	// Delay is for Late; zero means a minute, which is more than any window
	// leaves.
	Delay time.Duration
}

// ScriptedOptions are the optional settings of Scripted.
type ScriptedOptions struct {
	// Traits of the quiescer; a Persistent one, the zero value, implements
	// hooks.Recoverer.
	Traits hooks.Traits
	// SelfThaw makes the target end its freeze when the window has passed, as
	// a watchdog does.
	SelfThaw bool
	// Evidence is returned by every thaw that is no error.
	Evidence hooks.Evidence
	// Process is what the quiescer dies with. Nil means one of its own.
	Process *Process
	// Faults are applied to the first that matches a call.
	Faults []Fault
}

// Scripted returns a quiescer for target that fails as scripted. It implements
// hooks.Preparer, and hooks.Recoverer if it is Persistent.
func Scripted(target *Target, opts *ScriptedOptions) hooks.Quiescer {
	s := &scripted{target: target, calls: make(map[Op]int)}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Process == nil {
		s.opts.Process = &Process{}
	}
	if s.opts.Traits.Release == hooks.Persistent {
		return recoverable{s}
	}
	s.opts.Process.onKill(target.Lose)
	return s
}

type scripted struct {
	target *Target
	opts   ScriptedOptions

	mu    sync.Mutex
	calls map[Op]int
}

// recoverable adds hooks.Recoverer.
type recoverable struct{ *scripted }

var (
	_ hooks.Preparer  = (*scripted)(nil)
	_ hooks.Recoverer = recoverable{}
)

func (s *scripted) Traits() hooks.Traits { return s.opts.Traits }

func (s *scripted) Prepare(ctx context.Context) error {
	return s.do(ctx, Prepare, func() error { return nil })
}

func (s *scripted) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	h := &scriptedHold{s: s, epoch: req.Epoch}
	done := false
	defer func() {
		// A session that cannot be handed out is closed, and its freeze with
		// it, even if the reply got lost.
		if !done && s.opts.Traits.Release == hooks.Session && h.freeze != 0 {
			_ = s.target.thaw(req.Epoch, h.freeze)
		}
	}()
	err := s.do(ctx, Quiesce, func() error {
		var lease time.Duration
		if s.opts.SelfThaw {
			lease = req.Window
		}
		freeze, err := s.target.freeze(req.Epoch, lease)
		h.freeze = freeze
		return err
	})
	if err != nil {
		return nil, err
	}
	done = true
	return h, nil
}

func (r recoverable) Recover(ctx context.Context, epoch hooks.Epoch) error {
	return r.do(ctx, Recover, func() error {
		r.target.recover(epoch)
		return nil
	})
}

type scriptedHold struct {
	s      *scripted
	epoch  hooks.Epoch
	freeze int
}

func (h *scriptedHold) Held(ctx context.Context) error {
	return h.s.do(ctx, Held, func() error { return h.s.target.held(h.freeze) })
}

func (h *scriptedHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	err := h.s.do(ctx, Thaw, func() error { return h.s.target.thaw(h.epoch, h.freeze) })
	if err != nil {
		return nil, err
	}
	return maps.Clone(h.s.opts.Evidence), nil
}

// fault returns what the script has for this call.
func (s *scripted) fault(op Op) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[op]++
	for _, f := range s.opts.Faults {
		if f.Op == op && (f.Nth == 0 || f.Nth == s.calls[op]) {
			return f
		}
	}
	return Fault{}
}

// do applies the script to a call whose effect on the target is effect.
func (s *scripted) do(ctx context.Context, op Op, effect func() error) error {
	f := s.fault(op)
	switch f.Kind {
	case ErrorBefore:
		return fmt.Errorf("%w: %s %s", ErrInjected, op, f.Kind)
	case HangBefore:
		<-ctx.Done()
		return ctx.Err()
	case PanicBefore:
		panic(fmt.Sprintf("%s %s", op, f.Kind))
	case KillBefore:
		s.opts.Process.Kill()
	case Lose:
		s.target.Lose()
	case Late:
		delay := f.Delay
		if delay == 0 {
			delay = time.Minute
		}
		<-time.After(delay)
	default:
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := s.opts.Process.reach(effect); err != nil {
		return err
	}
	switch f.Kind {
	case ErrorAfter:
		return fmt.Errorf("%w: %s %s", ErrInjected, op, f.Kind)
	case HangAfter:
		<-ctx.Done()
		return ctx.Err()
	case PanicAfter:
		panic(fmt.Sprintf("%s %s", op, f.Kind))
	case KillAfter:
		s.opts.Process.Kill()
		return ErrKilled
	default: // the others came before the effect
		return nil
	}
}

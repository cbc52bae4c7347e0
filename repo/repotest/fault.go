// SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"context"
	"errors"
	"fmt"

	"gocloud.dev/gcerrors"
)

var (
	// ErrInjected is what a call that fails by a [Fault] returns, unless the
	// Fault has an error of its own. Its code is [Fault.Code].
	ErrInjected = errors.New("repotest: injected fault")
	// ErrKilled is what a call of a killed process returns. Its code is
	// gcerrors.PermissionDenied, so that nobody takes it for worth a retry.
	ErrKilled = errors.New("repotest: the process was killed")
)

// Action is what happens to a call.
type Action int

const (
	// None lets the call work.
	None Action = iota
	// FailBefore fails the call without an effect.
	FailBefore
	// FailAfter fails the call after its effect: the answer is lost. A Get
	// breaks in the middle of the stream, after Fault.Offset bytes.
	FailAfter
	// Hang blocks the call until its context is done or the process is killed;
	// it has no effect.
	Hang
	// HangAfter is Hang after the effect took place: a timeout that lies.
	HangAfter
	// Late fails the call now; the effect takes place at [Bucket.Settle], under
	// the conditions of that time. Calls without an effect just fail.
	Late
	// Corrupt inverts one bit of byte Fault.Offset (modulo the length) of what a
	// Get delivers, or of what a Put or PutOnce stores, and returns no error.
	// Other calls work.
	Corrupt
	// Truncate cuts what a Get delivers, or what a Put or PutOnce stores, after
	// Fault.Offset bytes, and returns no error. Other calls work.
	Truncate
	// Twice lets a call work, and its effect takes place once more at
	// [Bucket.Settle]: a request that the network repeated. Calls without an
	// effect just work.
	Twice
)

// String returns the name of the constant.
func (a Action) String() string {
	names := [...]string{"None", "FailBefore", "FailAfter", "Hang", "HangAfter", "Late", "Corrupt", "Truncate", "Twice"}
	if a < 0 || int(a) >= len(names) {
		return fmt.Sprintf("Action(%d)", int(a))
	}
	return names[a]
}

// Fault is the answer of [Options.Fault] to one call.
type Fault struct {
	// Action is what happens to the call.
	Action Action
	// Kill ends the process with this call: after the Action took place, the
	// call and all later ones fail with ErrKilled. With None, FailBefore or Hang
	// the process dies before the effect; with FailAfter or HangAfter between
	// the effect and its answer; with Late the effect outlives it, and
	// with Twice it takes place and does so again. With Corrupt and Truncate the
	// damaged write is there.
	Kill bool
	// Offset is the place of the damage, in bytes from the start of what is
	// delivered or stored. A FailAfter of a Get delivers so much before it fails.
	Offset int64
	// Err is the error of the call, ErrInjected by default.
	Err error
	// Code is how package gcerrors sees the error, Unknown by default. Context
	// errors keep their own.
	Code gcerrors.ErrorCode
}

// At returns an [Options.Fault] that hits call number index and no other.
func At(index int, f Fault) func(Op) Fault {
	return func(op Op) Fault {
		if op.Index == index {
			return f
		}
		return Fault{}
	}
}

// codedError is an error of an injected fault with its code.
type codedError struct {
	err  error
	code gcerrors.ErrorCode
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

var errKilled = &codedError{err: ErrKilled, code: gcerrors.PermissionDenied}

func (f Fault) error() error {
	e := &codedError{err: f.Err, code: f.Code}
	if e.err == nil {
		e.err = ErrInjected
	}
	if e.code == gcerrors.OK {
		e.code = gcerrors.Unknown
	}
	return e
}

// begin counts the call and returns its fault, or an error if the process is
// dead or the context done: then there was no call.
func (b *Bucket) begin(ctx context.Context, op Op) (Fault, error) {
	if err := ctx.Err(); err != nil {
		return Fault{}, err
	}
	b.mu.Lock()
	if b.mu.killed {
		b.mu.Unlock()
		return Fault{}, errKilled
	}
	op.Index = len(b.mu.calls)
	b.mu.calls = append(b.mu.calls, op)
	b.mu.Unlock()
	return b.opts.Fault(op), nil
}

// effect is what a call does to a store, or reads from it. It applies the damage
// of f to its data.
type effect func(s *store, f Fault) error

// call makes the call op with its fault. The effect runs at most once, now or at
// Settle, possibly on a clone as well.
func (b *Bucket) call(ctx context.Context, op Op, e effect) error {
	f, err := b.begin(ctx, op)
	if err != nil {
		return err
	}
	err = b.apply(ctx, op.Kind, f, e)
	if f.Kill {
		b.Kill()
	}
	if b.Killed() {
		return errKilled // also if another call killed the process meanwhile
	}
	return err
}

func (b *Bucket) apply(ctx context.Context, kind Kind, f Fault, e effect) error {
	reads := kind == Get || kind == List || kind == Attributes
	if f.Action == Twice && !reads {
		b.store.later(e)
	}
	switch {
	case f.Action == FailBefore, f.Action == Late && reads:
		return f.error()
	case f.Action == FailAfter && kind == Get:
		return e(b.store, f) // the reader fails
	case f.Action == FailAfter:
		_ = e(b.store, f) // the answer is lost, good or bad
		return f.error()
	case f.Action == HangAfter:
		_ = e(b.store, f)
		return b.hang(ctx, f)
	case f.Action == Hang:
		return b.hang(ctx, f)
	case f.Action == Late:
		b.store.later(e)
		return f.error()
	case f.Action == None && f.Kill:
		return nil // it dies before the effect
	}
	return e(b.store, f)
}

// damage returns data, which it may change, as f leaves it.
func (f Fault) damage(data []byte) []byte {
	switch {
	case f.Action == Truncate:
		return data[:min(max(0, f.Offset), int64(len(data)))]
	case f.Action == Corrupt && len(data) > 0:
		data[uint64(f.Offset)%uint64(len(data))] ^= 1
	}
	return data
}

// hang returns at once if the process dies with the call anyway.
func (b *Bucket) hang(ctx context.Context, f Fault) error {
	if f.Kill {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.dead:
		return errKilled
	}
}

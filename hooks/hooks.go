// SPDX-License-Identifier: Apache-2.0

// Package hooks quiesces an application for the instant in which its volumes
// are cut, and guarantees that it thaws.
//
// The unit is the [Quiescer]: it blocks the writes of one target (a database,
// a file system, a process) and returns a [Hold]. Acquire returns release:
// there is no unpaired pre or post hook, so that a session lock stays with the
// connection that owns it and a forgotten thaw does not compile.
//
// A [Group] freezes the members of an application in order, waits until all of
// them hold, runs the cut, asks every member to prove that its freeze held the
// whole time, and thaws in strictly reverse order: on success, error,
// cancellation, deadline and panic alike. The intent to freeze is written to a
// [Journal] before the first target is touched, so that the next process can
// thaw what a killed one left ([Group.Recover]).
//
// # What releases a freeze when we vanish
//
// Every quiescer declares it ([Traits.Release]), because each kind needs
// another safety net. A session freeze dies with its connection or process. A
// persistent freeze stays until somebody undoes it: it needs a watchdog that
// is armed in the target's failure domain before the freeze, and the journal.
//
// # Concurrency
//
// A Group may be used by several goroutines; it runs one freeze at a time.
// A Hold is used by one goroutine at a time, with one exception: a call that
// ignores the end of its context does not keep the Group from Thaw.
package hooks

import (
	"context"
	"time"
)

// Epoch numbers the freezes of one journal. It grows with every freeze and is
// never reused, so that a target can refuse a request that arrives late.
type Epoch uint64

// Release says what ends a freeze when the process that asked for it is gone.
type Release int

const (
	// Persistent freezes stay until they are undone: a frozen file system, a
	// maintenance mode. It is the zero value because it is the safe guess.
	Persistent Release = iota
	// Session freezes end with the connection or child process that holds
	// them: a database transaction, a program held on its standard input.
	Session
	// Nothing has to be released of a quiescer that freezes nothing
	// (crashsafe.New).
	Nothing
)

// Scope says what a proven hold is worth.
type Scope int

const (
	// Filesystem means that no write was in flight in the file system.
	Filesystem Scope = iota
	// Application means that the application itself declared its data on disk
	// to be consistent.
	Application
)

// Traits are the properties of a quiescer that never change.
type Traits struct {
	Release Release
	Scope   Scope
	// AtomicCut says that a proven hold is worth its Scope only if the volumes
	// were cut at one and the same instant. A target that recovers by itself
	// from a power failure needs no more than that, and nothing is frozen; in
	// any other cut the hold is worth nothing.
	AtomicCut bool
}

// FreezeRequest is what a quiescer is asked for.
type FreezeRequest struct {
	// Epoch identifies the freeze. A target that can remember it refuses a
	// request with a smaller epoch than one it has already thawed, and one that
	// it has refused for ever: when somebody else holds a freeze, nobody calls
	// Recover after it, and a duplicate of the request may be on its way.
	Epoch Epoch
	// Window is the longest time the target may stay frozen, counted from the
	// moment it froze. A target that can enforce it (a server-side lease, a
	// watchdog process) must do so on its own, without the caller's help.
	Window time.Duration
}

// Quiescer blocks the writes of one target.
//
// Implementations are safe for concurrent use, although a Group never has two
// freezes of one quiescer in flight. hookstest.Run checks the contract.
type Quiescer interface {
	// Traits returns the constant properties of the quiescer.
	Traits() Traits

	// Quiesce blocks writes and returns once they are blocked. It honours ctx
	// while it waits, but ctx does not bound the hold: the Hold outlives it.
	//
	// On error the Hold is nil and the quiescer has undone what it did as far
	// as it can know; a quiescer whose target may remain frozen regardless (a
	// lost reply) implements Recoverer, which the Group then calls, except
	// after ErrForeignFreeze: what somebody else froze is not ours to thaw.
	Quiesce(ctx context.Context, req FreezeRequest) (Hold, error)
}

// Hold is a freeze in force.
type Hold interface {
	// Held returns nil only if the target answered that this very freeze has
	// held without a gap since Quiesce returned. Doubt is an error that wraps
	// ErrHoldLost.
	Held(ctx context.Context) error

	// Thaw ends the freeze and returns what must be stored with the recovery
	// point (a PostgreSQL backup_label, a binlog position), keyed by a short
	// name; nil is fine. The target is writable again when Thaw returns nil
	// or an error that wraps ErrHoldLost: the latter says that the freeze had
	// already ended before, so that the cut proves nothing. After any other
	// error the target may still be frozen; Thaw may be called again and is
	// idempotent.
	Thaw(ctx context.Context) (Evidence, error)
}

// Evidence is what a target wants stored with the recovery point. The sum of
// keys and values of one freeze is limited to MaxEvidence.
type Evidence map[string][]byte

// MaxEvidence bounds the evidence of all members of one group, in bytes, since
// it travels in the caller's state.
const MaxEvidence = 8 << 10

// Preparer is implemented by quiescers that can do work ahead of the window:
// check reachability and permissions, flush dirty pages, take a checkpoint.
// Prepare must not block writes and may be called any number of times.
type Preparer interface {
	Prepare(ctx context.Context) error
}

// Recoverer is implemented by quiescers whose target can stay frozen after the
// process is gone or the reply was lost; every Persistent quiescer must.
type Recoverer interface {
	// Recover makes sure that nothing frozen under epoch or an earlier one of
	// this quiescer's remains. It is idempotent; a target that is not frozen
	// is success.
	Recover(ctx context.Context, epoch Epoch) error
}

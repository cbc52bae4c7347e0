// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"fmt"
	"sync/atomic"
)

// CrashSafeEvidence is the key under which the reason of NewCrashSafe is stored
// with a recovery point.
const CrashSafeEvidence = "crash-safe"

const maxReason = 1 << 10 // bytes

// NewCrashSafe returns a quiescer that freezes nothing, for an application that
// recovers by itself from a power failure: whatever it acknowledged is on its
// volumes at every instant. A point is worth Application for it if all volumes
// were cut at one and the same instant ([Traits.AtomicCut]), and nothing
// otherwise. Nobody asks the application, so that this rests on the caller's
// word alone: the reason says why it is true, for people, in 1 to 1024 bytes of
// printable UTF-8, and is stored with the point. A cache that ignores syncs, or
// a setting such as fsync=off, makes it wrong.
//
// A Group whose members are all of this kind blocks nobody: it journals no
// intent, and its cuts count for neither MinGap nor Budget.
func NewCrashSafe(reason string) (Quiescer, error) {
	if err := checkText("reason", reason, maxReason); err != nil {
		return nil, err
	}
	return crashSafe(reason), nil
}

// crashSafe is the reason why nothing is frozen.
type crashSafe string

// Traits implements Quiescer.
func (c crashSafe) Traits() Traits {
	return Traits{Release: Nothing, Scope: Application, AtomicCut: true}
}

// Quiesce implements Quiescer.
func (c crashSafe) Quiesce(ctx context.Context, _ FreezeRequest) (Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &crashSafeHold{reason: c}, nil
}

type crashSafeHold struct {
	reason crashSafe
	thawed atomic.Bool
}

// Held implements Hold: there is nothing that could have been lost before the
// thaw.
func (h *crashSafeHold) Held(ctx context.Context) error {
	if h.thawed.Load() {
		return fmt.Errorf("%w: it is over", ErrHoldLost)
	}
	return ctx.Err()
}

// Thaw implements Hold. The evidence is why nothing was frozen.
func (h *crashSafeHold) Thaw(context.Context) (Evidence, error) {
	h.thawed.Store(true)
	return Evidence{CrashSafeEvidence: []byte(h.reason)}, nil
}

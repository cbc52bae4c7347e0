// SPDX-License-Identifier: Apache-2.0

package callback

import (
	"context"
	"sync"

	"github.com/stillpoint-go/protect/hooks"
)

// Application is a hooks.Quiescer made of two functions, for a Handler: it is the
// handler that gives it a lease, epochs, and one freeze at a time.
type Application struct {
	// Freeze blocks writes and returns when they are blocked. On error it has
	// unblocked them.
	Freeze func(ctx context.Context) error
	// Thaw unblocks them and returns what has to be stored with the recovery
	// point, if anything. It may be called again after an error.
	Thaw func(ctx context.Context) (hooks.Evidence, error)
}

var _ hooks.Quiescer = Application{}

// Traits implements hooks.Quiescer.
func (a Application) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
}

// Quiesce implements hooks.Quiescer.
func (a Application) Quiesce(ctx context.Context, _ hooks.FreezeRequest) (hooks.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := a.Freeze(ctx); err != nil {
		return nil, err
	}
	return &applicationHold{a: a}, nil
}

// applicationHold is a freeze of an Application.
type applicationHold struct {
	a    Application
	mu   sync.Mutex
	done bool
	kept hooks.Evidence
}

// Held implements hooks.Hold.
func (h *applicationHold) Held(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return hooks.ErrHoldLost
	}
	return nil
}

// Thaw implements hooks.Hold.
func (h *applicationHold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, nil
	}
	kept, err := h.a.Thaw(ctx)
	if err != nil {
		return nil, err
	}
	h.done, h.kept = true, kept
	return kept, nil
}

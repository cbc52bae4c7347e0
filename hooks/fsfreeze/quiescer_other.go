// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package fsfreeze

import (
	"context"
	"errors"
	"fmt"

	"github.com/stillpoint-go/protect/hooks"
)

var errPlatform = fmt.Errorf("fsfreeze: only on Linux: %w", errors.ErrUnsupported)

// Quiescer freezes one file system. It exists on Linux only.
type Quiescer struct{}

// New fails with an error that wraps errors.ErrUnsupported: this is not Linux.
func New(_ string, opts *Options) (*Quiescer, error) {
	if _, err := opts.check(); err != nil {
		return nil, err
	}
	return nil, errPlatform
}

// Traits implements hooks.Quiescer.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Persistent, Scope: hooks.Filesystem}
}

// Describe says what the quiescer runs and touches, for package hooks/lint.
func (q *Quiescer) Describe() hooks.Description { return hooks.Description{} }

// Prepare implements hooks.Preparer.
func (q *Quiescer) Prepare(context.Context) error { return errPlatform }

// Quiesce implements hooks.Quiescer.
func (q *Quiescer) Quiesce(context.Context, hooks.FreezeRequest) (hooks.Hold, error) {
	return nil, errPlatform
}

// Recover implements hooks.Recoverer.
func (q *Quiescer) Recover(context.Context, hooks.Epoch) error { return errPlatform }

// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"time"

	"github.com/stillpoint-go/protect/repo"
)

// PhaseInfo says what an event is about.
type PhaseInfo struct {
	ID          string // of the recovery point
	Application string
	Phase       Phase
}

// Events are functions that a Protector calls when something happens. Each may
// be nil. They are called by the goroutine that does the work and must not
// block; those of different points may be called at the same time.
type Events struct {
	// PhaseBegin is called when a step begins. It returns the context for the
	// step: the one it got, or that of a span.
	PhaseBegin func(ctx context.Context, i PhaseInfo) context.Context
	// PhaseEnd is called when a step ends, with the context of PhaseBegin.
	PhaseEnd func(ctx context.Context, i PhaseInfo, err error)
	// Retry is called when Run is about to repeat a step that failed.
	Retry func(ctx context.Context, i PhaseInfo, err error, wait time.Duration)
	// Progress is called while data is moved, at most twice a second and once
	// at the end, with cumulative counts.
	Progress func(ctx context.Context, i PhaseInfo, p repo.Progress)
}

func (e *Events) begin(ctx context.Context, i PhaseInfo) context.Context {
	if e.PhaseBegin == nil {
		return ctx
	}
	return e.PhaseBegin(ctx, i)
}

func (e *Events) end(ctx context.Context, i PhaseInfo, err error) {
	if e.PhaseEnd != nil {
		e.PhaseEnd(ctx, i, err)
	}
}

func (e *Events) retry(ctx context.Context, i PhaseInfo, err error, wait time.Duration) {
	if e.Retry != nil {
		e.Retry(ctx, i, err, wait)
	}
}

func (e *Events) progress(ctx context.Context, i PhaseInfo) func(repo.Progress) {
	if e.Progress == nil {
		return nil
	}
	return func(p repo.Progress) { e.Progress(ctx, i, p) }
}

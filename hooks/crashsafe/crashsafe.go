// SPDX-License-Identifier: Apache-2.0

// Package crashsafe is for applications that need no freeze, because they
// recover by themselves from a power failure: whatever they acknowledged is on
// their volumes at every instant.
//
// Nothing is frozen. A point is worth hooks.Application to such an application
// if all volumes were cut at one and the same instant (hooks.Traits.AtomicCut),
// and nothing otherwise: then the point says so in its doubts, and is an error
// for who requires more. A group whose members are all of this kind blocks
// nobody: it journals no intent, and its cuts count for neither MinGap nor
// Budget.
//
// # What it rests on
//
// Nobody asks the application. That it is crash safe is the caller's word
// alone, and the reason for it is stored with each point. A setting such as
// fsync=off makes it wrong, or a disk that acknowledges what it has in a
// volatile cache. Where a recipe can look (as postgres.NewAtomic does), prefer
// that.
package crashsafe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/stillpoint-go/protect/hooks"
)

// Evidence is the key under which the reason is stored with a recovery point.
const Evidence = "crash-safe"

// MaxReason bounds the reason, in bytes.
const MaxReason = 1 << 10

// Quiescer freezes nothing. It is safe for concurrent use.
type Quiescer struct{ reason string }

var _ hooks.Quiescer = (*Quiescer)(nil)

// New returns a quiescer for an application that is crash safe for this reason,
// for people: 1 to MaxReason bytes of printable UTF-8.
func New(reason string) (*Quiescer, error) {
	if reason == "" || len(reason) > MaxReason {
		return nil, fmt.Errorf("crashsafe: a reason of %d bytes, 1 to %d are allowed", len(reason), MaxReason)
	}
	if !utf8.ValidString(reason) || strings.ContainsFunc(reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, errors.New("crashsafe: the reason is not printable UTF-8")
	}
	return &Quiescer{reason: reason}, nil
}

// Traits implements hooks.Quiescer.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Nothing, Scope: hooks.Application, AtomicCut: true}
}

// Quiesce implements hooks.Quiescer. It fails only if ctx has ended.
func (q *Quiescer) Quiesce(ctx context.Context, _ hooks.FreezeRequest) (hooks.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("crashsafe: %w", err)
	}
	return &hold{reason: q.reason}, nil
}

type hold struct {
	reason string
	thawed atomic.Bool
}

// Held implements hooks.Hold: before the thaw there is nothing to lose.
func (h *hold) Held(context.Context) error {
	if h.thawed.Load() {
		return fmt.Errorf("crashsafe: thawed: %w", hooks.ErrHoldLost)
	}
	return nil
}

// Thaw implements hooks.Hold. The evidence is why nothing was frozen.
func (h *hold) Thaw(context.Context) (hooks.Evidence, error) {
	h.thawed.Store(true)
	return hooks.Evidence{Evidence: []byte(h.reason)}, nil
}

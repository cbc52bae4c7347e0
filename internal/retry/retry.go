// SPDX-License-Identifier: Apache-2.0

// Package retry repeats idempotent operations that failed for a passing
// reason. It is the only package that uses backoff, whose edges it rounds: the
// last real error is not lost when the context ends, and an attempt that hit
// its own deadline is repeated while the caller's context lives.
package retry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Policy bounds the repetition. The zero value is usable.
type Policy struct {
	Attempts int           // tries in all; less than 1 means 6
	Base     time.Duration // mean of the first pause, doubled for each next one; 0 means 100 ms
	Max      time.Duration // longest mean pause; 0 means 10 s
	PerTry   time.Duration // deadline of one attempt; 0 means DefaultPerTry
	// Notify, if set, hears of every failure that is about to be repeated.
	Notify func(err error, wait time.Duration)
}

// DefaultPerTry is how long one attempt may take.
const DefaultPerTry = 5 * time.Minute

func (p Policy) withDefaults() Policy {
	if p.Attempts < 1 {
		p.Attempts = 6
	}
	if p.Base == 0 {
		p.Base = 100 * time.Millisecond
	}
	if p.Max == 0 {
		p.Max = 10 * time.Second
	}
	if p.PerTry == 0 {
		p.PerTry = DefaultPerTry
	}
	return p
}

// Final marks err as not worth repeating; Do returns err itself.
func Final(err error) error { return backoff.Permanent(err) }

// IsFinal reports whether the error says by itself that a repetition cannot
// help: the standard sentinels of a definite answer.
func IsFinal(err error) bool {
	for _, f := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

// Do calls op until it succeeds, fails finally, ctx ends or the policy is
// used up. It returns the last error of op, joined with that of ctx if ctx
// ended. op gets a context with the deadline of one attempt.
func Do(ctx context.Context, p Policy, op func(context.Context) error) error {
	p = p.withDefaults()
	exp := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.Base),
		backoff.WithMaxInterval(p.Max),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxElapsedTime(0),
	)
	var last error
	try := func() error {
		if ctx.Err() != nil {
			return backoff.Permanent(ctx.Err())
		}
		tryCtx, cancel := context.WithTimeoutCause(ctx, p.PerTry, errAttempt)
		defer cancel()
		last = op(tryCtx)
		if last == nil {
			return nil
		}
		if ctx.Err() != nil || IsFinal(last) {
			return backoff.Permanent(last)
		}
		return last
	}
	notify := func(err error, wait time.Duration) {
		if p.Notify != nil {
			p.Notify(err, wait)
		}
	}
	b := backoff.WithContext(backoff.WithMaxRetries(exp, uint64(p.Attempts-1)), ctx) // a small constant
	err := backoff.RetryNotify(try, b, notify)
	if err == nil {
		return nil
	}
	if perm, ok := errors.AsType[*backoff.PermanentError](err); ok {
		err = perm.Err
	}
	if cerr := ctx.Err(); cerr != nil && last != nil && !errors.Is(last, cerr) {
		return fmt.Errorf("%w: %w", cerr, unwrapPermanent(last))
	}
	return err
}

func unwrapPermanent(err error) error {
	if perm, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return perm.Err
	}
	return err
}

var errAttempt = errors.New("retry: attempt took too long")

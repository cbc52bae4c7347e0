// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/internal/retry"
)

var errPassing = errors.New("passing")

func TestAttempts(t *testing.T) {
	for _, tc := range []struct{ attempts, fails, calls int }{
		{0, 100, 6}, {1, 100, 1}, {2, 100, 2}, {6, 5, 6}, {6, 0, 1}, {3, 1, 2}, {-1, 100, 6},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls, told := 0, 0
			start := time.Now()
			err := retry.Do(t.Context(), retry.Policy{Attempts: tc.attempts, Notify: func(err error, wait time.Duration) {
				told++
				if !errors.Is(err, errPassing) || wait <= 0 || wait > 15*time.Second {
					t.Errorf("told of %v and %v", err, wait)
				}
			}}, func(context.Context) error {
				if calls++; calls > 50 {
					t.Fatal("no end")
				}
				if calls <= tc.fails {
					return fmt.Errorf("call %d: %w", calls, errPassing)
				}
				return nil
			})
			ok := tc.fails < tc.calls
			if calls != tc.calls || (err == nil) != ok || told != calls-1 {
				t.Errorf("%+v: %d calls, told of %d, %v", tc, calls, told, err)
			}
			if !ok && err.Error() != fmt.Sprintf("call %d: passing", calls) {
				t.Errorf("%+v: not the last error: %v", tc, err)
			}
			// 100 ms, doubled four times, each ±50 %.
			if d := time.Since(start); calls == 6 && (d < 1500*time.Millisecond || d > 4700*time.Millisecond) {
				t.Errorf("%+v: took %v", tc, d)
			}
		})
	}
}

func TestFinal(t *testing.T) {
	for _, err := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported, retry.Final(errPassing)} {
		calls := 0
		got := retry.Do(t.Context(), retry.Policy{}, func(context.Context) error { calls++; return err })
		if calls != 1 || !errors.Is(got, errors.Unwrap(err)) && !errors.Is(got, err) {
			t.Errorf("%v: %d calls, %v", err, calls, got)
		}
	}
	if got := retry.Do(t.Context(), retry.Policy{}, func(context.Context) error { return retry.Final(errPassing) }); got != errPassing { //nolint:errorlint // itself
		t.Errorf("Do returns %#v", got)
	}
}

// TestAttemptDeadline lets attempts hang: each ends at its own deadline and is
// repeated while the caller's context lives.
func TestAttemptDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		err := retry.Do(t.Context(), retry.Policy{Attempts: 3, PerTry: time.Minute}, func(ctx context.Context) error {
			if calls++; calls == 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if d := time.Since(start); err != nil || calls != 3 || d < 2*time.Minute || d > 2*time.Minute+time.Second {
			t.Errorf("%d calls in %v, %v", calls, d, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := retry.Do(t.Context(), retry.Policy{}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d < 30*time.Minute || d > 31*time.Minute {
			t.Errorf("a store that hangs fails after %v with %v", d, err)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // while it waits
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := retry.Do(ctx, retry.Policy{Base: time.Hour, Max: time.Hour}, func(context.Context) error { return errPassing })
		if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errPassing) || d > time.Second {
			t.Errorf("after %v: %v", d, err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // while it works
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		err := retry.Do(ctx, retry.Policy{}, func(ctx context.Context) error {
			calls++
			cancel()
			<-ctx.Done()
			return errPassing
		})
		if calls != 1 || !errors.Is(err, context.Canceled) || !errors.Is(err, errPassing) {
			t.Errorf("%d calls: %v", calls, err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context()) // before
	cancel()
	if err := retry.Do(ctx, retry.Policy{}, func(context.Context) error { t.Error("called"); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

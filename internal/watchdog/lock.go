// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// The lock of a target.
//
// Whoever may still freeze or thaw a target has its lock: the parent, which
// takes it before it arms a helper, the helper, which inherits it, and the
// programs that the helper runs. All of them share one open file description,
// so that the lock is free when the last of them is gone, however it went, or
// when the helper has thawed and gives it up. Therefore nobody who acts late
// meets a newer freeze, although the target itself may know no epochs.

const (
	// lockFD is where the helper finds the lock.
	lockFD = 3

	lockPause    = time.Millisecond
	maxLockPause = 50 * time.Millisecond
	maxWait      = 10 * time.Second
)

// ErrLocked reports that another freeze of the target is under way, or that
// what froze it once has not ended.
var ErrLocked = errors.New("another freeze of the target is under way, or its watchdog has not ended")

// OpenLock opens the file or directory that stands for a target. If there is
// none it creates a file.
func OpenLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.OpenFile(path, os.O_RDONLY|os.O_CREATE|openNonblock, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("open the lock of the target: %w", err)
	}
	return f, nil
}

// Lock waits until the lock is ours, which it is until f is closed, here and
// by everybody who inherited it. It is fine if it is ours already. When ctx
// ends before, the error wraps ErrLocked and that of ctx.
func Lock(ctx context.Context, f *os.File) error {
	for pause := lockPause; ; pause = min(2*pause, maxLockPause) {
		ok, err := TryLock(f)
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
		}
	}
}

// Half returns a context for the first half of the time that ctx has, and ten
// seconds at most, so that the rest is left for doing without what was waited
// for.
func Half(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := maxWait
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	return context.WithTimeout(ctx, limit)
}

// inherit returns the lock that the parent described, if it did.
func inherit(id *LockID) (*os.File, error) {
	if id == nil {
		return nil, nil //nolint:nilnil // no lock is a fine lock
	}
	f, err := inherited()
	if err != nil {
		return nil, fmt.Errorf("the lock of the target was not passed on: %w", err)
	}
	if got, err := identify(f); err != nil || *got != *id {
		// It is not ours, not even to close.
		return nil, errors.New("the lock of the target was not passed on: whatever starts the helper must leave descriptor 3 open")
	}
	if ok, err := TryLock(f); err != nil || !ok {
		return nil, errors.Join(ErrLocked, err)
	}
	return f, nil
}

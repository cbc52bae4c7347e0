// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// ErrStale is the refusal of a Target to freeze under an epoch that it has
// already thawed.
var ErrStale = errors.New("hookstest: stale epoch")

// Target is something in memory that can be frozen. It refuses stale epochs
// and a second freeze, as a good target does. The zero value is ready for use
// and not frozen. It is safe for concurrent use.
type Target struct {
	mu       sync.Mutex
	frozen   bool
	epoch    hooks.Epoch
	minEpoch hooks.Epoch // the smallest one that may freeze
	freezes  int
	timer    *time.Timer
}

// Frozen says whether writes are blocked. It never fails; the signature is
// that of Harness.Frozen.
func (t *Target) Frozen(context.Context) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frozen, nil
}

// Freeze returns the number of the freeze in force, counted from 1 and
// independent of epochs, or 0. A hold has held without a gap between two
// instants only if both see the same number.
func (t *Target) Freeze() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.frozen {
		return 0
	}
	return t.freezes
}

// Lose ends the freeze in force, as somebody else's thaw would.
func (t *Target) Lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release()
}

func (t *Target) release() {
	t.frozen = false
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// freeze blocks writes; a lease of more than zero ends the freeze by itself.
func (t *Target) freeze(epoch hooks.Epoch, lease time.Duration) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if epoch < t.minEpoch {
		return 0, fmt.Errorf("%w %d, at least %d is required", ErrStale, epoch, t.minEpoch)
	}
	if t.frozen {
		t.minEpoch = max(t.minEpoch, epoch+1) // a duplicate must not come through later
		return 0, hooks.ErrForeignFreeze
	}
	t.frozen, t.epoch = true, epoch
	t.freezes++
	freeze := t.freezes
	if lease > 0 {
		t.timer = time.AfterFunc(lease, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.frozen && t.freezes == freeze {
				t.release()
			}
		})
	}
	return freeze, nil
}

// held says whether that very freeze is in force.
func (t *Target) held(freeze int) error {
	if freeze == 0 || t.Freeze() != freeze {
		return fmt.Errorf("hookstest: target: %w", hooks.ErrHoldLost)
	}
	return nil
}

// thaw ends that very freeze.
func (t *Target) thaw(epoch hooks.Epoch, freeze int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.minEpoch = max(t.minEpoch, epoch+1)
	if !t.frozen || t.freezes != freeze {
		return fmt.Errorf("hookstest: target: %w", hooks.ErrHoldLost)
	}
	t.release()
	return nil
}

// recover ends any freeze of epoch or before.
func (t *Target) recover(epoch hooks.Epoch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.minEpoch = max(t.minEpoch, epoch+1)
	if t.frozen && t.epoch <= epoch {
		t.release()
	}
}

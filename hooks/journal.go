// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Intent is the journaled decision to freeze the members of an application.
// While it is pending, each of them may be frozen.
type Intent struct {
	// Epoch is assigned by Begin.
	Epoch Epoch
	// Application is the name of the group.
	Application string
	// ID is the caller's id of the cut.
	ID string
	// Members are the names of all members in freeze order.
	Members []string
	// Window is how long they may be frozen.
	Window time.Duration
	// Began is the caller's clock, for people.
	Began time.Time
}

// Journal remembers intents. Implementations are safe for concurrent use; one
// that is shared by processes must outlive each of them.
type Journal interface {
	// Begin stores the intent durably and returns its epoch, which is greater
	// than that of every earlier intent of this journal, ended ones included.
	// After an error the intent may be pending or not.
	Begin(ctx context.Context, in Intent) (Epoch, error)

	// End removes an intent. It is idempotent; an unknown epoch is success.
	End(ctx context.Context, epoch Epoch) error

	// Pending returns the intents that have not ended, of all applications.
	// The error tells about those that could not be read, if any; the others
	// are returned with it.
	Pending(ctx context.Context) ([]Intent, error)
}

// MemJournal is a Journal in memory. It is enough for session freezes, which
// die with the process as it does, and for tests.
type MemJournal struct {
	mu      sync.Mutex
	last    Epoch
	pending map[Epoch]Intent
	past    []PastFreeze
}

var _ Journal = (*MemJournal)(nil)

// NewMemJournal returns an empty journal. Its first epoch is 1.
func NewMemJournal() *MemJournal {
	return &MemJournal{pending: make(map[Epoch]Intent)}
}

// Begin implements Journal.
func (j *MemJournal) Begin(ctx context.Context, in Intent) (Epoch, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	in.Epoch = j.last + 1
	if err := in.check(); err != nil {
		return 0, err
	}
	in.Members = slices.Clone(in.Members)
	j.last = in.Epoch
	j.pending[in.Epoch] = in
	return in.Epoch, nil
}

// End implements Journal.
func (j *MemJournal) End(ctx context.Context, epoch Epoch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.pending, epoch)
	return nil
}

// Pending implements Journal. The intents are in the order of their epochs.
func (j *MemJournal) Pending(ctx context.Context) ([]Intent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var intents []Intent
	for _, epoch := range slices.Sorted(maps.Keys(j.pending)) {
		in := j.pending[epoch]
		in.Members = slices.Clone(in.Members)
		intents = append(intents, in)
	}
	return intents, nil
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"gocloud.dev/gcerrors"
)

// Capabilities is what a probe found out about a store.
type Capabilities struct {
	// AtomicCreate says that of many creators of one key exactly one won.
	AtomicCreate bool
	// ReadAfterWrite and ListAfterWrite say that a new object was seen at once.
	ReadAfterWrite bool
	ListAfterWrite bool
}

// racers create one key at the same moment, in each of probeRounds rounds.
const (
	racers      = 8
	probeRounds = 4
	// probeTimeout bounds each round: a store that hangs has failed.
	probeTimeout = time.Minute
)

// Probe tries, under keys that start with prefix, what the safety of a
// repository rests on, and removes what it wrote. It can find a fault but not
// prove its absence: stores that keep the promise only within one process or
// one region pass.
func (s *Store) Probe(ctx context.Context, prefix string) (Capabilities, error) {
	c := Capabilities{AtomicCreate: true, ReadAfterWrite: true, ListAfterWrite: true}
	for round := range probeRounds {
		if err := s.probeRound(ctx, fmt.Sprintf("%s%d", prefix, round), &c); err != nil {
			return Capabilities{}, fmt.Errorf("store: probe: %w", err)
		}
	}
	return c, nil
}

func (s *Store) probeRound(ctx context.Context, key string, c *Capabilities) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		cleaner := Store{bucket: s.bucket, policy: s.policy}
		cleaner.policy.PerTry = cleanupTimeout / 3 // one that hangs is repeated in time
		err = errors.Join(err, cleaner.Delete(ctx, key))
	}()
	r, err := s.race(ctx, key)
	if err != nil {
		return err
	}
	switch got, err := s.Get(ctx, key, 64); {
	case errors.Is(err, fs.ErrNotExist) && len(r.won) == 0:
		return r.failure() // nobody knows that it was there
	case errors.Is(err, fs.ErrNotExist):
		c.ReadAfterWrite = false
	case err != nil:
		return err
	case !r.atomic(got):
		c.AtomicCreate = false
	}
	listed := false
	for o, err := range s.List(ctx, key) {
		if err != nil {
			return err
		}
		listed = listed || o.Key == key
	}
	if !listed {
		c.ListAfterWrite = false
	}
	return nil
}

// outcome is what the store told the racers.
type outcome struct {
	won     []string // contents of those that were told that they created the object
	unknown []string // contents of those that got neither a yes nor a no
	errs    []error  // what they got
}

// atomic reports whether the answers fit a store with one winner, whose object
// is got.
func (o *outcome) atomic(got []byte) bool {
	if len(o.won) == 0 {
		return slices.Contains(o.unknown, string(got))
	}
	return len(o.won) == 1 && o.won[0] == string(got)
}

func (o *outcome) failure() error {
	return classify(errors.Join(append(o.errs, errors.New("no attempt to create an object succeeded"))...))
}

// race has many goroutines create key with content of their own. It fails if
// nobody can have won: either the store failed, or it refuses this kind of
// request.
func (s *Store) race(ctx context.Context, key string) (*outcome, error) {
	var (
		wg    sync.WaitGroup
		start = make(chan struct{})
		errs  [racers]error
		o     outcome
	)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	body := func(i int) string { return fmt.Sprintf("protect probe %d", i) }
	for i := range racers {
		wg.Go(func() {
			<-start
			errs[i] = s.create(ctx, key, []byte(body(i)))
		})
	}
	close(start)
	wg.Wait()
	for i, err := range errs {
		switch {
		case err == nil:
			o.won = append(o.won, body(i))
		case gcerrors.Code(err) != gcerrors.FailedPrecondition:
			o.unknown = append(o.unknown, body(i))
			o.errs = append(o.errs, err)
		}
	}
	if len(o.won)+len(o.unknown) == 0 {
		return nil, o.failure()
	}
	return &o, nil
}

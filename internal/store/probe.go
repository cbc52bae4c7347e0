// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

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
		err = errors.Join(err, s.Delete(ctx, key))
	}()
	wins, winner, err := s.race(ctx, key)
	if err != nil {
		return err
	}
	switch got, err := s.Get(ctx, key, 64); {
	case errors.Is(err, fs.ErrNotExist):
		c.ReadAfterWrite = false
	case err != nil:
		return err
	case wins != 1 || !bytes.Equal(got, winner):
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

// race has many goroutines create key with content of their own. It returns
// how many the store told that they did, and the content of the last of them.
func (s *Store) race(ctx context.Context, key string) (int, []byte, error) {
	var (
		wg     sync.WaitGroup
		wins   atomic.Int64
		winner atomic.Pointer[[]byte]
		start  = make(chan struct{})
		errs   = make([]error, racers)
	)
	for i := range racers {
		wg.Go(func() {
			<-start
			body := fmt.Appendf(nil, "protect probe %d", i)
			switch err := s.create(ctx, key, body); {
			case err == nil:
				wins.Add(1)
				winner.Store(&body)
			case gcerrors.Code(err) != gcerrors.FailedPrecondition:
				errs[i] = err
			}
		})
	}
	close(start)
	wg.Wait()
	if w := winner.Load(); w != nil {
		return int(wins.Load()), *w, nil
	}
	// Nobody won: either the store failed, or it refuses this kind of request.
	return 0, nil, classify(errors.Join(append(errs, errors.New("no attempt to create an object succeeded"))...))
}

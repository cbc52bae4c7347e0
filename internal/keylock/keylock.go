// SPDX-License-Identifier: Apache-2.0

// Package keylock is a set of locks with names, taken with a context.
package keylock

import (
	"context"
	"sync"
)

// Set is a set of locks. The zero value is ready to use.
type Set struct {
	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	token chan struct{} // holds one token while the lock is free
	users int           // holders and waiters
}

// Lock takes the lock of this name and returns the function that releases it,
// which must be called exactly once.
func (s *Set) Lock(ctx context.Context, name string) (unlock func(), err error) {
	s.mu.Lock()
	l := s.locks[name]
	if l == nil {
		l = &lock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		if s.locks == nil {
			s.locks = map[string]*lock{}
		}
		s.locks[name] = l
	}
	l.users++
	s.mu.Unlock()
	select {
	case <-l.token:
		return func() {
			l.token <- struct{}{}
			s.leave(name, l)
		}, nil
	case <-ctx.Done():
		s.leave(name, l)
		return nil, ctx.Err()
	}
}

func (s *Set) leave(name string, l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.locks, name)
	}
}

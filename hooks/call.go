// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// strays are calls that were given up on and still run.
type strays struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n returns to zero
}

func (s *strays) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		s.idle = make(chan struct{})
	}
	s.n++
}

func (s *strays) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n == 0 {
		close(s.idle)
	}
}

// busy says whether a call still runs.
func (s *strays) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0
}

// wait returns when every call has returned, or with the error of ctx.
func (s *strays) wait(ctx context.Context) error {
	s.mu.Lock()
	n, idle := s.n, s.idle
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hooks: a call of an earlier freeze has not returned: %w", why(ctx))
	}
}

// answer is what a call returned.
type answer[T any] struct {
	val T
	err error
}

// call runs f in a goroutine of its own and returns what f returned. A panic
// and runtime.Goexit become errors. If f has not returned when ctx has ended
// and grace has passed on top, call gives up with an error that wraps
// errAbandoned and the cause of ctx; f then is a stray until it returns, and
// late, if not nil, receives what it returned.
func call[T any](ctx context.Context, s *strays, grace time.Duration, f func(context.Context) (T, error), late func(T, error)) (T, error) {
	answers, gone := make(chan answer[T]), make(chan struct{})
	go func() {
		a := answer[T]{err: errGoexit}
		// Deferred, since nothing else runs after runtime.Goexit.
		defer func() {
			if v := recover(); v != nil {
				a.err = &PanicError{Value: v, Stack: debug.Stack()}
			}
			select {
			case answers <- a:
			case <-gone:
				defer s.leave()
				if late != nil {
					late(a.val, a.err)
				}
			}
		}()
		a.val, a.err = f(ctx)
	}()

	select {
	case a := <-answers:
		return a.val, a.err
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.val, a.err
	case <-timer.C:
	}
	s.enter()
	close(gone)
	var none T
	return none, fmt.Errorf("%w: %w", errAbandoned, why(ctx))
}

// why is the error of a context that has ended, with its cause if that says
// more.
func why(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

const (
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// persist repeats f with growing pauses until it succeeds, done says that its
// error is final, or ctx ends; it returns the last result.
func persist[T any](ctx context.Context, done func(error) bool, f func() (T, error)) (T, error) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		val, err := f()
		if err == nil || done(err) {
			return val, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return val, err
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestCancelAtEveryCall cancels the caller's context when the store is called
// for the N-th time. synctest fails if a goroutine is left.
func TestCancelAtEveryCall(t *testing.T) {
	s := newScenario(t)
	for i, more := 0, true; more; i++ {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			process := s.base.Clone(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
				if op.Index == i {
					cancel()
					return repotest.Fault{Action: repotest.Hang}
				}
				return repotest.Fault{}
			}})
			start := time.Now()
			_, err := s.session(ctx, process, 0)
			if more = len(process.Calls()) > i; !more {
				return
			}
			// The last call tidies up after the commit, which has succeeded.
			if err != nil && !errors.Is(err, context.Canceled) || time.Since(start) > 0 {
				t.Errorf("call %d: %v after %v", i, err, time.Since(start))
			}
			s.check(t, process.Open(nil), fmt.Sprintf("cancelled at call %d", i), err == nil)
		})
	}
	for i, more := 0, true; more; i++ {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			process := s.base.Clone(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
				if op.Index == i {
					cancel()
					return repotest.Fault{Action: repotest.Hang}
				}
				return repotest.Fault{}
			}})
			r, err := repo.Open(ctx, process.Bucket(), key("secret"), nil)
			if err == nil {
				_, err = r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
			}
			if more = len(process.Calls()) > i; more && !errors.Is(err, context.Canceled) {
				t.Errorf("verify, call %d: %v", i, err)
			}
		})
	}
}

// TestNoGoroutineIsLeft ends sessions from within, in bubbles that fail if a
// goroutine goes on.
func TestNoGoroutineIsLeft(t *testing.T) {
	s := newScenario(t)
	boom := errors.New("boom")
	ends := map[string]func(ctx context.Context, w *repo.Writer) error{
		"error after a volume": func(ctx context.Context, w *repo.Writer) error {
			return errors.Join(w.Put(ctx, "v", s.dir), boom)
		},
		"missing source": func(ctx context.Context, w *repo.Writer) error {
			return errors.Join(w.Put(ctx, "v", s.dir+"/absent"), boom)
		},
		"broken stream": func(ctx context.Context, w *repo.Writer) error {
			return errors.Join(w.PutStream(ctx, "v", &failing{after: 9 << 20, err: boom}), boom)
		},
		"cancelled inside": func(ctx context.Context, w *repo.Writer) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return errors.Join(w.Put(ctx, "v", s.dir), w.PutStream(ctx, "w", bytes.NewReader(random(1, 100))), boom)
		},
		"the same volume twice": func(ctx context.Context, w *repo.Writer) error {
			return errors.Join(w.Put(ctx, "v", s.dir), w.Put(ctx, "v", s.dir), boom)
		},
	}
	for name, end := range ends {
		synctest.Test(t, func(t *testing.T) {
			b := s.base.Clone(nil)
			r := reopen(t, b.Bucket())
			reports := 0
			_, err := r.Write(t.Context(), repo.WriteOptions{ID: "new", Name: "app", Progress: func(repo.Progress) { reports++ }}, end)
			if !errors.Is(err, boom) || reports == 0 {
				t.Errorf("%s: %v, %d reports", name, err, reports)
			}
			s.check(t, b, name, false)
		})
	}
}

// failing is random data that ends with an error.
type failing struct {
	after int
	err   error
}

func (f *failing) Read(p []byte) (int, error) {
	n := min(len(p), f.after)
	if n == 0 {
		return 0, f.err
	}
	copy(p, random(uint64(f.after), n))
	f.after -= n
	return n, nil
}

// TestPanicInSession checks that a panic of the caller's function neither
// commits nor leaves goroutines behind.
func TestPanicInSession(t *testing.T) {
	s := newScenario(t)
	synctest.Test(t, func(t *testing.T) {
		b := s.base.Clone(nil)
		func() {
			defer func() {
				if recover() != "boom" {
					t.Error("the panic is gone")
				}
			}()
			r := reopen(t, b.Bucket())
			_, _ = r.Write(t.Context(), repo.WriteOptions{ID: "new", Progress: func(repo.Progress) {}}, func(ctx context.Context, w *repo.Writer) error {
				_ = w.Put(ctx, "v", s.dir)
				panic("boom")
			})
		}()
		s.check(t, b, "panic", false)
	})
}

// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/internal/retry"
	"github.com/stillpoint-go/protect/internal/store"
	"github.com/stillpoint-go/protect/repo/repotest"
)

func TestContract(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s, ctx := store.New(b, retry.Policy{}), t.Context()
	for _, data := range [][]byte{[]byte("data"), {}, make([]byte, 20<<20)} {
		key := fmt.Sprint("k/", len(data))
		if err := errors.Join(s.Put(ctx, key, data), s.Put(ctx, key, data)); err != nil {
			t.Errorf("put twice: %v", err)
		}
		if err := s.Put(ctx, key, append([]byte("x"), data...)); !errors.Is(err, fs.ErrExist) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("put something else: %v", err)
		}
		if got, err := s.Get(ctx, key, int64(len(data))); err != nil || !bytes.Equal(got, data) {
			t.Errorf("get: %d bytes, %v", len(got), err)
		}
		if _, err := s.Get(ctx, key, int64(len(data))-1); len(data) > 0 && !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("get with a smaller limit: %v", err)
		}
		if _, err := s.GetRange(ctx, key, 0, int64(len(data))+1); !errors.Is(err, store.ErrShort) {
			t.Errorf("range beyond the end: %v", err)
		}
		if _, err := s.GetRange(ctx, key, 1<<40, 1); !errors.Is(err, store.ErrShort) {
			t.Errorf("range behind the end: %v", err)
		}
	}
	if got, err := s.GetRange(ctx, "k/4", 1, 2); err != nil || string(got) != "at" {
		t.Errorf("range: %q, %v", got, err)
	}
	if got, err := s.GetRange(ctx, "k/4", 4, 0); err != nil || len(got) != 0 {
		t.Errorf("empty range: %q, %v", got, err)
	}
	_, gerr := s.Get(ctx, "absent", 10)
	_, rerr := s.GetRange(ctx, "absent", 0, 1)
	for _, err := range []error{gerr, rerr} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("absent object: %v", err)
		}
	}
	if err := errors.Join(s.Delete(ctx, "k/4"), s.Delete(ctx, "k/4")); err != nil {
		t.Errorf("delete twice: %v", err)
	}
}

func TestList(t *testing.T) {
	world := repotest.NewBucket(&repotest.Options{PageSize: 7})
	var want []store.Object
	for i := range 100 {
		o := store.Object{Key: fmt.Sprintf("p/%03d", i), Size: int64(i)}
		world.Set(o.Key, make([]byte, i))
		want = append(want, o)
	}
	world.Set("q", nil)
	world.Set("a", nil)
	s := store.New(world.Bucket(), retry.Policy{})
	var got []store.Object
	for o, err := range s.List(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		if o.ModTime.IsZero() {
			t.Errorf("%s: no time", o.Key)
		}
		o.ModTime = time.Time{}
		got = append(got, o)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for o, err := range s.List(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != "p/000" {
			t.Errorf("goes on with %s", o.Key)
		}
		break
	}
}

// TestFaults runs each operation with each fault of its calls, once.
func TestFaults(t *testing.T) {
	data := []byte("content")
	ops := map[string]func(context.Context, *store.Store) error{
		"put": func(ctx context.Context, s *store.Store) error { return s.Put(ctx, "new", data) },
		"get": func(ctx context.Context, s *store.Store) error {
			got, err := s.Get(ctx, "old", 100)
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("got %q", got)
			}
			return err
		},
		"range": func(ctx context.Context, s *store.Store) error {
			got, err := s.GetRange(ctx, "old", 2, 3)
			if err == nil && string(got) != "nte" {
				t.Errorf("got %q", got)
			}
			return err
		},
		"list": func(ctx context.Context, s *store.Store) error {
			n := 0
			for _, err := range s.List(ctx, "") {
				if err != nil {
					return err
				}
				n++
			}
			if n != 1 {
				t.Errorf("%d objects", n)
			}
			return nil
		},
		"delete": func(ctx context.Context, s *store.Store) error { return s.Delete(ctx, "old") },
	}
	actions := []repotest.Action{repotest.FailBefore, repotest.FailAfter, repotest.Hang, repotest.HangAfter, repotest.Late}
	for name, op := range ops {
		for _, action := range actions {
			for i := 0; ; i++ {
				more := true
				synctest.Test(t, func(t *testing.T) {
					world := repotest.NewBucket(nil)
					world.Set("old", data)
					p := world.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Offset: 1})})
					if err := op(t.Context(), store.New(p.Bucket(), retry.Policy{})); err != nil {
						t.Errorf("%s with %v at call %d: %v", name, action, i, err)
					}
					more = len(p.Calls()) > i
					if got, ok := world.Objects()["new"]; name == "put" && (!ok || !bytes.Equal(got, data)) {
						t.Errorf("%s with %v at call %d: stored %q", name, action, i, got)
					}
					world.Settle()
					if got, ok := world.Objects()["new"]; name == "put" && (!ok || !bytes.Equal(got, data)) {
						t.Errorf("%s with %v at call %d: %q in the end", name, action, i, got)
					}
				})
				if !more {
					break
				}
			}
		}
	}
}

// TestPersistentFaults lets the store fail for good, in ways that leave the
// outcome of a write open, or settle it.
func TestPersistentFaults(t *testing.T) {
	data := []byte("content")
	for name, tc := range map[string]struct {
		fault   func(repotest.Op) repotest.Fault
		there   string // content of the object before
		want    error  // nil: success
		unknown bool
	}{
		"all calls":                             {func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.FailBefore} }, "", store.ErrUnknown, true},
		"lost acknowledgements, no way to look": {func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.FailAfter} }, "", store.ErrUnknown, true},
		"lost acknowledgements": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.FailAfter}
			}
			return repotest.Fault{}
		}, "", nil, false},
		"nothing gets there": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.Late}
			}
			return repotest.Fault{}
		}, "", store.ErrUnknown, true},
		"hangs": {func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.Hang} }, "", store.ErrUnknown, true},
		"full": {func(repotest.Op) repotest.Fault {
			return repotest.Fault{Action: repotest.FailBefore, Code: gcerrors.ResourceExhausted, Err: syscall.ENOSPC}
		}, "", store.ErrUnknown, true},
		"full for writing": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.FailBefore, Code: gcerrors.ResourceExhausted, Err: syscall.ENOSPC}
			}
			return repotest.Fault{}
		}, "", store.ErrFull, false},
		"full, but it is there": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.FailAfter, Err: syscall.ENOSPC}
			}
			return repotest.Fault{}
		}, "", nil, false},
		"refused": {func(repotest.Op) repotest.Fault {
			return repotest.Fault{Action: repotest.FailBefore, Code: gcerrors.PermissionDenied}
		}, "", fs.ErrPermission, false},
		"refused, the same is there": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.FailBefore, Code: gcerrors.PermissionDenied}
			}
			return repotest.Fault{}
		}, "content", nil, false},
		"unspecific error, something else is there": {func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce {
				return repotest.Fault{Action: repotest.FailBefore}
			}
			return repotest.Fault{}
		}, "CONTENT", fs.ErrExist, false},
		"something longer is there": {nil, "content and more", fs.ErrExist, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := repotest.NewBucket(nil)
				if tc.there != "" {
					world.Set("k", []byte(tc.there))
				}
				err := store.New(world.Open(&repotest.Options{Fault: tc.fault}).Bucket(), retry.Policy{}).Put(t.Context(), "k", data)
				if !errors.Is(err, tc.want) || errors.Is(err, store.ErrUnknown) != tc.unknown {
					t.Errorf("got %v", err)
				}
				if got := string(world.Objects()["k"]); tc.there != "" && got != tc.there || err == nil && got != "content" {
					t.Errorf("stored %q", got)
				}
			})
		})
	}
}

// TestPutThatExistsAndCannotBeRead loses the answer to a write, and then what
// is read back of it: that something exists is no answer before it is known
// whose it is.
func TestPutThatExistsAndCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := repotest.NewBucket(nil)
		gets, puts := 0, 0
		process := b.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
			switch op.Kind {
			case repotest.PutOnce:
				if puts++; puts == 1 {
					return repotest.Fault{Action: repotest.FailAfter}
				}
			case repotest.Get:
				if gets++; gets <= 2 {
					return repotest.Fault{Action: repotest.FailBefore}
				}
			default:
			}
			return repotest.Fault{}
		}})
		s := store.New(process.Bucket(), retry.Policy{Attempts: 3})
		if err := s.Put(t.Context(), "k", []byte("data")); err != nil || gets != 3 {
			t.Errorf("after %d reads: %v", gets, err)
		}
		gets, puts = -10, 0
		if err := s.Put(t.Context(), "other", []byte("data")); !errors.Is(err, store.ErrUnknown) || errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCancelledPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := repotest.NewBucket(nil)
		hang := func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.HangAfter} }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := store.New(world.Open(&repotest.Options{Fault: hang}).Bucket(), retry.Policy{}).Put(ctx, "k", []byte("x"))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrUnknown) || time.Since(start) > time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// TestDamagedReads checks that a stream that ends early is not taken for the
// object: at this level that is an error, damage within is for the seal.
func TestDamagedReads(t *testing.T) {
	for _, n := range []int64{0, 3, 6} {
		synctest.Test(t, func(t *testing.T) {
			world := repotest.NewBucket(nil)
			world.Set("k", []byte("content"))
			p := world.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.Truncate, Offset: n} }})
			s := store.New(p.Bucket(), retry.Policy{})
			if got, err := s.Get(t.Context(), "k", 100); err == nil {
				t.Errorf("stream of %d bytes: got %q", n, got)
			}
			if got, err := s.GetRange(t.Context(), "k", 0, 7); err == nil {
				t.Errorf("stream of %d bytes: got range %q", n, got)
			}
		})
	}
}

func TestRace(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	for round := range 200 {
		var wg sync.WaitGroup
		var wins atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				err := store.New(b, retry.Policy{}).Put(t.Context(), fmt.Sprint(round), []byte{byte(i)})
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := wins.Load(); n != 1 {
			t.Fatalf("round %d: %d winners", round, n)
		}
	}
}

func TestProbe(t *testing.T) {
	world := repotest.NewBucket(nil)
	c, err := store.New(world.Bucket(), retry.Policy{}).Probe(t.Context(), "probe-")
	if want := (store.Capabilities{AtomicCreate: true, ReadAfterWrite: true, ListAfterWrite: true}); err != nil || c != want {
		t.Errorf("got %+v, %v", c, err)
	}
	if keys := world.Keys(); len(keys) > 0 {
		t.Errorf("left behind: %v", keys)
	}
	refuse := func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.PutOnce {
			return repotest.Fault{Action: repotest.FailBefore, Code: gcerrors.Unimplemented}
		}
		return repotest.Fault{}
	}
	if _, err := store.New(world.Open(&repotest.Options{Fault: refuse}).Bucket(), retry.Policy{}).Probe(t.Context(), "p"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a store without create-once: %v", err)
	}
}

// TestProbeSurvivesLostAcknowledgement: one answer that does not arrive is no
// property of the store.
func TestProbeSurvivesPassingFaults(t *testing.T) {
	for _, action := range []repotest.Action{repotest.FailBefore, repotest.FailAfter} {
		for i := 0; ; i++ {
			world := repotest.NewBucket(nil)
			p := world.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action})})
			c, err := store.New(p.Bucket(), retry.Policy{Base: time.Microsecond}).Probe(t.Context(), "probe-")
			if len(p.Calls()) <= i {
				break
			}
			if err != nil || !c.AtomicCreate || !c.ReadAfterWrite || !c.ListAfterWrite {
				t.Errorf("%v at call %d: %+v, %v", action, i, c, err)
			}
			if keys := world.Keys(); len(keys) > 0 {
				t.Errorf("%v at call %d left behind %v", action, i, keys)
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestCommittedMeanwhile commits a point between the two looks of a collection at
// its session. The process knows all the same when the store saw it: retention
// goes by that.
func TestCommittedMeanwhile(t *testing.T) {
	world, r := newWorld(t)
	atWork, commit, committed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(committed)
		if _, err := storeWith(t.Context(), r, "p-1", []int{1}, func() { close(atWork); <-commit }); err != nil {
			t.Error(err)
		}
	}()
	<-atWork
	var once sync.Once
	process := world.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.Get && kindOf(op.Key) == "point/" {
			once.Do(func() { close(commit) })
			<-committed
		}
		return repotest.Fault{}
	}})
	other := reopen(t, process.Bucket())
	if rep, err := other.Collect(t.Context(), nil); err != nil {
		t.Errorf("%+v, %v", rep, err)
	}
	p, err := other.Point(t.Context(), "p-1")
	if err != nil || p.Committed.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestCollectDamagedWait damages the object that says for whom condemned packs
// wait, in a repository in which some session is always at work.
func TestCollectDamagedWait(t *testing.T) {
	world, r := newWorld(t)
	begin := func(id string) (end func()) {
		begun, quit, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			if _, err := storeWith(t.Context(), r, id, []int{9}, func() { close(begun); <-quit }); err != nil {
				t.Error(err)
			}
		}()
		<-begun
		return func() { close(quit); <-done }
	}
	store(t, r, "a-1", 1)
	garbage := world.Objects()
	end := begin("b-1")
	if err := r.Forget(t.Context(), "a-1"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		collect(t, world, repo.CollectOptions{MaxDelete: 1})
		for _, key := range world.Keys() {
			if strings.HasPrefix(key, "ledger/wait-") && i == 0 {
				world.Flip(key, 300)
			}
		}
		next := begin(fmt.Sprint("c-", i))
		end()
		end = next
	}
	end()
	for key := range world.Objects() {
		if _, ok := garbage[key]; ok && kindOf(key) == "pack/" {
			t.Errorf("%s was never deleted", key)
		}
	}
}

// ahead shows recovery points as if the store had seen them in the future: its
// clock was wrong then.
type ahead struct{ driver.Bucket }

func (b ahead) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	page, err := b.Bucket.ListPaged(ctx, opts)
	if err == nil {
		for _, o := range page.Objects {
			if kindOf(o.Key) == "point/" {
				o.ModTime = o.ModTime.Add(48 * time.Hour)
			}
		}
	}
	return page, err
}

// TestCollectFuture has an object from the future in the bucket: sessions that have
// just begun are not old because of it.
func TestCollectFuture(t *testing.T) {
	world, r := newWorld(t)
	store(t, r, "a-1", 1)
	other := reopen(t, blob.NewBucket(ahead{world.Driver()}))
	_, err := storeWith(t.Context(), r, "b-1", []int{2}, func() {
		if rep, err := other.Collect(t.Context(), nil); err != nil || rep.Fenced != 0 || rep.Open != 1 {
			t.Errorf("%+v, %v", rep, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// slowReader reads a megabyte in an hour.
type slowReader struct{ io.Reader }

func (r slowReader) Read(p []byte) (int, error) {
	<-time.After(time.Hour)
	return io.ReadFull(r.Reader, p[:min(len(p), 1<<20)])
}

// TestCollectBesideReader has a session read for more than a day what is stored
// already. It is not dead, though it stores nothing; one that hangs is.
func TestCollectBesideReader(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			world, r := newWorld(t)
			data := make([]byte, 32<<20)
			for i := range 32 {
				copy(data[i<<20:], piece(i))
			}
			write := func(id string, from io.Reader) error {
				_, err := r.Write(t.Context(), repo.WriteOptions{ID: id, Name: "a"}, func(ctx context.Context, w *repo.Writer) error {
					return w.PutStream(ctx, "v", from)
				})
				return err
			}
			if err := write("one", bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(30*time.Hour, func() { collect(t, world, repo.CollectOptions{}) })
			var from io.Reader = slowReader{bytes.NewReader(data)}
			if hangs {
				from = readerFunc(func([]byte) (int, error) { <-time.After(32 * time.Hour); return 0, io.EOF })
			}
			if err := write("two", from); errors.Is(err, repo.ErrFenced) != hangs {
				t.Errorf("hangs %t: %v", hangs, err)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

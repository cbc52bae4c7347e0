// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestCopyResumes stores nothing twice after a failure.
func TestCopyResumes(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		threePoints(t, src)
		dst := newTarget(t, src, raw)
		refuse := func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, "point/") {
				return repotest.Fault{Action: repotest.FailBefore, Err: fs.ErrPermission, Kill: true}
			}
			return repotest.Fault{}
		}
		dst.fault.Store(&refuse)
		if rep, err := src.CopyTo(t.Context(), dst.Repository, nil, nil); err == nil {
			t.Fatalf("raw=%t: %+v", raw, rep)
		}
		packs := len(list(t, dst.bucket.Open(nil).Bucket(), "pack/"))
		if packs == 0 {
			t.Fatal("the copy failed before it stored anything")
		}
		// Another process goes on.
		r, err := repo.Open(t.Context(), dst.bucket.Open(nil).Bucket(), key("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := src.CopyTo(t.Context(), r, []string{"one"}, nil)
		if err != nil || len(rep.Copied) != 1 || rep.New != 0 {
			t.Errorf("raw=%t: %+v, %v", raw, rep, err)
		}
		healthy(t, r, 1)
	}
}

// TestCopyDamaged copies what is in order, and nothing that is not.
func TestCopyDamaged(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		dst := newTarget(t, src, raw)
		commit(t, src.Repository, "bad", sample(t), nil, random(1, 3<<20))
		for k := range src.bucket.Objects() {
			if strings.HasPrefix(k, "pack/") {
				data := bytes.Clone(src.bucket.Objects()[k])
				for at := 100; at < len(data)-100_000; at += 50_000 {
					data[at] ^= 1
				}
				src.bucket.Set(k, data)
			}
		}
		commit(t, src.Repository, "good", t.TempDir(), nil, random(2, 2<<20))
		r, err := repo.Open(t.Context(), src.bucket.Bucket(), key("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := r.CopyTo(t.Context(), dst.Repository, nil, nil)
		if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), `"bad"`) || !slices.Equal(rep.Copied, []string{"good"}) {
			t.Errorf("raw=%t: %+v, %v", raw, rep, err)
		}
		healthy(t, dst.Repository, 1)
	}
}

// TestCopyForgotten needs nothing of points that are gone: neither as the base
// of an incremental copy, nor in the target.
func TestCopyForgotten(t *testing.T) {
	t.Parallel()
	src, dst := newPlace(t, nil), newPlace(t, nil)
	dir := sample(t)
	commit(t, src.Repository, "one", dir, nil, random(1, 1<<20))
	copyAll(t, src, dst)
	commit(t, src.Repository, "two", dir, nil, random(1, 2<<20))
	if err := src.Forget(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Collect(t.Context(), &repo.CollectOptions{StaleAfter: -1, MaxDelete: 1}); err != nil {
		t.Fatal(err)
	}
	if rep := copyAll(t, src, dst); !slices.Equal(rep.Copied, []string{"two"}) {
		t.Errorf("%+v", rep)
	}
	same(t, src, dst) // and "one" besides
}

// TestCopyCancel leaves nothing visible.
func TestCopyCancel(t *testing.T) {
	t.Parallel()
	src := newPlace(t, nil)
	threePoints(t, src)
	for _, dst := range []*place{newPlace(t, nil), newPlace(t, src)} {
		for n := range int64(12) {
			ctx, cancel := context.WithCancel(t.Context())
			var calls atomic.Int64
			stop := func(op repotest.Op) repotest.Fault {
				if calls.Add(1) > 3*n+5 {
					cancel()
				}
				return repotest.Fault{}
			}
			dst.fault.Store(&stop)
			if _, err := src.CopyTo(ctx, dst.Repository, nil, nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			cancel()
		}
		dst.fault.Store(nil)
		copyAll(t, src, dst)
		same(t, src, dst)
	}
}

// TestCopyDamagedParent does not need what the target has of an earlier point
// to be in order.
func TestCopyDamagedParent(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		dir := sample(t)
		commit(t, src.Repository, "one", dir, random(1, 2<<20), nil)
		dst := newTarget(t, src, raw)
		copyAll(t, src, dst)
		for k, data := range dst.bucket.Objects() {
			if strings.HasPrefix(k, "pack/") {
				dst.bucket.Set(k, bytes.Repeat([]byte{1}, len(data)))
			}
		}
		put(t, dir, "new", []byte("new"))
		commit(t, src.Repository, "two", dir, random(2, 2<<20), nil)
		r, err := repo.Open(t.Context(), dst.bucket.Bucket(), key("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := src.CopyTo(t.Context(), r, nil, nil)
		if err != nil || !slices.Equal(rep.Copied, []string{"two"}) || rep.New < 2<<20 {
			t.Errorf("raw=%t: %+v, %v", raw, rep, err)
		}
	}
}

// TestCopyWithoutHashes copies a point that has lost the page hashes of a file and
// nothing else: they can be computed.
func TestCopyWithoutHashes(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		src := newPlace(t, nil)
		dst := newTarget(t, src, raw)
		data := random(1, 3<<20)
		commit(t, src.Repository, "one", t.TempDir(), nil, data)
		r := withoutHashes(t, src.bucket)
		rep, err := r.CopyTo(t.Context(), dst.Repository, nil, nil)
		if err != nil || !slices.Equal(rep.Copied, []string{"one"}) {
			t.Errorf("raw=%t: %+v, %v", raw, rep, err)
			continue
		}
		healthy(t, dst.Repository, 1)
	}
}

// withoutHashes damages the only chunk of page hashes in a bucket, and returns its
// repository.
func withoutHashes(tb testing.TB, b *repotest.Bucket) *repo.Repository {
	tb.Helper()
	for k, whole := range b.Objects() {
		if kindOf(k) != "pack/" || len(whole) > 100_000 {
			continue
		}
		for at := 100; at < len(whole); at += 50 {
			data := bytes.Clone(whole)
			data[at] ^= 1
			b.Set(k, data)
			r := reopen(tb, b.Bucket())
			p, err := r.Point(tb.Context(), "one")
			if err != nil {
				tb.Fatal(err)
			}
			rep := verify(tb, r, true)
			if _, err := readAll(tb.Context(), r, p); err == nil && strings.Contains(fmt.Sprint(rep.Damage), "hashes of its pages") {
				return reopen(tb, b.Bucket())
			}
			b.Set(k, whole)
		}
	}
	tb.Fatal("there are no page hashes")
	return nil
}

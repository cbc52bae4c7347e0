// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/etcd"
)

// bentEtcd bends the streams of a member.
type bentEtcd struct {
	etcd.Client
	bend func(io.Reader) io.Reader
}

func (b bentEtcd) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	r, err := b.Client.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{b.bend(r), r}, nil
}

// flipAt flips one bit of a stream.
type flipAt struct {
	io.Reader
	at int64
}

func (f *flipAt) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

// TestEtcdBadStream loses or damages a part of the stream: nothing may be left
// that looks like a snapshot, not even the one before.
func TestEtcdBadStream(t *testing.T) {
	s := newEtcd(t)
	for i := range 8 {
		s.put(t, fmt.Sprint("big", i), strings.Repeat(fmt.Sprint(i), 1<<20))
	}
	dir := t.TempDir()
	takeEtcd(t, newEtcdSnapshot(t, s.member, dir, nil))
	st, err := os.Stat(filepath.Join(dir, etcd.SnapshotFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(io.Reader) io.Reader{
		"cut in a page":   func(r io.Reader) io.Reader { return io.LimitReader(r, 5000) },
		"cut after pages": func(r io.Reader) io.Reader { return io.LimitReader(r, 1<<20) },
		"without hash":    func(r io.Reader) io.Reader { return io.LimitReader(r, st.Size()-32) },
		"half a hash":     func(r io.Reader) io.Reader { return io.LimitReader(r, st.Size()-16) },
		"flipped early":   func(r io.Reader) io.Reader { return &flipAt{r, 100} },
		"flipped late":    func(r io.Reader) io.Reader { return &flipAt{r, st.Size() - 33} },
		"flipped hash":    func(r io.Reader) io.Reader { return &flipAt{r, st.Size() - 1} },
		"longer":          func(r io.Reader) io.Reader { return io.MultiReader(r, strings.NewReader("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			q := newEtcdSnapshot(t, bentEtcd{s.member, bend}, dir, nil)
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			e, err := hold.Thaw(t.Context())
			if !errors.Is(err, hooks.ErrHoldLost) || !errors.Is(err, etcd.ErrInconsistent) || e != nil {
				t.Errorf("Thaw: %v, %v", e, err)
			}
			wantEmpty(t, dir)
		})
	}
	// What is bent is the reason: the same without it.
	takeEtcd(t, newEtcdSnapshot(t, bentEtcd{s.member, func(r io.Reader) io.Reader { return r }}, dir, nil))
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// gated stops a stream until it may go on.
type gated struct {
	io.Reader
	left int
	open chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	if g.left <= 0 {
		<-g.open
	}
	n, err := g.Reader.Read(p)
	g.left -= n
	return n, err
}

// TestEtcdKilled kills the server in the middle of a stream.
func TestEtcdKilled(t *testing.T) {
	s := newEtcd(t)
	for i := range 16 {
		s.put(t, fmt.Sprint("big", i), strings.Repeat("x", 1<<20))
	}
	dir := t.TempDir()
	open := make(chan struct{})
	q := newEtcdSnapshot(t, bentEtcd{s.member, func(r io.Reader) io.Reader { return &gated{r, 1 << 20, open} }}, dir, nil)
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Held(t.Context()); err != nil {
		t.Errorf("Held while the stream goes on: %v", err)
	}
	s.stop()
	close(open)
	waitFor(t, func() bool { return hold.Held(t.Context()) != nil })
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held: %v", err)
	}
	if _, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw: %v", err)
	}
	wantEmpty(t, dir)
}

// TestEtcdBadCopies gives PrepareRestore and Verify what is no backup.
func TestEtcdBadCopies(t *testing.T) {
	s, twin := newEtcd(t), newEtcd(t)
	// Two clusters with one configuration have the same identifiers.
	for i := range 200 {
		s.put(t, fmt.Sprint("key", i%7), fmt.Sprint(i))
		twin.put(t, fmt.Sprint("key", i%7), fmt.Sprint(i+1))
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	e := takeEtcd(t, newEtcdSnapshot(t, s.member, dir, nil))
	foreign := takeEtcd(t, newEtcdSnapshot(t, twin.member, elsewhere, nil))
	opts := func() *etcd.RestoreOptions {
		owner := etcd.Owner(serverAccount(t))
		return &etcd.RestoreOptions{Tool: etcdProgram(t, "etcdctl"), DataDir: filepath.Join(serverDir(t), "data"), Owner: &owner}
	}
	refused := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, etcd.ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := etcd.PrepareRestore(t.Context(), dir, foreign, opts())
	refused("evidence of another cluster", err)

	info, data := restoreEtcd(t, dir, e)
	other, err := etcd.ParseEvidence(foreign)
	if err != nil {
		t.Fatal(err)
	}
	bin := etcdBin(t)
	if other.Revision != info.Revision || other.Cluster != info.Cluster || other.Member != info.Member {
		t.Fatalf("the twin is none: %+v, %+v", info, other)
	}
	_, err = etcd.Verify(t.Context(), bin, data, other, nil)
	refused("a store with other values", err)
	if _, err := etcd.Verify(t.Context(), bin, data, info, nil); err != nil {
		t.Errorf("the right store: %v", err)
	}

	damageEtcd(t, filepath.Join(dir, etcd.SnapshotFile))
	_, err = etcd.PrepareRestore(t.Context(), dir, e, opts())
	refused("a damaged file", err)

	// A cut at one instant, of a server that stands still.
	q, err := etcd.NewAtomic(s.member, &etcd.Options{DataDir: s.data})
	if err != nil {
		t.Fatal(err)
	}
	e = takeEtcd(t, q)
	s.stop()
	if info, err = etcd.PrepareRestore(t.Context(), s.data, e, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Verify(t.Context(), bin, s.data, info, nil); err != nil {
		t.Errorf("the right files: %v", err)
	}
	twin.stop()
	_, err = etcd.Verify(t.Context(), bin, twin.data, info, nil)
	refused("the files of another cluster", err)
	system(t, "rm", "-r", filepath.Join(s.data, "member", "wal"))
	_, err = etcd.PrepareRestore(t.Context(), s.data, e, nil)
	refused("a database without its log", err)
	_, err = etcd.Verify(t.Context(), bin, s.data, info, nil)
	refused("a database without its log, not prepared", err)
}

// damageEtcd flips a bit in the middle of a file.
func damageEtcd(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		b[len(b)/2] ^= 1
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestEtcdDatabaseAlone shows why a database alone is no backup: etcd starts on
// it, and has lost what it had acknowledged. What is lost is that of 100 ms; here
// it is more, so that the test does not depend on chance.
func TestEtcdDatabaseAlone(t *testing.T) {
	s := newEtcd(t, "--backend-batch-interval=1h")
	s.put(t, "key", "1")
	copied := filepath.Join(serverDir(t), "data")
	for _, dir := range []string{copied, filepath.Join(copied, "member"), filepath.Join(copied, "member", "snap")} {
		own(t, dir)
	}
	system(t, "cp", "-p", filepath.Join(s.data, "member", "snap", "db"), filepath.Join(copied, "member", "snap", "db"))
	alone := startEtcd(t, copied)
	r, err := alone.member.c.Get(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) > 0 {
		t.Errorf("nothing is lost: %v", r.Kvs)
	}
}

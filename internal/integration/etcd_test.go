// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/etcd"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
)

var etcdPoints = flag.Int("etcd.points", 3, "recovery points of etcd under load, for each form")

func newEtcdSnapshot(t *testing.T, c etcd.Client, dir string, opts *etcd.Options) *etcd.Quiescer {
	t.Helper()
	q, err := etcd.NewSnapshot(c, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// vouching lends a quiescer that freezes nothing something to look at: whether
// one of its holds vouches for what is cut.
type vouching struct {
	hooks.Quiescer
	holds *[]hooks.Hold
}

func (v vouching) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	h, err := v.Quiescer.Quiesce(ctx, req)
	if err == nil {
		*v.holds = append(*v.holds, h)
	}
	return h, err
}

// serially is for Concurrent, which asks in several goroutines.
type serially struct {
	vouching
	turn chan struct{}
}

func (s serially) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.vouching.Quiesce(ctx, req)
}

func (s serially) Prepare(ctx context.Context) error {
	return s.Quiescer.(hooks.Preparer).Prepare(ctx)
}

func (s serially) frozen(ctx context.Context) (bool, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	for _, h := range *s.holds {
		if h.Held(ctx) == nil {
			return true, nil
		}
	}
	return false, nil
}

// TestEtcdConformance takes an unfinished file for "frozen": that is what others
// can see of a snapshot.
func TestEtcdConformance(t *testing.T) {
	s := newEtcd(t)
	s.put(t, "a", strings.Repeat("x", 1<<20))
	t.Run("snapshot", func(t *testing.T) {
		hookstest.Run(t, func(t *testing.T) hookstest.Harness {
			dir := t.TempDir()
			return hookstest.Harness{
				Quiescer: newEtcdSnapshot(t, s.member, dir, nil), SelfThaws: true, Window: 2 * time.Second, Slack: 30 * time.Second,
				Frozen: func(context.Context) (bool, error) {
					left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
					return len(left) > 0, err
				},
			}
		})
	})
	t.Run("atomic", func(t *testing.T) {
		hookstest.Run(t, func(t *testing.T) hookstest.Harness {
			q, err := etcd.NewAtomic(s.member, &etcd.Options{DataDir: s.data})
			if err != nil {
				t.Fatal(err)
			}
			v := serially{vouching{q, new([]hooks.Hold)}, make(chan struct{}, 1)}
			return hookstest.Harness{Quiescer: v, Frozen: v.frozen, SelfThaws: true, Window: 2 * time.Second, Slack: 30 * time.Second}
		})
	})
}

// TestEtcdAtomic takes points of a busy server, with its WAL in another directory
// of one btrfs subvolume, without any freeze.
func TestEtcdAtomic(t *testing.T) {
	mount := mountFS(t, "btrfs")
	sub := filepath.Join(mount, "shop")
	system(t, "btrfs", "subvolume", "create", sub)
	own(t, sub)
	data, wal := filepath.Join(sub, "data"), filepath.Join(sub, "wal")
	s := startEtcd(t, data, "--wal-dir="+wal)
	load := startEtcdLoad(t, s, 4, 100)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := etcd.NewAtomic(s.member, &etcd.Options{DataDir: data, WALDir: wal})
	if err != nil {
		t.Fatal(err)
	}
	takeEtcdPoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}, {Name: "wal", ID: snapshot.VolumeID(wal)}},
		Members: []protect.Member{{Name: "etcd", Quiescer: q}},
		Require: protect.ApplicationConsistent,
	}, func(target string) (string, *etcd.RestoreOptions) {
		return filepath.Join(target, "data"), &etcd.RestoreOptions{DataDir: filepath.Join(target, "data"), WALDir: filepath.Join(target, "wal")}
	})
}

// TestEtcdSnapshot takes points of a busy server by its snapshots, cut after the
// thaw, and makes data directories of them.
func TestEtcdSnapshot(t *testing.T) {
	mount := mountFS(t, "btrfs")
	system(t, "btrfs", "subvolume", "create", filepath.Join(mount, "shop"))
	dir := filepath.Join(mount, "shop", "etcd")
	data := own(t, filepath.Join(mount, "shop", "data"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := startEtcd(t, data)
	load := startEtcdLoad(t, s, 4, 100)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	takeEtcdPoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}, {Name: "etcd", ID: snapshot.VolumeID(dir), AfterThaw: true}},
		Members: []protect.Member{{Name: "etcd", Quiescer: newEtcdSnapshot(t, s.member, dir, nil), Volumes: []string{"data"}}},
		Window:  hooks.MaxWindow,
		Require: protect.ApplicationConsistent,
	}, func(target string) (string, *etcd.RestoreOptions) {
		return filepath.Join(target, "etcd"), &etcd.RestoreOptions{
			Tool: etcdProgram(t, "etcdctl"), DataDir: filepath.Join(target, "new"), Name: "m1", InitialClusterToken: "restored",
			// The peers do not exist: nobody must ask for them.
			InitialCluster: "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2", AdvertisePeerURLs: "http://127.0.0.1:1",
		}
	})
}

// takeEtcdPoints takes recovery points, restores and verifies each.
func takeEtcdPoints(t *testing.T, p *protect.Protector, load *etcdLoad, app protect.Application, opts func(target string) (string, *etcd.RestoreOptions)) {
	t.Helper()
	owner := etcd.Owner(serverAccount(t))
	for i := range *etcdPoints {
		load.waitMore(t, 5)
		if i%3 == 1 { // what is compacted belongs to the hash
			r, err := load.c.Get(t.Context(), accountKey(0))
			if err == nil {
				_, err = load.c.Compact(t.Context(), r.Header.Revision)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		before := load.seen()
		rp, err := p.Run(t.Context(), app, fmt.Sprint("point-", i))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(serverDir(t), "restored")
		if _, err := p.Restore(t.Context(), rp.ID, target, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(target, 0o711); err != nil {
			t.Fatal(err)
		}
		dir, o := opts(target)
		o.Owner = &owner
		info, err := etcd.PrepareRestore(t.Context(), dir, rp.Point.Evidence["etcd"], o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := etcd.Verify(t.Context(), etcdBin(t), o.DataDir, info, &etcd.VerifyOptions{WALDir: o.WALDir, Check: load.check(t, before)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s, window %v, revision %d to %d, recovered to %d in %v, %d keys, hash %08x of %d (compacted %d) in %v; acknowledged %v",
			rp.ID, rp.Level, rp.Frozen, info.Revision, info.LastRevision, v.Revision, v.Recovery, v.Keys, v.Hash, info.Revision, info.CompactRevision, v.Took, before)
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEtcdRights enables authentication: only root may take a snapshot, and a
// restored store wants a password.
func TestEtcdRights(t *testing.T) {
	s := newEtcd(t)
	ctx := t.Context()
	c := s.member.c
	s.put(t, "a", "1")
	for _, user := range []string{"root", "keeper"} {
		if _, err := c.UserAdd(ctx, user, "secret-"+user); err != nil {
			t.Fatal(err)
		}
	}
	grant := func(role string) {
		t.Helper()
		if _, err := c.UserGrantRole(ctx, "keeper", role); err != nil {
			t.Fatal(err)
		}
	}
	steps := []func() error{
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "reader"); return err },
		func() error { _, err := c.RoleGrantPermission(ctx, "reader", "protect", "", 0); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	grant("reader")
	if _, err := c.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	keeper := openEtcd(t, s.endpoint, "keeper", "secret-keeper")
	dir := t.TempDir()
	q := newEtcdSnapshot(t, keeper, dir, nil)
	err := q.Prepare(ctx)
	if err == nil || !strings.Contains(err.Error(), "role root") || strings.Contains(err.Error(), "secret") {
		t.Errorf("without the role root: %v", err)
	}
	c = openEtcd(t, s.endpoint, "root", "secret-root").c
	grant("root")
	if err := q.Prepare(ctx); err != nil {
		t.Errorf("with all that was asked for: %v", err)
	}
	info, data := restoreEtcd(t, dir, takeEtcd(t, q))
	if _, err := etcd.Verify(ctx, etcdBin(t), data, info, &etcd.VerifyOptions{StartTimeout: 3 * time.Second}); err == nil {
		t.Error("verified without a password")
	}
	if _, err := etcd.Verify(ctx, etcdBin(t), data, info, &etcd.VerifyOptions{User: "root", Password: "secret-root"}); err != nil {
		t.Errorf("verify: %v", err)
	}
}

// takeEtcd takes a snapshot.
func takeEtcd(t *testing.T, q *etcd.Quiescer) hooks.Evidence {
	t.Helper()
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	e, err := hold.Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// restoreEtcd makes a data directory of a snapshot.
func restoreEtcd(t *testing.T, dir string, e hooks.Evidence) (*etcd.Info, string) {
	t.Helper()
	owner := etcd.Owner(serverAccount(t))
	data := filepath.Join(serverDir(t), "data")
	info, err := etcd.PrepareRestore(t.Context(), dir, e, &etcd.RestoreOptions{Tool: etcdProgram(t, "etcdctl"), DataDir: data, Owner: &owner})
	if err != nil {
		t.Fatal(err)
	}
	return info, data
}

// TestEtcdEmpty has nothing to vouch for, and TestEtcdCompacted no revision that
// can be named.
func TestEtcdEmpty(t *testing.T) {
	s := newEtcd(t)
	dir := t.TempDir()
	q := newEtcdSnapshot(t, s.member, dir, &etcd.Options{Whole: true})
	info, data := restoreEtcd(t, dir, takeEtcd(t, q))
	if _, err := etcd.Verify(t.Context(), etcdBin(t), data, info, nil); !errors.Is(err, etcd.ErrInconsistent) {
		t.Errorf("verify an empty store: %v", err)
	}
	s.put(t, "a", "1")
	s.put(t, "a", "2")
	r, err := s.member.c.Delete(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.member.c.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	info, data = restoreEtcd(t, dir, takeEtcd(t, q))
	v, err := etcd.Verify(t.Context(), etcdBin(t), data, info, nil)
	if err != nil {
		t.Fatalf("compacted up to the newest revision: %v", err)
	}
	if v.Keys != 1 || !v.Hashed || info.Revision != 3 {
		t.Errorf("%+v, %+v", v, info)
	}
}

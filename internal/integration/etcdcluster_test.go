// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/stillpoint-go/protect/hooks/etcd"
)

// startEtcdCluster starts three members, of which one leads.
func startEtcdCluster(t *testing.T, place func(name string) string) map[string]*etcdServer {
	t.Helper()
	dir := serverDir(t)
	members := map[string]*etcdServer{}
	for _, name := range []string{"m1", "m2", "m3"} {
		members[name] = launchEtcd(t, dir, name, place(name), "--heartbeat-interval=100", "--election-timeout=1000", "--initial-cluster="+clusterOf3)
	}
	for _, s := range members {
		s.awaitRead(t)
	}
	return members
}

const clusterOf3 = "m1=unix://m1:1,m2=unix://m2:1,m3=unix://m3:1"

// TestEtcdCluster takes the snapshot of a follower right after writes through
// others, and begins the cluster anew with it.
func TestEtcdCluster(t *testing.T) {
	parent := serverDir(t)
	members := startEtcdCluster(t, func(name string) string { return filepath.Join(parent, name) })
	var follower, leader *etcdServer
	for _, s := range members {
		st, err := s.member.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Leader == st.Member {
			leader = s
		} else {
			follower = s
		}
	}
	if leader == nil || follower == nil {
		t.Fatal("nobody leads, or all do")
	}
	q, err := etcd.NewAtomic(follower.member, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("one member of three, at one instant: %v", err)
	}
	dir := t.TempDir()
	q = newEtcdSnapshot(t, follower.member, dir, nil)
	if err := q.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		leader.put(t, "last", fmt.Sprint(i))
		e := takeEtcd(t, q)
		info, data := restoreEtcd(t, dir, e)
		if want := int64(i + 2); info.Revision != want || len(info.Members) != 3 {
			t.Fatalf("snapshot %+v, want revision %d of 3 members", info, want)
		}
		if i > 0 {
			continue // one is enough to start
		}
		if _, err := etcd.Verify(t.Context(), etcdBin(t), data, info, nil); err != nil {
			t.Fatal(err)
		}
	}
	e := takeEtcd(t, q)
	for _, s := range members {
		s.stop()
	}
	owner := etcd.Owner(serverAccount(t))
	fresh := startEtcdCluster(t, func(name string) string {
		data := filepath.Join(serverDir(t), "data")
		_, err := etcd.PrepareRestore(t.Context(), dir, e, &etcd.RestoreOptions{
			Tool: etcdProgram(t, "etcdctl"), DataDir: data, Owner: &owner,
			Name: name, InitialCluster: clusterOf3, AdvertisePeerURLs: "unix://" + name + ":1", InitialClusterToken: "anew",
		})
		if err != nil {
			t.Fatal(err)
		}
		return data
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for name, s := range fresh {
		r, err := s.member.c.Get(ctx, "last", clientv3.WithSerializable())
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "9" {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

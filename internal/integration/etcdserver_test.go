// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/stillpoint-go/protect/hooks/etcd"
	"github.com/stillpoint-go/protect/internal/realtest"
)

// etcdMember is the adapter of the package comment of hooks/etcd.
type etcdMember struct{ c *clientv3.Client }

var _ etcd.Client = etcdMember{}

func (m etcdMember) State(ctx context.Context) (*etcd.State, error) {
	read, err := m.c.Get(ctx, "protect", clientv3.WithCountOnly()) // linearizable
	if err != nil {
		return nil, err
	}
	st, err := m.c.Status(ctx, m.c.Endpoints()[0])
	if err != nil {
		return nil, err
	}
	list, err := m.c.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	s := &etcd.State{
		Cluster: st.Header.ClusterId, Member: st.Header.MemberId, ReadBy: read.Header.MemberId, Revision: read.Header.Revision,
		Version: st.Version, Leader: st.Leader, Learner: st.IsLearner, Errors: st.Errors,
		Term: st.RaftTerm, Index: st.RaftAppliedIndex, DBSize: st.DbSize,
	}
	for _, m := range list.Members {
		s.Members = append(s.Members, m.Name)
	}
	return s, nil
}

func (m etcdMember) Snapshot(ctx context.Context) (io.ReadCloser, error) { return m.c.Snapshot(ctx) }

func (m etcdMember) HashKV(ctx context.Context, revision int64) (*etcd.Hash, error) {
	h, err := m.c.HashKV(ctx, m.c.Endpoints()[0], revision)
	if err != nil {
		return nil, err
	}
	return &etcd.Hash{Hash: h.Hash, Revision: h.Header.Revision, CompactRevision: h.CompactRevision}, nil
}

func etcdProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	realtest.Require(t, err == nil, name+" is missing")
	return path
}

// etcdServer is the only member of a cluster.
type etcdServer struct {
	*daemon
	data     string
	endpoint string
	member   etcdMember
}

// startEtcd starts a server on a data directory, with all of its sockets in a
// directory of the test.
func startEtcd(t *testing.T, data string, flags ...string) *etcdServer {
	t.Helper()
	s := launchEtcd(t, serverDir(t), "m1", data, append([]string{"--initial-cluster=m1=unix://m1:1"}, flags...)...)
	s.awaitRead(t)
	return s
}

// launchEtcd starts a member, whose sockets have its name, in a directory that
// all members share.
func launchEtcd(t *testing.T, dir, name, data string, flags ...string) *etcdServer {
	t.Helper()
	program := etcdProgram(t, "etcd")
	s := &etcdServer{data: data, endpoint: "unix://" + filepath.Join(dir, name+":0")}
	s.daemon = startDaemon(t, func(ctx context.Context) *exec.Cmd {
		c := serverCommand(ctx, t, program, append([]string{
			"--name=" + name, "--data-dir=" + data, "--heartbeat-interval=10", "--election-timeout=100", // nobody to wait for
			"--listen-client-urls=unix://" + name + ":0", "--advertise-client-urls=unix://" + name + ":0",
			"--listen-peer-urls=unix://" + name + ":1", "--initial-advertise-peer-urls=unix://" + name + ":1",
		}, flags...)...)
		c.Dir = dir
		return c
	}, syscall.SIGKILL)
	s.member = openEtcd(t, s.endpoint, "", "")
	return s
}

// awaitRead waits until the member answers a linearizable read.
func (s *etcdServer) awaitRead(t *testing.T) {
	t.Helper()
	s.await(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := s.member.c.Get(ctx, "protect")
		return err
	})
}

func newEtcd(t *testing.T, flags ...string) *etcdServer {
	t.Helper()
	return startEtcd(t, filepath.Join(serverDir(t), "data"), flags...)
}

func openEtcd(t *testing.T, endpoint, user, password string) etcdMember {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Username: user, Password: password, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return etcdMember{c}
}

func (s *etcdServer) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := s.member.c.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// etcdBin is the directory with the programs.
func etcdBin(t *testing.T) string {
	t.Helper()
	etcdProgram(t, "etcdctl")
	return filepath.Dir(etcdProgram(t, "etcd"))
}

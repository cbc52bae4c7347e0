// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// instance is a private server on a copy of the files.
type instance struct {
	bin     string
	user    string // and password, for etcdctl
	scratch string // directory of the copy
	private string // directory of the sockets
	cmd     *exec.Cmd
	log     program.Tail
	gw      *gateway
	ended   chan struct{} // closed when the server has
	err     error         // why it has, then
}

const (
	clientSocket = "client:0" // etcd takes host and port of a URL for the name of the socket
	peerSocket   = "peer:0"
	stopTimeout  = time.Minute
	hashTimeout  = time.Hour
	pollStart    = 20 * time.Millisecond
)

func (at *instance) socket() string { return filepath.Join(at.private, clientSocket) }

func (at *instance) endpoint() string { return "unix://" + at.socket() }

// hashKV is like Client.HashKV.
func (at *instance) hashKV(ctx context.Context, revision int64) (*Hash, error) {
	var out, failed program.Tail
	c := toolCommand(ctx, filepath.Join(at.bin, "etcdctl"), "endpoint", "hashkv", "--endpoints="+at.endpoint(),
		"--rev="+strconv.FormatInt(revision, 10), "--write-out=json", "--command-timeout="+hashTimeout.String())
	if at.user != "" {
		c.Env = append(c.Env, "ETCDCTL_USER="+at.user)
	}
	c.Stdout, c.Stderr = &out, &failed
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("etcdctl: %w: %s", err, failed.String())
	}
	var answers []struct {
		HashKV struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
			Hash      uint32 `json:"hash"`
			Compacted int64  `json:"compact_revision"`
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &answers); err != nil {
		return nil, fmt.Errorf("etcdctl: %w", err)
	}
	if len(answers) != 1 {
		return nil, fmt.Errorf("etcdctl: %d answers: %s", len(answers), failed.String())
	}
	h := answers[0].HashKV
	return &Hash{Hash: h.Hash, Revision: h.Header.Revision, CompactRevision: h.Compacted}, nil
}

// startInstance copies the files, and starts a server that reaches nobody.
func startInstance(ctx context.Context, v *verifying) (_ *instance, err error) {
	at := &instance{bin: v.bin, ended: make(chan struct{})}
	if v.opts.User != "" {
		at.user = v.opts.User + ":" + v.opts.Password
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, at.remove())
		}
	}()
	from := layout{data: v.dir, wal: v.opts.WALDir}
	owner, known, err := ownerOf(from.db())
	if err != nil {
		return nil, err
	}
	if at.scratch, err = os.MkdirTemp(v.opts.Scratch, "protect-etcd-"); err != nil {
		return nil, err
	}
	// A path of its own, since the name of a socket has about a hundred bytes.
	if at.private, err = os.MkdirTemp("", "protect-etcd-"); err != nil {
		return nil, err
	}
	if err := at.copy(ctx, from); err != nil {
		return nil, fmt.Errorf("copy the files: %w", err)
	}
	args := []string{
		"--name=verify", "--data-dir=" + filepath.Join(at.scratch, "data"), "--wal-dir=" + filepath.Join(at.scratch, "wal"),
		"--listen-client-urls=unix://" + clientSocket, "--advertise-client-urls=unix://" + clientSocket,
		"--listen-peer-urls=unix://" + peerSocket, "--initial-advertise-peer-urls=unix://" + peerSocket,
	}
	if v.info.Method == MethodSnapshot {
		// The peers that a restore was told of may be alive. All of a snapshot is
		// committed, so that none of it is dropped.
		args = append(args, "--force-new-cluster")
	}
	// Its life is not that of ctx: stop sees to it.
	at.cmd = toolCommand(context.WithoutCancel(ctx), filepath.Join(v.bin, "etcd"), args...)
	at.cmd.Dir = at.private // the names of its sockets are relative
	at.cmd.Stdout, at.cmd.Stderr = &at.log, &at.log
	if known {
		for _, dir := range []string{at.scratch, at.private} {
			if err := program.Give(ctx, dir, owner); err != nil {
				return nil, err
			}
		}
		if err := program.As(at.cmd, owner); err != nil {
			return nil, err
		}
	}
	if err := at.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(at.ended)
		at.err = at.cmd.Wait()
	}()
	at.gw = newGateway(at.socket())
	return at, nil
}

// copy copies the data directory and the WAL.
func (at *instance) copy(ctx context.Context, from layout) error {
	for _, dir := range []struct{ from, to string }{
		{filepath.Join(from.data, "member", "snap"), filepath.Join(at.scratch, "data", "member", "snap")},
		{from.walDir(), filepath.Join(at.scratch, "wal")},
	} {
		if err := copyDir(ctx, dir.from, dir.to); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(at.scratch, "data"), 0o700)
}

// copyDir copies the files of a directory. Where the file system can share their
// blocks, it does.
func copyDir(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := errors.Join(ctx.Err(), copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// ready waits until the server answers a linearizable read.
func (at *instance) ready(ctx context.Context, v *verifying) (keys int64, now *header, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.opts.StartTimeout)
	defer cancel()
	for {
		err = nil
		if v.opts.User != "" && at.gw.token == "" {
			err = at.gw.login(ctx, v.opts.User, v.opts.Password)
		}
		if err == nil {
			if keys, now, err = at.gw.count(ctx); err == nil {
				return keys, now, nil
			}
		}
		timer := time.NewTimer(pollStart)
		select {
		case <-at.ended:
			timer.Stop()
			return 0, nil, fmt.Errorf("%w: the server does not start: %w: %s", ErrInconsistent, errors.Join(at.err, err), at.log.String())
		case <-ctx.Done():
			timer.Stop()
			return 0, nil, fmt.Errorf("the server has not started: %w: %w: %s", ctx.Err(), err, at.log.String())
		case <-timer.C:
		}
	}
}

// stop ends the server, and returns when it has ended. The copy is of no use any
// more, so that how it ends says nothing.
func (at *instance) stop() {
	if at.gw != nil {
		at.gw.close()
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	if err := at.cmd.Process.Signal(os.Interrupt); err == nil {
		select {
		case <-at.ended:
			return
		case <-timer.C:
		}
	}
	_ = at.cmd.Process.Kill()
	<-at.ended
}

// remove removes the copy and what was private to the instance.
func (at *instance) remove() error {
	var errs []error
	for _, dir := range []string{at.scratch, at.private} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

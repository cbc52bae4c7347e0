// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// VerifyOptions are the optional settings of Verify.
type VerifyOptions struct {
	// WALDir is where the WAL is, if it has a directory of its own.
	WALDir string
	// User and Password are of a user with the role root. They are needed if the
	// data has authentication enabled.
	User, Password string
	// Scratch is the directory for the copy of the files. The default is the one
	// that the data directory is in, where a file system that can share blocks
	// makes the copy cheap.
	Scratch string
	// Check is called when all else is well, while the instance runs: for what
	// only the application knows to be true of its data. An error of it is
	// returned as it is.
	Check func(ctx context.Context, at Instance) error
	// StartTimeout bounds the recovery. Zero means 10 minutes.
	StartTimeout time.Duration
}

// Instance is a server that only its user can reach.
type Instance struct {
	// Endpoint is what a client connects to: unix:// and the path of a socket.
	Endpoint string
}

// Verification is what Verify has looked at. All of it was found to be good.
type Verification struct {
	Keys     int64 `json:"keys"`
	Revision int64 `json:"revision"` // of the store, when it had recovered
	// Hashed says that the hash of all keys up to the revision of the evidence
	// was compared.
	Hashed bool   `json:"hashed"`
	Hash   uint32 `json:"hash"`
	// Recovery is how long the server took to start, and Took all of it.
	Recovery time.Duration `json:"recovery_ns"`
	Took     time.Duration `json:"took_ns"`
}

// Verify starts a private instance on a copy of a data directory, after
// PrepareRestore, and compares it with what PrepareRestore returned: the
// revision, and the hash of all keys up to it, which is equal only if every key
// and every value is. bin is the directory with etcd and etcdctl, of the same
// minor version as the server had: others may calculate another hash.
//
// The error matches ErrInconsistent for files that are not good. Success is never
// empty: a store without any key is an error as well.
//
// The instance runs as the owner of the database if this process is root, listens
// on sockets in a private directory only, and knows no peers. Keys with a lease
// end as they would elsewhere. The files themselves are not changed. The instance
// has ended when Verify returns. It needs a Unix.
func Verify(ctx context.Context, bin, dir string, info *Info, opts *VerifyOptions) (*Verification, error) {
	began := time.Now()
	if info == nil || !filepath.IsAbs(bin) {
		return nil, fmt.Errorf("etcd: verify: it takes the Info of PrepareRestore, and an absolute path instead of %q", bin)
	}
	v := &verifying{bin: bin, dir: dir, info: info, v: new(Verification)}
	if opts != nil {
		v.opts = *opts
	}
	if v.opts.Scratch == "" {
		v.opts.Scratch = filepath.Dir(filepath.Clean(dir))
	}
	if v.opts.StartTimeout <= 0 {
		v.opts.StartTimeout = 10 * time.Minute
	}
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("etcd: verify: %w", err)
	}
	v.v.Took = time.Since(began)
	return v.v, nil
}

// verifying is one verification at work.
type verifying struct {
	bin, dir string
	info     *Info
	opts     VerifyOptions
	v        *Verification
}

func (v *verifying) run(ctx context.Context) (err error) {
	l := layout{data: v.dir, wal: v.opts.WALDir}
	if err := l.check(ErrInconsistent); err != nil {
		return err
	}
	if v.info.Method == MethodAtomic {
		if err := checkAtomic(l, v.info); err != nil {
			return err
		}
	}
	began := time.Now()
	at, err := startInstance(ctx, v)
	if err != nil {
		return err
	}
	defer func() {
		at.stop()
		err = errors.Join(err, at.remove())
	}()
	keys, now, err := at.ready(ctx, v)
	if err != nil {
		return err
	}
	v.v.Keys, v.v.Revision, v.v.Recovery = keys, now.Revision, time.Since(began)
	if err := v.compare(now); err != nil {
		return err
	}
	if v.info.Hashed {
		if err := v.hash(ctx, at); err != nil {
			return err
		}
	}
	if v.v.Keys == 0 {
		return inconsistent("there is not one key: there is nothing to vouch for")
	}
	if v.opts.Check == nil {
		return nil
	}
	return v.opts.Check(ctx, Instance{Endpoint: at.endpoint()})
}

// compare compares what the instance says of itself with the evidence.
func (v *verifying) compare(now *header) error {
	i := v.info
	// A snapshot becomes a new cluster.
	if cluster, member := strconv.FormatUint(now.Cluster, 16), strconv.FormatUint(now.Member, 16); i.Method == MethodAtomic && (cluster != i.Cluster || member != i.Member) {
		return inconsistent("it is member %s of cluster %s, and the evidence is of %s of %s", member, cluster, i.Member, i.Cluster)
	}
	if now.Revision < i.Revision || now.Revision > i.LastRevision {
		return inconsistent("it recovers to revision %d, and has to reach one from %d to %d", now.Revision, i.Revision, i.LastRevision)
	}
	return nil
}

// hash compares the hash of all keys with the evidence.
func (v *verifying) hash(ctx context.Context, at *instance) error {
	got, err := hashAt(ctx, at.hashKV, v.info.Revision)
	if err != nil {
		return fmt.Errorf("hash: %w", err)
	}
	// What was compacted between the copy and its hash.
	if want := v.info.CompactRevision; want > 0 && want > got.CompactRevision {
		if err := at.gw.compact(ctx, want); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
		if got, err = hashAt(ctx, at.hashKV, v.info.Revision); err != nil {
			return fmt.Errorf("hash: %w", err)
		}
	}
	if max(0, got.CompactRevision) != max(0, v.info.CompactRevision) {
		return inconsistent("it is compacted up to revision %d, and the evidence up to %d", got.CompactRevision, v.info.CompactRevision)
	}
	if got.Hash != v.info.Hash {
		return inconsistent("all keys up to revision %d have the hash %08x, and the evidence has %08x", v.info.Revision, got.Hash, v.info.Hash)
	}
	v.v.Hashed, v.v.Hash = true, got.Hash
	return nil
}

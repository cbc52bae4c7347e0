// SPDX-License-Identifier: Apache-2.0

// Package etcd protects a member of an etcd cluster, version 3.4 or newer, and
// brings its data back: checks ahead of the window, a quiescer, the way back to
// a data directory, and a verification that starts it.
//
// A copy of member/snap/db alone is no backup: it lacks what is only in the
// write-ahead log, and etcd starts on it without a complaint. There are two ways
// that are:
//
//	the cluster                                  use
//	any number of members                        NewSnapshot
//	one member, whose whole data directory and   NewAtomic
//	WAL directory are cut at one instant
//
// # The snapshot
//
// [NewSnapshot] takes the stream of Maintenance.Snapshot into one file of a
// directory, [SnapshotFile]. Cut that directory as a volume of the application
// after the thaw (protect.Volume.AfterThaw), as the file has its name only then.
// What the member answers for is its own data directory, and no other volume: say
// so in protect.Member.Volumes.
//
// Quiesce first reads through the consensus of the cluster, so that the member
// has applied every write that was acknowledged before, and then waits for the
// first bytes of the stream. The server opens its read transaction before it
// sends any: from there on the revision of the snapshot is fixed, in the window,
// while everything that freezes before this member holds still. Nobody is
// blocked. The rest of the stream is read in the background while the volumes
// are cut, which keeps the server's transaction short, and Thaw waits for its
// end. Prepare would fix the revision too early, and Thaw too late.
//
// The file gets its name when the SHA-256 that ends the stream is right, and
// the database in it has a revision between what was read before and after the
// stream began. A failure leaves no file, and says that the hold is lost. The
// stream has to end within the window, and within the time that a group gives a
// thaw (10 s by default, after the cut); for large databases on slow networks
// set Options.Whole, which has Quiesce wait for all of it. Put this member first
// in an application: it is thawed last, when nobody waits for it any more.
//
// # A cut at one instant
//
// [NewAtomic] freezes nothing: etcd recovers from such a copy as from a power
// failure, and every write that was acknowledged before is in it. Its Traits say
// AtomicCut. It is refused for clusters of several members: one member of them
// starts alone only with --force-new-cluster, which drops what its own log does
// not yet call committed, and that can be a write that was acknowledged. A
// server that runs with --unsafe-no-fsync must not be protected so, and cannot be
// recognized from outside.
//
// # The client
//
// This module does not depend on etcd. [Client] is what it needs, and a client
// of go.etcd.io/etcd/client/v3 with one endpoint fits like this:
//
//	type member struct{ c *clientv3.Client }
//
//	func (m member) State(ctx context.Context) (*etcd.State, error) {
//		read, err := m.c.Get(ctx, "protect", clientv3.WithCountOnly()) // linearizable
//		if err != nil {
//			return nil, err
//		}
//		st, err := m.c.Status(ctx, m.c.Endpoints()[0])
//		if err != nil {
//			return nil, err
//		}
//		list, err := m.c.MemberList(ctx)
//		if err != nil {
//			return nil, err
//		}
//		s := &etcd.State{
//			Cluster: st.Header.ClusterId, Member: st.Header.MemberId, ReadBy: read.Header.MemberId, Revision: read.Header.Revision,
//			Version: st.Version, Leader: st.Leader, Learner: st.IsLearner, Errors: st.Errors,
//			Term: st.RaftTerm, Index: st.RaftAppliedIndex, DBSize: st.DbSize,
//		}
//		for _, m := range list.Members {
//			s.Members = append(s.Members, m.Name)
//		}
//		return s, nil
//	}
//
//	func (m member) Snapshot(ctx context.Context) (io.ReadCloser, error) { return m.c.Snapshot(ctx) }
//
//	func (m member) HashKV(ctx context.Context, revision int64) (*etcd.Hash, error) {
//		h, err := m.c.HashKV(ctx, m.c.Endpoints()[0], revision)
//		if err != nil {
//			return nil, err
//		}
//		return &etcd.Hash{Hash: h.Hash, Revision: h.Header.Revision, CompactRevision: h.CompactRevision}, nil
//	}
//
// With authentication the user of the client needs the role root, for the
// snapshot as well as for the hash; Prepare tries it.
//
// # Restore
//
//  1. Restore the volumes to an empty place.
//  2. [PrepareRestore] with the evidence that is stored with the point. It
//     refuses files that the evidence is not of. A snapshot becomes a data
//     directory by etcdutl, or by etcdctl before version 3.6.
//  3. [Verify] starts a private instance on a copy, and compares the hash of all
//     keys with the evidence.
//  4. Start the server. A cluster of several members begins anew: restore the
//     same snapshot for each of them.
//
// # Limits
//
// The revision goes back to that of the point. Clients that remember a later one
// (the watches and caches of Kubernetes) need RestoreOptions.BumpRevision. Leases
// begin their time anew. A process that is stopped while it reads a stream keeps
// the server's read transaction open until it goes on or dies: that blocks nobody,
// but pages that are freed meanwhile are not used again. The identifiers of a
// cluster and of its members follow from their configuration: two clusters may
// have the same ones, and only the hash tells them apart.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/stillpoint-go/protect/hooks"
)

var (
	// ErrUnsafe reports a member that must not be copied, or not in this way.
	ErrUnsafe = errors.New("etcd: no safe copy is possible")

	// ErrInconsistent reports a stream or restored files that are damaged, or
	// that are not what the evidence says.
	ErrInconsistent = errors.New("etcd: the copy is not consistent")
)

// SnapshotFile is the name of the file that NewSnapshot writes.
const SnapshotFile = "snapshot.db"

// Client is one member of a cluster. The package comment has an implementation.
// It is used by several goroutines at a time.
type Client interface {
	// State returns the state of the member, after a linearizable read of any
	// key through it, whether that exists or not: the read is what makes the
	// member catch up with the cluster.
	State(ctx context.Context) (*State, error)
	// Snapshot opens the stream of Maintenance.Snapshot. The end of ctx ends it.
	Snapshot(ctx context.Context) (io.ReadCloser, error)
	// HashKV returns the hash of all keys up to a revision; 0 is the newest one.
	HashKV(ctx context.Context, revision int64) (*Hash, error)
}

// State is what a member says of itself.
type State struct {
	Cluster, Member uint64
	ReadBy          uint64 // the member that answered the linearizable read
	Revision        int64  // of the store, when that was answered
	Version         string // of the server, like "3.4.23"
	Leader          uint64 // the member that leads; 0 if there is none
	Learner         bool
	Errors          []string // Errors of the status: alarms, and no leader
	Term, Index     uint64   // of Raft: the term, and the last entry that is applied
	DBSize          int64    // of the database file, in bytes
	Members         []string // the names of all members; empty for one that has not started
}

// Hash is the hash of all keys up to a revision, as the server calculates it.
// Hashes are comparable only if what is compacted is the same.
type Hash struct {
	Hash            uint32
	Revision        int64 // of the store when it was asked
	CompactRevision int64 // of the store
}

// Options are the optional settings of NewAtomic and NewSnapshot.
type Options struct {
	// DataDir and WALDir are the member's directories, as far as they can be seen
	// from here; WALDir is for a server with --wal-dir. With them, Prepare of
	// NewAtomic checks that the files are where they are said to be. NewSnapshot
	// does not use them.
	DataDir, WALDir string
	// NoHash keeps Thaw from asking for the hash of all keys. The server reads
	// the whole database for it, and its writers wait meanwhile. Without it,
	// Verify knows a snapshot by its SHA-256 and its revision, and a cut at one
	// instant by nothing but its revision.
	NoHash bool
	// Whole has Quiesce of NewSnapshot wait for the whole stream, which is then
	// bounded by the window alone. Members that are frozen before wait as well.
	Whole bool
}

// Quiescer protects one member. It is safe for concurrent use; with NewSnapshot
// a second freeze waits for the end of the first.
type Quiescer struct {
	client Client
	dir    string // of the snapshot; empty: cut at one instant
	opts   Options
	turn   chan struct{} // holds a token while there is a hold
}

var (
	_ hooks.Quiescer = (*Quiescer)(nil)
	_ hooks.Preparer = (*Quiescer)(nil)
)

// NewAtomic returns a quiescer for the only member of a cluster, whose data
// directory and WAL directory are cut at one instant. The client remains the
// caller's.
func NewAtomic(client Client, opts *Options) (*Quiescer, error) {
	return newQuiescer(client, "", opts)
}

// NewSnapshot returns a quiescer that writes a snapshot of the member into dir.
// The directory must exist, and belongs to this quiescer: Quiesce removes the
// snapshot of the freeze before, and files that a killed process left unfinished.
// Keys and values are in the file as they are; its mode is 0600.
func NewSnapshot(client Client, dir string, opts *Options) (*Quiescer, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("etcd: directory %q is not an absolute path", dir)
	}
	return newQuiescer(client, filepath.Clean(dir), opts)
}

func newQuiescer(client Client, dir string, opts *Options) (*Quiescer, error) {
	if client == nil {
		return nil, errors.New("etcd: client is nil")
	}
	q := &Quiescer{client: client, dir: dir, turn: make(chan struct{}, 1)}
	if opts != nil {
		q.opts = *opts
	}
	return q, nil
}

// atomic says whether the files are cut at one instant.
func (q *Quiescer) atomic() bool { return q.dir == "" }

// Traits implements hooks.Quiescer: a session that vouches for the data of the
// application, in a cut at one instant or by a snapshot of its own.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: q.atomic()}
}

// Prepare implements hooks.Preparer: it checks the member, what the client may
// do, and where the copy goes. Its error joins everything that is wrong, and
// matches ErrUnsafe, and errors.ErrUnsupported for what cannot be protected at
// all or not in this way.
func (q *Quiescer) Prepare(ctx context.Context) error {
	s, err := q.client.State(ctx)
	if err != nil {
		return fmt.Errorf("etcd: prepare: %w", err)
	}
	errs := append(q.check(s), q.checkRights(ctx))
	if q.atomic() {
		errs = append(errs, q.checkFiles())
	} else {
		errs = append(errs, q.checkSpace(s.DBSize))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("etcd: prepare: %w", err)
	}
	return nil
}

// Quiesce implements hooks.Quiescer. A member that cannot be copied safely is an
// error, as in Prepare. For a snapshot it returns when the stream has begun.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	if req.Window <= 0 {
		req.Window = hooks.DefaultWindow
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("etcd: quiesce: %w", err)
	}
	h := newHold(ctx, q, req.Window)
	if err := h.begin(ctx); err != nil {
		h.abandon()
		return nil, fmt.Errorf("etcd: quiesce: %w", err)
	}
	return h, nil
}

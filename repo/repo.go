// SPDX-License-Identifier: Apache-2.0

// Package repo is a deduplicating, encrypted repository of recovery points in
// any bucket that gocloud.dev/blob can open.
//
// [Init] creates a repository and [Open] opens it, with a [Key] that unlocks
// its root key. [Repository.Write] runs one session: it stores file trees and
// streams, and commits them as a [Point]. [Repository.Tree] reads them back.
// [Repository.Verify] checks that what is stored is complete and authentic.
//
// # What is stored
//
// Contents are cut into chunks at boundaries that depend on the content, those
// of databases and disks into chunks of 1 MiB; small files share chunks. Of a
// file of 1 MiB or more that changed, only the pages of 16 KiB are stored that
// differ from those at the same place in the parent, the last point of the
// same name; runs of 256 KiB and more are cut by their content, so that it may
// move. Chunks are named by a keyed hash, stored once,
// compressed (zstd), sealed (AES-256-GCM) and collected into packs of about 32
// MiB. Every file is a list of slices of chunks, and every volume one tree of
// entries in path order. Names, sizes and times are encrypted like contents;
// who can list the bucket sees the number, sizes and times of its objects.
//
// # Keys
//
// Several keys may open a repository, passphrases and those of key management
// services: see [Repository.AddKey] and [Repository.RemoveKey]. All of them
// open the same secrets. Whoever had a key may have kept them, so that removing
// a key does not take away what it could read; [Repository.RotateKeys] keeps
// such a person from reading what is written later. It does not keep the holder
// of an old secret who can still write to the bucket from storing forgeries:
// take away the credentials for the bucket, too.
//
// # Consistency
//
// Every object is created once and never overwritten. A recovery point is
// visible when its commit record is, and that is written last: after a crash,
// a power failure or an error there is a whole point or none. Several
// processes may write to one repository at the same time, without locks and
// without trusting clocks. The bucket must create objects atomically and show
// them at once; Init tries this out. Use dirbucket for local directories.
//
// # Errors
//
// Errors match the standard sentinels, those of contexts, and the variables of
// this package. Reads never return data that is not what was written: it
// either comes back byte for byte, or with [ErrCorrupt].
//
// # Compatibility
//
// FORMAT.md specifies the format, of which this package reads and writes
// version 1. Later releases read what this one wrote. A repository that uses
// what a release does not know says so in its header: such a release refuses to
// open it, or opens it for reading only, with an error that matches [ErrFormat]
// and says what to do.
//
// # Local cache
//
// With Options.CacheDir, metadata is fetched once: index segments, records and
// the nodes of trees. Copies are kept sealed, and are opened like what comes
// from the bucket, so that whoever changes the folder can cost time and nothing
// else. The index is merged into sorted files there, which are read where
// needed and authenticate each block. These files are not sealed: they hold the
// keyed hashes and the sizes of chunks. They take about 55 bytes a chunk.
// Errors of the folder are logged, once.
//
// # Memory
//
// A session holds up to four packs and a few chunks for each processor, about
// 190 MiB of live heap (see TestMemoryOfFiles), plus 33 bytes for each new chunk
// that is not in the index yet. The index takes less than 2 bytes for each chunk
// of the repository with a local cache, besides half a megabyte, and 55 bytes
// without one, or if it fails (see TestMemoryOfIndex). The garbage collector
// lets a process grow to twice its live heap, unless it sets
// debug.SetMemoryLimit.
package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/internal/codec"
	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/retry"
	"github.com/stillpoint-go/protect/internal/seal"
	"github.com/stillpoint-go/protect/internal/store"
)

// Options are common to Init and Open. The zero value is usable.
type Options struct {
	// Logger is told about retries. Nil is silent.
	Logger hclog.Logger
	// CacheBytes bounds the plaintext of recently read chunks that is kept in
	// memory. 0 means 64 MiB.
	CacheBytes int64
	// CacheDir, if set, is a folder for copies of metadata and of the index, so
	// that they need not be fetched and kept in memory: see Local cache. It is
	// created if need be, may be shared by repositories and by processes, and
	// may be deleted at any time. Without it, each process reads the whole index
	// from the bucket and keeps it on its heap: 55 MB for a million chunks, in
	// place of 2 MB.
	CacheDir string
	// CacheDirBytes bounds what is kept in CacheDir; the files of the index that
	// a process has open may exceed it. 0 means 1 GiB.
	CacheDirBytes int64
	// Attempts bounds how often a store call that failed for a passing reason
	// is tried in all. 0 means 6.
	Attempts int
	// Head, if set, is what Repository.Head returned at some earlier time. Open
	// fails with ErrRollback if the repository is not at least where it was.
	Head string
}

// Repository is an open repository. It is safe for concurrent use.
type Repository struct {
	id     [16]byte
	keys   *seal.Keys
	store  *store.Store
	codec  *codec.Codec
	log    hclog.Logger
	loader *loader
	caps   store.Capabilities
	// readOnly says why nothing may be written, if so.
	readOnly error
	// header is the text by which the repository was opened, which has a copy if
	// copied says so.
	header []byte
	copied bool
	// begun is the last epoch that was seen to begin with the secret that we have.
	begun atomic.Uint32
	// refreshing holds a token while somebody reads what others have committed.
	// Two at once could put an older view in place of a newer one.
	refreshing chan struct{}
	sets       sets
	local      local
	// buffers holds the *buffers in which chunks are encoded.
	buffers sync.Pool

	mu struct {
		sync.Mutex
		records map[attempt]*Point // what commit keys hold; nil is a fence
		index   *index.Set         // nil until the first refresh
	}
}

// Init creates a repository in the bucket, which may hold other objects, but
// neither a repository nor what is left of one (fs.ErrExist). The bucket stays the caller's and must stay
// open as long as the repository is used.
func Init(ctx context.Context, bucket *blob.Bucket, key Key, opts *Options) (*Repository, error) {
	r := newRepository(bucket, opts)
	if err := key.check(); err != nil {
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	switch raw, err := r.store.Get(ctx, ondisk.HeaderKey, ondisk.MaxHeader); {
	case err == nil:
		r.finishInit(ctx, raw)
		return nil, fmt.Errorf("repo: init: the bucket holds a repository: %w", fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	if err := r.refuseRemains(ctx); err != nil {
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	_, _ = rand.Read(r.id[:]) // never fails, see crypto/rand
	caps, err := r.store.Probe(ctx, fmt.Sprintf("probe/%x-", r.id))
	if err != nil {
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	r.caps = caps
	r.keys = seal.NewKeys(r.id, seal.NewSecret())
	if _, err := r.putSlot(ctx, r.keys, nil, key.get()); err != nil {
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	r.openLocal(opts)
	if err := r.putHeaders(ctx); err != nil {
		return nil, fmt.Errorf("repo: init: %w", err)
	}
	return r, nil
}

// refuseRemains fails if somebody has stored something here, though there is no
// header: it got lost. What Init itself leaves when it dies is no obstacle.
func (r *Repository) refuseRemains(ctx context.Context) error {
	for _, prefix := range []string{ondisk.HeaderCopyKey, ondisk.PointPrefix, ondisk.PackPrefix} {
		for o, err := range r.store.List(ctx, prefix) {
			if err != nil {
				return err
			}
			return fmt.Errorf("the bucket has %s, of a repository that has lost its %s: %w", o.Key, ondisk.HeaderKey, fs.ErrExist)
		}
	}
	return nil
}

// Open opens the repository in the bucket. It fails with fs.ErrNotExist if
// there is none, with ErrKey if no key slot opens, and with ErrFormat if the
// repository needs another version of this package. It may succeed where
// nothing can be written: then all operations that write fail, and say why. If
// the header is damaged or missing, and its copy is not, it succeeds with a
// warning in the log; Repair restores the header.
func Open(ctx context.Context, bucket *blob.Bucket, key Key, opts *Options) (*Repository, error) {
	r := newRepository(bucket, opts)
	if err := key.check(); err != nil {
		return nil, fmt.Errorf("repo: open: %w", err)
	}
	if err := r.openHeaders(ctx, key); err != nil {
		return nil, fmt.Errorf("repo: open: %w", err)
	}
	r.openLocal(opts)
	if opts != nil && opts.Head != "" {
		if err := r.expect(ctx, opts.Head); err != nil {
			return nil, fmt.Errorf("repo: open: %w", err)
		}
	}
	return r, nil
}

func newRepository(bucket *blob.Bucket, opts *Options) *Repository {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	r := &Repository{log: o.Logger.Named("repo"), codec: codec.New()}
	r.refreshing = make(chan struct{}, 1)
	r.store = store.New(bucket, retry.Policy{Attempts: o.Attempts, Notify: r.logRetry})
	r.loader = newLoader(r, o.CacheBytes)
	r.buffers.New = func() any { return new(buffers) }
	r.forgetAll()
	return r
}

// fresh returns the same repository without anything remembered of its content.
func (r *Repository) fresh() *Repository {
	f := &Repository{id: r.id, keys: r.keys, store: r.store, codec: r.codec, log: r.log, caps: r.caps, readOnly: r.readOnly, header: r.header, copied: r.copied}
	f.refreshing = make(chan struct{}, 1)
	f.local = r.local.fresh()
	f.loader = newLoader(f, r.loader.limit)
	f.buffers.New = r.buffers.New
	f.forgetAll()
	return f
}

// forgetAll makes a repository that remembers nothing.
func (r *Repository) forgetAll() {
	r.mu.records = map[attempt]*Point{}
}

const sealedOverhead = seal.ObjectOverhead

func (r *Repository) logRetry(err error, wait time.Duration) {
	r.log.Warn("store call failed, trying again", "error", err, "wait", wait)
}

// ID returns the repository's identifier, 32 hex digits. It is not a secret.
func (r *Repository) ID() string { return hex.EncodeToString(r.id[:]) }

// AtomicCreate reports whether the store passed the test of Init that of
// several creators of one object exactly one wins. Where it did not,
// concurrent sessions that were given the same point ID may both report
// success.
func (r *Repository) AtomicCreate() bool { return r.caps.AtomicCreate }

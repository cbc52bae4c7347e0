// SPDX-License-Identifier: Apache-2.0

// Package redis protects a Redis or Valkey server and brings its data directory
// back: checks ahead of the window, two quiescers, what has to be done to the
// restored files, and a verification that starts them.
//
//	the data directory is                     use         servers
//	cut at one instant (one btrfs subvolume,  NewAtomic   Redis 6.0+, Valkey
//	an atomic group snapshot)
//	copied or cloned file by file, or has to  NewPaused   Redis 7.0+, Valkey
//	have every write that was acknowledged
//
// The package needs no client library. It takes any client through [Conn]; with
// github.com/redis/go-redis/v9 and with github.com/gomodule/redigo:
//
//	client := goredis.NewClient(&goredis.Options{Addr: …, ContextTimeoutEnabled: true, MaxRetries: -1})
//	conn := redis.DoFunc(func(ctx context.Context, args ...any) (any, error) { return client.Do(ctx, args...).Result() })
//
//	conn := redis.DoFunc(func(ctx context.Context, args ...any) (any, error) {
//		c, err := pool.GetContext(ctx)
//		if err != nil {
//			return nil, err
//		}
//		defer c.Close()
//		return redigo.DoContext(c, ctx, args[0].(string), args[1:]...)
//	})
//
// # A cut at one instant
//
// [NewAtomic] freezes nothing. The server starts from such a copy as after a
// power failure: the append-only file (AOF) ends wherever it ended, and a
// command that was half written is dropped (aof-load-truncated). Which
// acknowledged writes are in the point is what the server's own settings
// promise:
//
//	appendfsync always     all that were acknowledged before the cut
//	appendfsync everysec   all but those of the last two seconds: the server
//	                       writes late while a flush takes long
//	appendfsync no         all but what the operating system has not written
//	appendonly no (RDB)    all before Prepare, which saves; not later ones
//
// Its Traits say AtomicCut, so that a point whose volumes were not cut at one
// instant is not called application-consistent.
//
// # A pause
//
// [NewPaused] stops writes with CLIENT PAUSE … WRITE; reads go on. Every write
// that was acknowledged before Quiesce returned is in the files then, whatever
// appendfsync says, no write happens until Thaw, and no file that the server
// loads at its start changes. With an AOF that takes milliseconds, unless a
// rewrite is running: it is waited for before the pause. A server that only has
// RDB saves once within the pause, which takes as long as a save does: give it a
// window to match, or use NewAtomic.
//
// What the files have is what reads of them return. A cut below the file system
// (a disk of a cloud, LVM) also needs the file system to be flushed: make a
// hooks/fsfreeze member that this one depends on.
//
// The pause is a lease of the server's own: it ends with the window, whatever
// becomes of this process, and the server is not configured in any way (see
// docs/adr/0018-redis-settings.md). Anybody may end it with CLIENT UNPAUSE.
// Held finds out: the server counts these commands, and its AOF or its count of
// changes would have grown by any write. CONFIG RESETSTAT during a hold costs
// the proof as well.
//
// # Permissions
//
// Prepare names what is missing. The user needs no access to any key:
//
//	ACL SETUSER keeper on >… +info +config|get +bgsave                     # NewAtomic
//	ACL SETUSER keeper +client|pause +client|unpause +publish &protect:*   # NewPaused as well
//
// +bgsave is needed for servers without AOF. Redis 6 knows no subcommands as in
// +config|get: there it is +config. The messages that are published say
// nothing; they show whether writes are paused.
//
// # Restore
//
//  1. Restore the volume to an empty place.
//  2. [PrepareRestore] with the evidence that is stored with the point.
//  3. [Verify] starts a private instance on the files, loads all of them, and
//     says what it counted. Verify a copy, or before the server is used.
//  4. Start the server with the same dir, appendonly, appenddirname,
//     appendfilename and dbfilename. A server with appendonly yes that finds no
//     AOF starts empty, whatever is in dump.rdb.
//
// # Limits
//
// Replicas are refused: protect the primary. Of a cluster each primary is one
// target; make all of them members of one application. Its nodes.conf is in the
// data directory too: remove it before a restored node is started as part of
// another cluster. BACKUP of Redis 8.10 is not used. Keys whose time is over are
// gone after a restore. Writes that a failover has lost are not ours to find.
package redis

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/stillpoint-go/protect/hooks"
)

var (
	// ErrUnsafe reports a server whose state or settings do not allow a copy
	// that is certain to be loaded.
	ErrUnsafe = errors.New("redis: no safe copy is possible")

	// ErrInconsistent reports restored files that do not belong together, or
	// that are not what the evidence says, or that are damaged.
	ErrInconsistent = errors.New("redis: the copy is not consistent")
)

// Conn is a client of one server. It must be safe for concurrent use, and a call
// should return when its context ends: with go-redis that takes
// Options.ContextTimeoutEnabled. It need not be one connection; a pool is fine,
// a client that chooses among several servers is not. It must not repeat
// commands by itself (MaxRetries -1).
type Conn interface {
	// Do sends one command and returns the reply: a string or []byte, an
	// integer, []any or map[any]any. An error reply is an error whose text
	// begins with its code, such as NOPERM.
	Do(ctx context.Context, args ...any) (any, error)
}

// DoFunc is a Conn that is a function.
type DoFunc func(ctx context.Context, args ...any) (any, error)

// Do implements Conn.
func (f DoFunc) Do(ctx context.Context, args ...any) (any, error) { return f(ctx, args...) }

// Options are the optional settings of NewAtomic and NewPaused.
type Options struct {
	// Volumes are the directories, as the server sees them, that the protected
	// volumes are mounted at. Prepare refuses a server whose dir is elsewhere.
	// Empty means that it is not looked at.
	Volumes []string
	// NoSave keeps Prepare of NewAtomic from a BGSAVE of a server without AOF.
	// The point then has what the server has saved by itself.
	NoSave bool
}

// Atomic protects one server whose data directory is cut at one instant. It is
// safe for concurrent use.
type Atomic struct{ client }

// Paused protects one server by pausing its writes. It is safe for concurrent
// use and has one freeze at a time.
type Paused struct {
	client
	live live
}

var (
	_ hooks.Preparer  = (*Atomic)(nil)
	_ hooks.Quiescer  = (*Atomic)(nil)
	_ hooks.Preparer  = (*Paused)(nil)
	_ hooks.Quiescer  = (*Paused)(nil)
	_ hooks.Recoverer = (*Paused)(nil)
)

// NewAtomic returns a quiescer for the server of conn, Redis 6.0 or newer,
// whose data directory is cut at one instant. conn remains the caller's.
func NewAtomic(conn Conn, opts *Options) (*Atomic, error) {
	c, err := newClient(conn, opts)
	if err != nil {
		return nil, err
	}
	return &Atomic{c}, nil
}

// NewPaused returns a quiescer for the server of conn, Redis 7.0 or newer, whose
// data directory is cut in any way.
func NewPaused(conn Conn, opts *Options) (*Paused, error) {
	c, err := newClient(conn, opts)
	if err != nil {
		return nil, err
	}
	return &Paused{client: c}, nil
}

func newClient(conn Conn, opts *Options) (client, error) {
	if conn == nil {
		return client{}, errors.New("redis: conn is nil")
	}
	c := client{conn: conn}
	if opts != nil {
		c.opts = *opts
	}
	c.opts.Volumes = slices.Clone(c.opts.Volumes)
	for i, v := range c.opts.Volumes {
		if !path.IsAbs(v) {
			return client{}, fmt.Errorf("redis: volume %q is not an absolute path", v)
		}
		c.opts.Volumes[i] = path.Clean(v)
	}
	return c, nil
}

// Traits implements hooks.Quiescer: nothing is frozen, and the files are worth
// something only if they were cut at one instant.
func (q *Atomic) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}
}

// Traits implements hooks.Quiescer. The pause ends by itself, so that no journal
// has to outlive the process.
func (q *Paused) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
}

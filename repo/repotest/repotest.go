// SPDX-License-Identifier: Apache-2.0

// Package repotest has what tests of code on top of a repository need. It is
// imported by tests only.
//
// # The bucket
//
// [NewBucket] returns a bucket in memory that behaves as a good cloud store:
// strongly consistent reads and lists, atomic create-once, and a cancelled write
// that leaves nothing. It shares no memory with its callers. A [Bucket] is the
// view of one process:
//
//   - [Bucket.Bucket] is the *blob.Bucket to hand to the code under test.
//   - [Bucket.Open] is another process on the same objects, with its own faults
//     and its own count of calls; each can be killed while the others go on.
//   - [Bucket.Clone] is a copy of the world at this instant, to look at what a
//     crash would leave here, or to branch.
//   - [Bucket.Objects], [Bucket.Set] and [Bucket.Delete] look at and damage the
//     raw objects behind everybody's back.
//
// # Faults
//
// [Options.Fault] is asked before every call to the store and answers with a
// [Fault]: fail before or after the effect, hang, take effect late, damage the
// data, die. Calls have an index, so that a sweep can hit each of them once. A
// sweep over a scenario is two loops (see the example for all of it):
//
//	for _, action := range []repotest.Action{repotest.FailBefore, repotest.FailAfter, repotest.Late} {
//		for i := 0; ; i++ { // hit call 0, 1, 2, …
//			world := repotest.NewBucket(nil)
//			p := world.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Kill: true})})
//			err := scenario(p.Bucket())
//			if len(p.Calls()) <= i {
//				break // the scenario has no call number i
//			}
//			world.Settle()             // what was late lands now
//			check(world.Bucket(), err) // the invariants, as a new process sees them
//		}
//	}
//
// A write is one call, made when its writer is closed: what happens before that
// has no effect on the store. A write whose context is done by then makes no
// call. Each page of a list is a call. A read is one call, made when it is opened.
//
// # Concurrency
//
// All methods are safe for concurrent use. Calls that run concurrently get their
// indices in the order of their arrival.
package repotest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
)

// Options are the settings of a [Bucket]. Nil and zero values mean the defaults.
type Options struct {
	// Fault decides what happens to a call; nil, or the zero Fault, means that
	// it works. It is called without locks, possibly concurrently, and may use
	// the Bucket's methods other than those of its *blob.Bucket.
	Fault func(Op) Fault
	// PageSize limits the entries of a page of a list, so that small tests have
	// several pages. The default is 1000.
	PageSize int
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Fault == nil {
		c.Fault = func(Op) Fault { return Fault{} }
	}
	if c.PageSize <= 0 {
		c.PageSize = 1000
	}
	return c
}

// Kind is the kind of a call.
type Kind int

// The calls that a bucket can make.
const (
	Put        Kind = iota // write, replacing what is there
	PutOnce                // write if there is no such object
	Get                    // read a range of an object
	List                   // one page of a list
	Delete                 // delete an object
	Attributes             // look at an object (also Exists)
	Copy                   // copy an object inside the bucket
)

// String returns the name of the constant.
func (k Kind) String() string {
	names := [...]string{"Put", "PutOnce", "Get", "List", "Delete", "Attributes", "Copy"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return names[k]
}

// Op is one call to the store.
type Op struct {
	Index  int    // position among the calls of this process, from 0
	Kind   Kind   // what is called
	Key    string // key of the object; the destination of a Copy; the prefix of a List
	Source string // source of a Copy
	Offset int64  // first byte of a Get
	Length int64  // bytes of a Put, PutOnce or Get; -1 in a Get means up to the end
}

// String returns a short form for messages, such as "3 PutOnce packs/1".
func (o Op) String() string {
	s := fmt.Sprintf("%d %v %s", o.Index, o.Kind, o.Key)
	if o.Kind == Copy {
		s += " from " + o.Source
	}
	return s
}

// Bucket is a bucket in memory as one process sees it.
type Bucket struct {
	store *store
	opts  Options
	dead  chan struct{} // closed when the process is killed

	mu struct {
		sync.Mutex
		calls  []Op
		killed bool
	}
}

// NewBucket returns an empty bucket. It needs no cleanup.
func NewBucket(opts *Options) *Bucket { return newBucket(newStore(), opts) }

func newBucket(s *store, opts *Options) *Bucket {
	return &Bucket{store: s, opts: opts.withDefaults(), dead: make(chan struct{})}
}

// Open returns the bucket as another process sees it: the same objects, other
// faults, calls counted from 0, and alive until it is killed itself.
func (b *Bucket) Open(opts *Options) *Bucket { return newBucket(b.store, opts) }

// Clone returns an independent bucket with the objects of this instant, and with
// the late effects that are still on their way, which may land there as well.
func (b *Bucket) Clone(opts *Options) *Bucket { return newBucket(b.store.clone(), opts) }

// Bucket returns a new *blob.Bucket of this process. Closing it is possible and
// needless; it says nothing about others that this method returned.
func (b *Bucket) Bucket() *blob.Bucket { return blob.NewBucket(b.Driver()) }

// Driver returns what is below [Bucket.Bucket], to put other drivers on top.
func (b *Bucket) Driver() driver.Bucket { return (*drv)(b) }

// Calls returns the calls that the process has made so far, in order. What a dead
// process tries is not counted.
func (b *Bucket) Calls() []Op {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.calls)
}

// Kill kills the process, as [Fault.Kill] does: calls that hang return, and all
// later calls fail with [ErrKilled] and have no effect.
func (b *Bucket) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.mu.killed {
		b.mu.killed = true
		close(b.dead)
	}
}

// Killed reports whether the process was killed.
func (b *Bucket) Killed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.killed
}

// Settle lets all late effects of all processes land now, in the order of their
// calls, and returns their number.
func (b *Bucket) Settle() int {
	n := 0
	for b.SettleNext() {
		n++
	}
	return n
}

// SettleNext lets the oldest late effect of all processes land now. It reports
// false if there is none.
func (b *Bucket) SettleNext() bool { return b.store.settle(0) }

// SettleAt lets late effect number i of all processes land now, counted from 0
// for the oldest one. It reports false if there is none.
func (b *Bucket) SettleAt(i int) bool { return b.store.settle(i) }

// Pending returns the number of late effects of all processes that have not
// landed yet.
func (b *Bucket) Pending() int {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.pending)
}

// Objects returns a copy of the contents of all objects.
func (b *Bucket) Objects() map[string][]byte {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string][]byte, len(s.mu.objects))
	for key, o := range s.mu.objects {
		out[key] = slices.Clone(o.data)
	}
	return out
}

// Keys returns the keys of all objects, sorted.
func (b *Bucket) Keys() []string {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.mu.objects))
}

// Set makes data the content of the object key, which keeps its attributes if it
// exists. It is no call: no fault hits it and nobody counts it.
func (b *Bucket) Set(key string, data []byte) { b.store.set(key, slices.Clone(data)) }

// Flip inverts bit number bit of the content of the object key, counted from the
// lowest bit of its first byte. It reports false if there is no such bit.
func (b *Bucket) Flip(key string, bit int64) bool { return b.store.flip(key, bit) }

// Delete removes the object key, as no call. It reports whether it existed.
func (b *Bucket) Delete(key string) bool {
	return b.store.remove(key) == nil
}

// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// ErrKilled is what all calls return after [Fault.Kill].
var ErrKilled = errors.New("snapshottest: the process was killed")

// Kind says what a call to a [Fake] is.
type Kind string

// The calls of package driver. Release is the function that Dir returns.
const (
	Check       Kind = "Check"
	Create      Kind = "Create"
	CreateGroup Kind = "CreateGroup"
	List        Kind = "List"
	Ready       Kind = "Ready"
	Delete      Kind = "Delete"
	Dir         Kind = "Dir"
	Release     Kind = "Release"
)

// Op is a call to a [Fake].
type Op struct {
	Kind   Kind
	Volume driver.VolumeID // of CreateGroup the first; of List empty
	ID     string          // of List the prefix
	Index  int             // how many calls there were before, of all kinds
}

// Fault is what goes wrong with a call. The zero value is nothing.
type Fault struct {
	// Before is returned without the call having any effect.
	Before error
	// After is returned although the call took effect: the reply is lost.
	After error
	// Hang blocks the call until its context is done and returns the context's
	// error. Together with After it takes effect only then: a late message.
	Hang bool
	// Partial makes Create and CreateGroup stop on the way: it returns After,
	// or ErrKilled, and List shows snapshots that never become ready.
	Partial bool
	// NotReady is how often Ready will say no of what Create or CreateGroup
	// makes.
	NotReady int
	// Kill makes this call, unless After is set, and all later ones fail with
	// ErrKilled and without effect, until Revive.
	Kill bool
}

// FakeOptions configure a [Fake]. Zero values select the defaults.
type FakeOptions struct {
	// Torn makes the snapshots be what a file-by-file copy is: not
	// point-in-time.
	Torn bool
	// NoGroup hides driver.GroupCreator.
	NoGroup bool
	// NoDir hides driver.DirReader.
	NoDir bool
}

// Fake is a provider whose volumes are directories and whose snapshots are
// copies of them, in a folder of the test. Everything else is in memory. It
// does what package driver asks for, except where the hook says otherwise. It
// is safe for concurrent use.
type Fake struct {
	opts FakeOptions
	dir  string

	mu     sync.Mutex
	vols   map[driver.VolumeID]string
	apart  map[driver.VolumeID]bool
	snaps  map[key]*copied
	hook   func(Op) Fault
	ops    []Op
	dirs   int
	killed bool
	serial int
}

type key struct {
	volume driver.VolumeID
	id     string
}

// copied is a snapshot.
type copied struct {
	info     driver.SnapshotInfo
	dir      string
	notReady int
	partial  bool
}

// NewFake returns a Fake without volumes.
func NewFake(tb testing.TB, opts *FakeOptions) *Fake {
	tb.Helper()
	f := &Fake{
		dir:   tb.TempDir(),
		vols:  make(map[driver.VolumeID]string),
		apart: make(map[driver.VolumeID]bool),
		snaps: make(map[key]*copied),
	}
	if opts != nil {
		f.opts = *opts
	}
	return f
}

// AddVolume makes the directory dir known as vol.
func (f *Fake) AddVolume(vol driver.VolumeID, dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vols[vol] = dir
}

// AddVolumeApart is AddVolume for a volume that no group cut can include.
func (f *Fake) AddVolumeApart(vol driver.VolumeID, dir string) {
	f.AddVolume(vol, dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apart[vol] = true
}

// SetHook makes hook decide what goes wrong with each call that follows. It is
// called at the beginning of the call, and may itself look at the Fake. Nil
// ends all faults.
func (f *Fake) SetHook(hook func(Op) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Revive makes calls succeed again after [Fault.Kill], as the next process
// would find things: directories that were in use are not any more.
func (f *Fake) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killed, f.dirs = false, 0
}

// Ops returns the calls so far.
func (f *Fake) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// Snapshots returns what there is, partial snapshots included, ordered by ID
// and Volume. It is no call.
func (f *Fake) Snapshots() []driver.SnapshotInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var infos []driver.SnapshotInfo
	for _, c := range f.snaps {
		infos = append(infos, c.info)
	}
	slices.SortFunc(infos, func(a, b driver.SnapshotInfo) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Volume, b.Volume))
	})
	return infos
}

// InUse returns how many directories were given out and not released.
func (f *Fake) InUse() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirs
}

// Provider returns the driver.
func (f *Fake) Provider() driver.Provider {
	if f.opts.NoGroup {
		return provider{f}
	}
	return groupProvider{provider{f}}
}

// call runs effect as the call op, with the fault that the hook wants.
func (f *Fake) call(ctx context.Context, op Op, effect func(Fault) error) error {
	f.mu.Lock()
	op.Index = len(f.ops)
	f.ops = append(f.ops, op)
	hook := f.hook
	f.mu.Unlock()
	var fault Fault
	if hook != nil {
		fault = hook(op)
	}
	f.mu.Lock()
	dead := f.killed
	f.killed = f.killed || fault.Kill
	f.mu.Unlock()
	switch {
	case dead, fault.Kill && fault.After == nil && !fault.Partial:
		return ErrKilled
	case fault.Before != nil:
		return fault.Before
	case fault.Hang:
		<-ctx.Done()
		if fault.After != nil {
			// What comes late comes although nobody waits for it.
			_ = f.locked(func() error { return effect(fault) })
		}
		return ctx.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if err := f.locked(func() error { return effect(fault) }); err != nil {
		return err
	}
	if fault.Partial {
		return cmp.Or(fault.After, ErrKilled)
	}
	return fault.After
}

func (f *Fake) locked(fn func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fn()
}

// create cuts vols. It runs under the lock, so a group is cut at one instant
// as far as the calls of this Fake are concerned.
func (f *Fake) create(vols []driver.VolumeID, id string, fault Fault) ([]*copied, error) {
	for _, vol := range vols {
		if _, ok := f.vols[vol]; !ok {
			return nil, fmt.Errorf("snapshottest: volume %q: %w", vol, fs.ErrNotExist)
		}
		if _, ok := f.snaps[key{vol, id}]; ok {
			return nil, fmt.Errorf("snapshottest: snapshot %q of %q: %w", id, vol, fs.ErrExist)
		}
	}
	var made []*copied
	for _, vol := range vols {
		f.serial++
		c := &copied{
			dir:      filepath.Join(f.dir, fmt.Sprint(f.serial)),
			notReady: fault.NotReady,
			partial:  fault.Partial,
			info:     driver.SnapshotInfo{ID: id, Volume: vol},
		}
		if !fault.Partial {
			if err := os.CopyFS(c.dir, os.DirFS(f.vols[vol])); err != nil {
				return nil, errors.Join(err, os.RemoveAll(c.dir))
			}
			c.info.Created, c.info.Method, c.info.PointInTime = time.Now(), "fake", !f.opts.Torn
		}
		made = append(made, c)
	}
	for _, c := range made {
		f.snaps[key{c.info.Volume, id}] = c
	}
	return made, nil
}

// list returns the keys of the snapshots, in an order that nobody may rely on.
func (f *Fake) list() []key { return slices.Collect(maps.Keys(f.snaps)) }

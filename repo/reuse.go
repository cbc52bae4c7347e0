// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// Reuse says by what [Writer.Put] knows that a file is unchanged, so that it
// need not be read again. Whatever it says, content that is there already is
// not stored again.
type Reuse uint8

const (
	// ReuseNever reads every file.
	ReuseNever Reuse = iota
	// ReuseByChangeTime takes a file for unchanged whose size, modification
	// time, status change time (ctime) and inode number are those that the
	// parent recorded. Programs cannot set the change time: this is right for
	// volumes in place and for snapshots that keep inodes, such as those of
	// btrfs. A volume that is live must not be written through shared memory
	// mappings, which may change a file and its times much later.
	ReuseByChangeTime
	// ReuseByModTime takes a file for unchanged whose size and modification
	// time are those that the parent recorded. It is for clones, whose inodes
	// and change times are new each time. A program that changes a file and sets
	// its time back goes unnoticed, as with rsync.
	ReuseByModTime
)

// String returns "never", "change-time" or "mod-time".
func (r Reuse) String() string {
	if names := [...]string{"never", "change-time", "mod-time"}; int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("Reuse(%d)", uint8(r))
}

// A time stamp is only as fine as the clock of its file system: a change may
// leave it as it is shortly after it was set. So a file is not recorded as
// known whose stamp was younger than this when it was read: coarse for file
// systems that keep whole seconds.
const (
	fineStamp   = 100 * time.Millisecond
	coarseStamp = 2 * time.Second
)

// fingerprint returns what to record of a file that is about to be read, so
// that a later session knows it again; nil if that would not be safe. Info is of
// a moment after now, and before that of all else: what changes the file later
// must leave it with another one.
func (r Reuse) fingerprint(info fs.FileInfo, now time.Time) *ondisk.Stat {
	s := stat(info)
	if r == ReuseNever || s.changed.IsZero() {
		return nil
	}
	stamp := s.changed
	if r == ReuseByModTime {
		stamp = info.ModTime()
	}
	age := fineStamp
	if stamp.Nanosecond() == 0 {
		age = coarseStamp
	}
	if now.Sub(stamp) < age {
		return nil
	}
	return &ondisk.Stat{Changed: s.changed.UTC(), Inode: s.id.ino}
}

// same reports whether a file is the one that an entry was made from.
func (r Reuse) same(e *ondisk.Entry, info fs.FileInfo) bool {
	switch r {
	case ReuseByChangeTime:
		return sameStatus(e, info)
	case ReuseByModTime:
		return e.Stat != nil && sameTimes(e, info)
	default:
		return false
	}
}

func sameTimes(e *ondisk.Entry, info fs.FileInfo) bool {
	return e.Type == ondisk.TypeFile && int64(e.Size) == info.Size() && e.ModTime.Equal(info.ModTime()) // below 2^62
}

// sameStatus also compares what a clone does not keep.
func sameStatus(e *ondisk.Entry, info fs.FileInfo) bool {
	s := stat(info)
	return e.Stat != nil && sameTimes(e, info) && e.Stat.Changed.Equal(s.changed) && e.Stat.Inode == s.id.ino
}

// reuseContent gives e the content of a known file.
func reuseContent(e, known *ondisk.Entry) {
	e.Size, e.Hash, e.Extents, e.Map = known.Size, known.Hash, known.Extents, known.Map
	e.Stat, e.Pages = known.Stat, known.Pages
}

// recall returns the entry that the parent has at the path, or nil, and an
// entry, if there is one, whose content is still that of the file: that one,
// or what a session stored that did not come to its end. Paths are asked for
// in order.
func (t *treeWriter) recall(ctx context.Context, path string, info fs.FileInfo) (old, known *ondisk.Entry, err error) {
	if old, err = t.parentEntry(path); err != nil {
		return nil, nil, err
	}
	same := func(e *ondisk.Entry) bool { return t.w.reuse.same(e, info) }
	if old != nil && same(old) {
		ok := t.w.trusted
		if !ok {
			if ok, err = t.w.intact(ctx, old); err != nil {
				return old, nil, err
			}
		}
		if ok {
			return old, old, nil
		}
	}
	known, err = t.resume(ctx, path, same)
	return old, known, err
}

// intact reports whether everything that an entry refers to can be referred
// to by this session, one by one.
func (w *Writer) intact(ctx context.Context, e *ondisk.Entry) (bool, error) {
	ok, err := w.intactMap(ctx, ondisk.KindData, e.Extents, e.Map)
	if ok && e.Pages != nil {
		ok, err = w.intactMap(ctx, ondisk.KindPages, e.Pages.Extents, e.Pages.Map)
	}
	if err = malformed(err); errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return ok, err
}

func (w *Writer) intactMap(ctx context.Context, kind ondisk.Kind, list []ondisk.Slice, root *ondisk.Root) (bool, error) {
	if root == nil {
		return w.usable(kind, list), nil
	}
	ok := true
	node := func(id ondisk.ID) bool {
		l, found := w.find(id)
		ok = ok && found && l.Entry.Kind == ondisk.KindExtent
		return ok
	}
	err := tree.New(*root, w.r.loader.node(ondisk.KindExtent)).Walk(ctx, node, func(rec tree.Record) error {
		d := ondisk.NewDecoder(rec.Value)
		s := d.Slice()
		ok = ok && w.usable(kind, []ondisk.Slice{s})
		return d.Done()
	})
	return ok, err
}

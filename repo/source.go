// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// job is an entry of a volume on its way from the walk to the tree.
type job struct {
	path  string
	entry *ondisk.Entry
	old   *ondisk.Entry // what the parent has at the path, or nil
	info  fs.FileInfo
	// inherited says that the content is that of the parent, as it is.
	inherited bool
	file      *os.File // of files with content, until it is read
	// read, if set, reads the content in place of file.
	read func(ctx context.Context, large **pager) error
	// done is closed when the content is read, with small set, or err, or the
	// entry complete.
	done  chan struct{}
	small []byte // content of a small file
	err   error
}

// walker lists a directory tree in path order. It trusts nothing that it finds
// there: it goes down by handles of single components, follows no symbolic
// link, opens nothing but regular files and directories, and checks that it
// got what it saw.
type walker struct {
	emit func(*job) error
	// recall returns what the parent has at the path, and an entry, if there is
	// one, whose content is still that of the file there.
	recall  func(path string, info fs.FileInfo) (old, known *ondisk.Entry, err error)
	reuse   Reuse
	links   map[fileID]firstName // of files with several
	device  uint64
	skipped int64
}

// fileID identifies a file on this machine, as long as it is there.
type fileID struct{ dev, ino uint64 }

// firstName is the path under which a file was found first, and what it was then.
type firstName struct {
	path    string
	size    int64
	modTime time.Time
}

// walk lists what is at the local path, a directory or a file.
func (w *walker) walk(local string) error {
	info, err := os.Lstat(local)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		dir, err := os.OpenRoot(filepath.Dir(local))
		if err != nil {
			return err
		}
		defer dir.Close()
		return plain(w.entry(dir, filepath.Base(local), ".", info))
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %q is neither a directory nor a file", fs.ErrInvalid, local)
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return err
	}
	defer root.Close()
	now, err := root.Stat(".")
	if err != nil {
		return err
	}
	if !same(info, now) {
		return fmt.Errorf("%q: %w", local, errExchanged)
	}
	w.device = stat(now).id.dev
	return plain(w.directory(root, ".", now))
}

// plain returns the error of a volume's root, which must not vanish.
func plain(err error) error {
	if lost, ok := errors.AsType[*lostError](err); ok {
		return lost.err
	}
	return err
}

func (w *walker) directory(root *os.Root, at string, info fs.FileInfo) error {
	d, err := root.Open(".")
	if err != nil {
		return &lostError{err}
	}
	defer d.Close()
	e := newEntry(ondisk.TypeDir, info)
	if e.Xattrs, err = readXattrs(d); err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	var names []string
	if stat(info).id.dev == w.device { // or else a file system is mounted here: an empty directory
		names, err = d.Readdirnames(-1)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &lostError{err}
	}
	if err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	if err := w.emit(&job{path: at, entry: e}); err != nil {
		return err
	}
	slices.Sort(names)
	names = slices.Compact(names) // a directory that changes may list a name twice
	for _, name := range names {
		p := path.Join(at, name)
		if !ondisk.ValidName(name) || !ondisk.ValidPath(p) {
			return fmt.Errorf("%w: path %q is too long or too deep", fs.ErrInvalid, p)
		}
		if err := w.settle(root, name, p); err != nil {
			return err
		}
	}
	return nil
}

// maxLooks bounds how often an entry is looked at that is exchanged while we
// do. One that never holds still counts as vanished.
const maxLooks = 8

// settle stores what is at the name now, in a volume that may be live.
func (w *walker) settle(dir *os.Root, name, at string) error {
	var last fs.FileInfo
	exchanged := false
	var failed error
	for range maxLooks {
		info, err := dir.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			w.skipped++ // removed since it was listed
			return nil
		}
		if err != nil {
			return err
		}
		exchanged = exchanged || last != nil && !same(last, info)
		last = info
		if failed = w.entry(dir, name, at, info); failed == nil {
			return nil
		}
		lost, ok := errors.AsType[*lostError](failed)
		if !ok {
			return failed
		}
		failed = lost.err
	}
	if exchanged || errors.Is(failed, errExchanged) || errors.Is(failed, fs.ErrNotExist) {
		w.skipped++
		return nil
	}
	return failed
}

// lostError says that an entry could not be opened as what it looked like.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }

var errExchanged = errors.New("it was exchanged for something else")

// same reports whether two looks at a name found the same thing.
func same(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.Mode().Type() == b.Mode().Type() }

// confirm makes sure that opened is what the name stands for, and not where a
// symbolic link led us that was there for a moment: os.Root follows links as
// long as they stay inside. Seen is what the name was before.
func confirm(dir *os.Root, name string, seen, opened fs.FileInfo) error {
	if same(seen, opened) {
		return nil
	}
	now, err := dir.Lstat(name)
	if err != nil {
		return &lostError{err}
	}
	if !same(now, opened) || opened.Mode().Type() != seen.Mode().Type() {
		return &lostError{errExchanged}
	}
	return nil
}

func (w *walker) entry(dir *os.Root, name, at string, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case fs.ModeDir:
		sub, err := dir.OpenRoot(name)
		if err != nil {
			return &lostError{err}
		}
		defer sub.Close()
		now, err := sub.Stat(".")
		if err != nil {
			return err
		}
		if err := confirm(dir, name, info, now); err != nil {
			return err
		}
		return w.directory(sub, at, now)
	case fs.ModeSymlink:
		target, err := dir.Readlink(name)
		if err != nil {
			return &lostError{err}
		}
		e := newEntry(ondisk.TypeSymlink, info)
		e.Target = target
		return w.emit(&job{path: at, entry: e})
	case 0:
		return w.file(dir, name, at, info)
	default:
		w.skipped++
		return nil
	}
}

func (w *walker) file(dir *os.Root, name, at string, seen fs.FileInfo) error {
	if first, ok := w.firstName(seen); ok {
		e := newEntry(ondisk.TypeLink, seen)
		e.Target = first
		return w.emit(&job{path: at, entry: e})
	}
	old, known, err := w.recall(at, seen)
	if err != nil {
		return err
	}
	if known != nil && sameStatus(known, seen) {
		e := newEntry(ondisk.TypeFile, seen)
		reuseContent(e, known)
		e.Xattrs = known.Xattrs // to change them changes the status
		w.link(seen, at)
		return w.emit(&job{path: at, entry: e, inherited: known == old})
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return &lostError{err}
	}
	j, err := w.open(dir, name, at, seen, f)
	if err == nil {
		if j.old = old; known != nil && w.reuse.same(known, j.info) {
			reuseContent(j.entry, known)
			j.inherited = known == old
		} else if j.info.Size() > 0 {
			j.file, j.done = f, make(chan struct{})
		}
		w.link(j.info, at)
		err = w.emit(j)
	}
	if err != nil || j.file == nil {
		_ = f.Close()
	}
	return err
}

// open makes the entry of a file that was opened, without its content.
func (w *walker) open(dir *os.Root, name, at string, seen fs.FileInfo, f *os.File) (*job, error) {
	now := time.Now()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := confirm(dir, name, seen, info); err != nil {
		return nil, err
	}
	e := newEntry(ondisk.TypeFile, info)
	e.Stat = w.reuse.fingerprint(info, now)
	if e.Xattrs, err = readXattrs(f); err != nil {
		return nil, fmt.Errorf("%q: %w", at, err)
	}
	return &job{path: at, entry: e, info: info}, nil
}

// link remembers the first path of a file with several.
func (w *walker) link(info fs.FileInfo, at string) {
	if s := stat(info); s.links > 1 {
		w.links[s.id] = firstName{at, info.Size(), info.ModTime()}
	}
}

// firstName returns the path under which a file was found already. In a volume
// that is live it may be gone, and another file have its inode.
func (w *walker) firstName(info fs.FileInfo) (string, bool) {
	s := stat(info)
	first, ok := w.links[s.id]
	same := ok && s.links > 1 && first.size == info.Size() && first.modTime.Equal(info.ModTime())
	return first.path, same
}

func newEntry(t ondisk.EntryType, info fs.FileInfo) *ondisk.Entry {
	s := stat(info)
	return &ondisk.Entry{Type: t, Mode: unixMode(info.Mode()), UID: s.uid, GID: s.gid, ModTime: info.ModTime().UTC()}
}

// unixMode returns the permission bits with setuid, setgid and sticky where
// stat(2) has them.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range []struct {
		from fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.from != 0 {
			mode |= b.unix
		}
	}
	return mode
}

// Put stores what is at the local path, a directory or a regular file, as a
// volume. It records modes, owners, modification times, user.* attributes,
// symbolic links, hard links within the volume, and holes, in files of more
// than 128 KiB in units of 16 KiB. It does not descend into other file systems
// mounted there.
//
// A file that changed is read whole, once. Of files of 1 MiB and more, only
// pages of 16 KiB that changed are stored, packed densely. Which files are
// read at all is for [WriteOptions].Reuse to say.
//
// The path should be a snapshot. If it is live, files that vanish meanwhile
// are left out and counted in Volume.Skipped, and a file that grows is read up
// to the size that it had when it was opened. Anything else that cannot be
// read is an error.
func (w *Writer) Put(ctx context.Context, volume, local string) error {
	if err := w.begin(volume); err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	t, err := w.newTreeWriter(ctx, volume)
	if err != nil {
		return fmt.Errorf("volume %q: %w", volume, err)
	}
	v, err := t.run(ctx, func(emit func(*job) error) (int64, error) {
		recall := func(path string, info fs.FileInfo) (old, known *ondisk.Entry, err error) {
			return t.recall(ctx, path, info)
		}
		walk := &walker{emit: emit, recall: recall, reuse: w.reuse, links: map[fileID]firstName{}}
		err := walk.walk(local)
		return walk.skipped, err
	})
	if err != nil {
		return fmt.Errorf("volume %q: %w", volume, err)
	}
	v.Name = volume
	w.done(v)
	return nil
}

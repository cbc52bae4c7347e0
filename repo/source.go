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

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// job is an entry of a volume on its way from the walk to the tree.
type job struct {
	path  string
	entry *ondisk.Entry
	file  *os.File // of files with content, until it is read
	// done is closed when the content is read, with small, extents or err set.
	done    chan struct{}
	small   []byte // content of a small file
	extents *extents
	err     error
}

// walker lists a directory tree in path order. It trusts nothing that it finds
// there: it goes down by handles of single components, follows no symbolic
// link, opens nothing but regular files and directories, and checks that it
// got what it saw.
type walker struct {
	emit    func(*job) error
	links   map[fileID]string // first paths of files with several names
	device  uint64
	skipped int64
}

// fileID identifies a file on this machine.
type fileID struct{ dev, ino uint64 }

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
		return w.entry(dir, filepath.Base(local), ".", info)
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %q is neither a directory nor a file", fs.ErrInvalid, local)
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err = root.Stat("."); err != nil {
		return err
	}
	w.device = stat(info).id.dev
	return w.directory(root, ".", info)
}

func (w *walker) directory(root *os.Root, at string, info fs.FileInfo) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	e := newEntry(ondisk.TypeDir, info)
	if e.Xattrs, err = readXattrs(d); err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	if err := w.emit(&job{path: at, entry: e}); err != nil {
		return err
	}
	if stat(info).id.dev != w.device {
		return nil // another file system is mounted here: an empty directory
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	slices.Sort(names)
	for _, name := range names {
		p := path.Join(at, name)
		if !ondisk.ValidName(name) || !ondisk.ValidPath(p) {
			return fmt.Errorf("%w: path %q is too long or too deep", fs.ErrInvalid, p)
		}
		info, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			w.skipped++ // removed since it was listed, in a live volume
			continue
		}
		if err != nil {
			return err
		}
		if err := w.entry(root, name, p, info); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(dir *os.Root, name, at string, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case fs.ModeDir:
		sub, err := dir.OpenRoot(name)
		if err != nil {
			return w.vanished(err)
		}
		defer sub.Close()
		now, err := sub.Stat(".")
		if err != nil {
			return err
		}
		return w.directory(sub, at, now)
	case fs.ModeSymlink:
		target, err := dir.Readlink(name)
		if err != nil {
			return w.vanished(err)
		}
		e := newEntry(ondisk.TypeSymlink, info)
		e.Target = target
		return w.emit(&job{path: at, entry: e})
	case 0:
		return w.file(dir, name, at)
	default:
		w.skipped++
		return nil
	}
}

func (w *walker) file(dir *os.Root, name, at string) error {
	f, err := dir.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return w.vanished(err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		if err == nil {
			w.skipped++ // exchanged for something else since it was listed
		}
		return err
	}
	e := newEntry(ondisk.TypeFile, info)
	if s := stat(info); s.links > 1 {
		if first, ok := w.links[s.id]; ok {
			e.Type, e.Target = ondisk.TypeLink, first
			_ = f.Close()
			return w.emit(&job{path: at, entry: e})
		}
		w.links[s.id] = at
	}
	if e.Xattrs, err = readXattrs(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("%q: %w", at, err)
	}
	if info.Size() == 0 {
		_ = f.Close()
		return w.emit(&job{path: at, entry: e})
	}
	if err := w.emit(&job{path: at, entry: e, file: f, done: make(chan struct{})}); err != nil {
		_ = f.Close()
		return err
	}
	return nil
}

// vanished turns the error of opening what a live volume no longer has into a
// count.
func (w *walker) vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		w.skipped++
		return nil
	}
	return err
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
		go_  fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.go_ != 0 {
			mode |= b.unix
		}
	}
	return mode
}

// Put stores what is at the local path, a directory or a regular file, as a
// volume. It records modes, owners, modification times, user.* attributes,
// symbolic links, hard links within the volume, and holes. It does not descend
// into other file systems mounted there.
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
		walk := &walker{emit: emit, links: map[fileID]string{}}
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

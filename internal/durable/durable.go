// SPDX-License-Identifier: Apache-2.0

// Package durable publishes files so that they survive a power cut: a name
// appears at once, with its complete content, and what was acknowledged stays.
//
// # Protocol
//
// A file is written under a temporary name ([IsTemp]), flushed, given its final
// name in one atomic step, and then the directory is flushed:
//
//   - create-once: link(2) of the temporary to the final name. The kernel makes
//     it fail if the name exists, also between processes, so exactly one of many
//     writers wins; the others get an error that matches [fs.ErrExist]. A file
//     system without hard links (vfat, exFAT, some FUSE) is served by a rename
//     that refuses to replace, where the operating system has one (Linux,
//     macOS). Where it has neither, the error matches [errors.ErrUnsupported]:
//     a lock file or O_EXCL on the final name would show incomplete content
//     after a crash, and stat-then-rename is not atomic.
//   - replace: rename(2).
//
// # Who may rely on what
//
// A writer that got nil, or [fs.ErrExist], may act on it: in both cases the
// directory was flushed after the name was seen, so the name survives a power
// cut. Without that flush the loser of a race could act on a winner that the
// power cut still takes back. For the same reason a removal that finds nothing
// flushes the directory too, and a new directory that another process has just
// made is flushed by everybody who uses it for the first time.
// An error of another kind after the name was given (the last flush failed) is
// ambiguous: the file may or may not be there after a crash, and says so.
//
// # Windows
//
// Directories can not be flushed there, so [Dir] skips that step: files are
// complete and create-once is atomic on NTFS, but whether the latest names
// survive a power cut is up to the journal of NTFS. The same is true of
// file systems that refuse to flush a directory (some SMB and FUSE mounts).
//
// Names are slash-separated and relative to the directory of the [Dir]. All
// functions and methods are safe for concurrent use, except those of one [File].
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

const tempPrefix = ".tmp-"

// IsTemp reports whether name (its last element) is the name of an unfinished
// file. Whoever lists a directory that this package writes must ignore these.
func IsTemp(name string) bool { return strings.HasPrefix(path.Base(name), tempPrefix) }

// Options are the settings of a [Dir]. Nil and zero values mean the defaults.
type Options struct {
	// TempDir is the directory of the temporary files, made when needed. It must
	// be on the same file system as all the files. The default is ".", the
	// directory itself.
	TempDir string
	// FileMode and DirMode are the permissions of new files and directories
	// before the umask. The defaults are 0600 and 0700.
	FileMode, DirMode fs.FileMode
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.TempDir == "" {
		c.TempDir = "."
	}
	if c.FileMode == 0 {
		c.FileMode = 0o600
	}
	if c.DirMode == 0 {
		c.DirMode = 0o700
	}
	return c
}

// Dir writes files below one directory.
type Dir struct {
	fsys FS
	opts Options

	mu struct {
		sync.Mutex
		settled map[string]bool // directories known to survive a power cut
	}
}

// NewDir returns a Dir over fsys, which stays the property of the caller.
func NewDir(fsys FS, opts *Options) *Dir {
	d := &Dir{fsys: fsys, opts: opts.withDefaults()}
	d.mu.settled = map[string]bool{}
	return d
}

// NewFile starts a file: nothing is visible under a final name until
// [File.Create] or [File.Replace]. The caller must end it with one of these or
// with [File.Discard]. An open File holds one descriptor.
func (d *Dir) NewFile() (*File, error) {
	f, err := d.newFile()
	if errors.Is(err, fs.ErrNotExist) && d.opts.TempDir != "." {
		// The directory needs no flush: after a crash nobody misses it.
		if err := d.fsys.Mkdir(d.opts.TempDir, d.opts.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("durable: make directory for temporary files: %w", err)
		}
		f, err = d.newFile()
	}
	if err != nil {
		return nil, fmt.Errorf("durable: open temporary file: %w", err)
	}
	return f, nil
}

func (d *Dir) newFile() (*File, error) {
	temp := path.Join(d.opts.TempDir, tempPrefix+strings.ToLower(rand.Text()))
	w, err := d.fsys.CreateExclusive(temp, d.opts.FileMode)
	if err != nil {
		return nil, err
	}
	return &File{d: d, w: w, temp: temp}, nil
}

// Remove removes the file name for good. If there is none, the error matches
// [fs.ErrNotExist], and the absence survives a power cut all the same.
func (d *Dir) Remove(name string) error {
	err := d.fsys.Remove(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("durable: remove: %w", err)
	}
	// A missing directory needs no flush to keep a file of it absent.
	if serr := d.fsys.SyncDir(path.Dir(name)); serr != nil && !errors.Is(serr, fs.ErrNotExist) {
		return fmt.Errorf("durable: %q is removed, but its directory is not flushed: %w", name, serr)
	}
	if err != nil {
		return fmt.Errorf("durable: remove: %w", err)
	}
	return nil
}

// Sweep removes the temporary files whose last write is before t, which dead
// processes left behind, and returns their number. It touches no other file. A
// living writer that loses its file to a sweep gets an error, never a damaged
// file. A directory for temporary files that does not exist yet is no error.
func (d *Dir) Sweep(t time.Time) (int, error) {
	infos, err := d.fsys.ReadDir(d.opts.TempDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("durable: sweep: %w", err)
	}
	var n int
	var errs []error
	for _, info := range infos {
		if !IsTemp(info.Name()) || !info.Mode().IsRegular() || !info.ModTime().Before(t) {
			continue
		}
		err := d.fsys.Remove(path.Join(d.opts.TempDir, info.Name()))
		switch {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist): // else another sweeper was first
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("durable: sweep: %w", err)
	}
	return n, nil
}

// settle makes the directory dir, with its parents, and flushes what leads to
// it. Directories that exist are flushed as well when this Dir meets them for
// the first time: another process may be between its mkdir and its flush.
func (d *Dir) settle(dir string) error {
	if dir == "." {
		return nil
	}
	d.mu.Lock()
	known := d.mu.settled[dir]
	d.mu.Unlock()
	if known {
		return nil
	}
	parent := path.Dir(dir)
	if err := d.settle(parent); err != nil {
		return err
	}
	if err := d.fsys.Mkdir(dir, d.opts.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("durable: make directory: %w", err)
	}
	if err := d.fsys.SyncDir(parent); err != nil {
		return fmt.Errorf("durable: flush directory: %w", err)
	}
	d.mu.Lock()
	d.mu.settled[dir] = true
	d.mu.Unlock()
	return nil
}

func (d *Dir) unsettle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.mu.settled)
}

// CreateFile creates the file name with data, once: if it exists, the error
// matches [fs.ErrExist] and the file is untouched. The directory must exist.
func CreateFile(name string, data []byte) error {
	return inParent(name, func(d *Dir, base string) error {
		f, err := d.NewFile()
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			f.Discard()
			return err
		}
		return f.Create(base)
	})
}

// RemoveFile removes the file name. It is idempotent: a file or directory that
// is missing is no error.
func RemoveFile(name string) error {
	err := inParent(name, (*Dir).Remove)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// inParent runs fn on the directory of the operating system path name.
func inParent(name string, fn func(d *Dir, base string) error) (err error) {
	dir, base := splitPath(name)
	if base == "" || base == "." || base == ".." || IsTemp(base) {
		return fmt.Errorf("durable: %q names no file: %w", name, fs.ErrInvalid)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("durable: open directory: %w", err)
	}
	defer func() {
		if cerr := root.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("durable: close directory: %w", cerr)
		}
	}()
	return fn(NewDir(RootFS(root), nil), base)
}

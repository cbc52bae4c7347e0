// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteSyncCloser is an open file as an [FS] hands it out.
type WriteSyncCloser interface {
	io.WriteCloser
	// Sync returns when the content is on stable storage.
	Sync() error
}

// FS is what a [Dir] needs of a file system: every step of the protocol is one
// call, so that a test can record, fail or crash each of them. [RootFS] is the
// real one. Errors match the sentinels of package fs and [errors.ErrUnsupported].
type FS interface {
	CreateExclusive(name string, perm fs.FileMode) (WriteSyncCloser, error)
	Mkdir(name string, perm fs.FileMode) error
	Link(oldname, newname string) error
	Rename(oldname, newname string) error
	// RenameNoReplace must fail with fs.ErrExist, atomically, if newname exists.
	RenameNoReplace(oldname, newname string) error
	Remove(name string) error
	// SyncDir returns when the names in the directory are on stable storage.
	SyncDir(name string) error
	Lstat(name string) (fs.FileInfo, error)
	SameFile(name1, name2 string) (bool, error)
	ReadDir(name string) ([]fs.FileInfo, error)
}

// RootFS returns the FS of the tree below root. Links that lead out of it are
// refused by the root. The caller closes root when the FS is no longer used.
func RootFS(root *os.Root) FS { return rootFS{root} }

type rootFS struct{ root *os.Root }

func (r rootFS) CreateExclusive(name string, perm fs.FileMode) (WriteSyncCloser, error) {
	f, err := r.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err // not f: a nil *os.File in the interface would not be nil
	}
	return f, nil
}

func (r rootFS) Mkdir(name string, perm fs.FileMode) error { return r.root.Mkdir(name, perm) }
func (r rootFS) Link(oldname, newname string) error        { return r.root.Link(oldname, newname) }
func (r rootFS) Rename(oldname, newname string) error      { return r.root.Rename(oldname, newname) }
func (r rootFS) Remove(name string) error                  { return r.root.Remove(name) }
func (r rootFS) Lstat(name string) (fs.FileInfo, error)    { return r.root.Lstat(name) }

func (r rootFS) RenameNoReplace(oldname, newname string) error {
	return renameNoReplace(r.root, oldname, newname)
}

func (r rootFS) SameFile(name1, name2 string) (bool, error) {
	a, err := r.root.Lstat(name1)
	if err != nil {
		return false, err
	}
	b, err := r.root.Lstat(name2)
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

func (r rootFS) SyncDir(name string) error {
	f, err := r.root.Open(name)
	if err != nil {
		return err
	}
	err = SyncDir(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (r rootFS) ReadDir(name string) ([]fs.FileInfo, error) {
	sub, err := r.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Close() }()
	f, err := sub.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var infos []fs.FileInfo
	for _, n := range names {
		if info, err := sub.Lstat(n); err == nil { // else it vanished meanwhile
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// SyncDir flushes the open directory dir: afterwards the names in it survive a
// power cut. It does nothing where directories can not be flushed (Windows, and
// file systems that answer that they have no such operation).
func SyncDir(dir *os.File) error {
	if !canSyncDir {
		return nil
	}
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// MkdirAll makes the directory name, an operating system path, with its parents
// and flushes the names that lead to the new ones. perm is before the umask. If
// the directory exists, its name is flushed all the same, because another
// process may have made it just now; its parents were flushed before it was made.
func MkdirAll(name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	parent := filepath.Dir(name)
	info, err := os.Stat(name)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "durable: mkdir", Path: name, Err: syscall.ENOTDIR}
	case err == nil:
		err := syncPath(parent)
		if errors.Is(err, fs.ErrPermission) {
			return nil // we may not even list the parent, so we did not make it
		}
		return err
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = SyncDir(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func splitPath(name string) (dir, base string) {
	dir, base = filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	return dir, base
}

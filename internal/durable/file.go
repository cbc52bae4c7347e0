// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// File is a file that has no final name yet. It is not safe for concurrent use.
type File struct {
	d    *Dir
	w    WriteSyncCloser
	temp string
	err  error // the first failed write; nothing can be published after it
	done bool
}

// Write appends p. After an error the file can only be discarded: what follows
// a gap must never be published.
func (f *File) Write(p []byte) (int, error) {
	switch {
	case f.done:
		return 0, fs.ErrClosed
	case f.err != nil:
		return 0, f.err
	}
	n, err := f.w.Write(p)
	if err != nil {
		f.err = fmt.Errorf("durable: write: %w", err)
	}
	return n, f.err
}

// Create publishes the file as name if there is no such file, and ends it in
// any case. Exactly one of several concurrent calls for a name returns nil; the
// others return an error that matches [fs.ErrExist], after which the winner's
// file is durable too. See the package comment for file systems without links.
func (f *File) Create(name string) error {
	defer f.Discard()
	if err := f.d.settle(path.Dir(name)); err != nil {
		return err
	}
	// A look ahead spares the late writer the flush of data nobody will see.
	// It decides nothing: link does.
	if _, err := f.d.fsys.Lstat(name); err == nil && !f.done && f.err == nil {
		return f.d.lost(name)
	}
	return f.publish(name, f.d.createOnce)
}

// Replace publishes the file as name, replacing what is there in one step, and
// ends it in any case.
func (f *File) Replace(name string) error {
	defer f.Discard()
	if err := f.d.settle(path.Dir(name)); err != nil {
		return err
	}
	return f.publish(name, f.d.fsys.Rename)
}

// Discard ends a file that was not published and removes its traces. It does
// nothing to a file that has ended. What it can not remove is left to
// [Dir.Sweep], so it returns no error.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	_ = f.w.Close()
	_ = f.d.fsys.Remove(f.temp)
}

func (f *File) publish(name string, give func(temp, name string) error) error {
	switch {
	case f.done:
		return fs.ErrClosed
	case f.err != nil:
		return f.err
	}
	if err := f.flush(); err != nil {
		return err
	}
	defer func() { _ = f.d.fsys.Remove(f.temp) }() // gone after a rename
	err := give(f.temp, name)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed the directory, or a sweep took our file.
		f.d.unsettle()
		if err := f.d.settle(path.Dir(name)); err != nil {
			return err
		}
		err = give(f.temp, name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Not wrapped: to the caller it would read as "no such object".
		return fmt.Errorf("durable: the temporary file of %q was removed by somebody else", name)
	case errors.Is(err, fs.ErrExist):
		return f.d.lost(name)
	case err != nil:
		return fmt.Errorf("durable: publish: %w", err)
	}
	if err := f.d.fsys.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("durable: %q is in place, but its directory is not flushed: %w", name, err)
	}
	return nil
}

// flush brings the content to the disk. The close comes before the final name
// because network file systems report some write errors only then.
func (f *File) flush() error {
	f.done = true
	err := f.w.Sync()
	if cerr := f.w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = f.d.fsys.Remove(f.temp)
		return fmt.Errorf("durable: flush: %w", err)
	}
	return nil
}

// createOnce gives temp the name name, or returns an error that matches
// [fs.ErrExist] if the name is taken.
func (d *Dir) createOnce(temp, name string) error {
	err := d.fsys.Link(temp, name)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		// An NFS client repeats a request whose answer was lost, and is then
		// told that the link exists: its own.
		if same, serr := d.fsys.SameFile(temp, name); serr == nil && same {
			return nil
		}
		return err
	case !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission):
		return err
	}
	// EPERM is what Linux says where hard links do not exist.
	rerr := d.fsys.RenameNoReplace(temp, name)
	if rerr != nil && errors.Is(rerr, errors.ErrUnsupported) {
		// err is only told, not wrapped: this is no matter of permissions.
		return fmt.Errorf("this file system has neither hard links (%v) nor an exclusive rename: %w", err, rerr) //nolint:errorlint // told, not wrapped
	}
	return rerr
}

// lost makes the winner's name durable and returns the loser's error.
func (d *Dir) lost(name string) error {
	if info, err := d.fsys.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("durable: %q is taken by something that is not a regular file (%v)", name, info.Mode().Type())
	}
	if err := d.fsys.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("durable: %q exists, but its directory is not flushed: %w", name, err)
	}
	return &fs.PathError{Op: "durable: create", Path: name, Err: fs.ErrExist}
}

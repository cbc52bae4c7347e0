// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/durable"
)

const (
	stagingPrefix = ".protect-restore-"
	// cleanupTime bounds the removal of a failed restore.
	cleanupTime = 10 * time.Minute
	lostFound   = "lost+found"
)

// staging is the directory in which a restore is built.
type staging struct {
	parent *os.Root // the directory that holds it
	name   string   // in parent
	root   *os.Root // the staging directory
	file   *os.File // the same: what is locked, and flushed
	info   fs.FileInfo
	// inside says that parent is the target itself, which will be filled.
	inside bool
	target string      // otherwise, the name of the target in parent
	perm   fs.FileMode // and its permissions, if it exists
	done   bool
}

// openStaging makes a staging directory for a target that does not exist or is
// an empty directory.
func openStaging(ctx context.Context, target string) (*staging, error) {
	if target == "" {
		return nil, fmt.Errorf("%w: no target", fs.ErrInvalid)
	}
	abs, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent, err := os.OpenRoot(filepath.Dir(abs))
		if err != nil {
			return nil, fmt.Errorf("directory of the target: %w", err)
		}
		s := &staging{parent: parent, target: filepath.Base(abs), perm: 0o700}
		return s, s.make()
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("target %q is not a directory: %w", abs, fs.ErrExist)
	}
	return stageExisting(ctx, abs, info)
}

func stageExisting(ctx context.Context, abs string, info fs.FileInfo) (*staging, error) {
	dir, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	now, err := dir.Stat(".")
	if err == nil && !os.SameFile(info, now) {
		err = errExchanged(abs)
	}
	if err == nil {
		err = checkEmpty(ctx, dir)
	}
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("target: %w", err)
	}
	if replaceable(dir, abs, now) {
		if parent, err := os.OpenRoot(filepath.Dir(abs)); err == nil {
			s := &staging{parent: parent, target: filepath.Base(abs), perm: now.Mode().Perm()}
			if err = s.make(); err == nil {
				_ = dir.Close()
				return s, nil
			}
		}
		// Not our directory, so that we cannot replace what is in it.
	}
	s := &staging{parent: dir, inside: true}
	return s, s.make()
}

// replaceable reports whether an empty directory can be replaced by a rename.
func replaceable(dir *os.Root, abs string, info fs.FileInfo) bool {
	parent, err := os.Lstat(filepath.Dir(abs))
	if err != nil || !canReplace || !sameDevice(parent, info) {
		return false
	}
	f, err := dir.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	mount, err := isMount(f)
	if err != nil || mount {
		return false
	}
	_, err = dir.Lstat(lostFound) // the root of a file system, however it got here
	return errors.Is(err, fs.ErrNotExist)
}

// checkEmpty fails if something is in the directory, but for what dead restores
// left in it and a lost+found directory.
func checkEmpty(ctx context.Context, dir *os.Root) error {
	if _, err := sweep(ctx, dir); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	names, err := list(dir, 2)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == lostFound {
			if info, err := dir.Lstat(name); err == nil && info.IsDir() {
				continue
			}
		}
		return fmt.Errorf("%q is not empty, it has %q: %w", dir.Name(), name, fs.ErrExist)
	}
	return nil
}

// list returns the names in a directory, about n at most unless it is negative.
func list(dir *os.Root, n int) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(n)
	if n > 0 && len(names) == 0 {
		return nil, nil // io.EOF
	}
	return names, err
}

// make makes the directory, opens and locks it. After an error there is none,
// and s is closed.
func (s *staging) make() (err error) {
	defer func() {
		if err != nil {
			s.closeFiles()
		}
	}()
	s.name = stagingPrefix + strings.ToLower(rand.Text())
	if s.root, err = makeDir(s.parent, s.name); err != nil {
		return err
	}
	s.file, err = s.root.Open(".")
	if err == nil {
		s.info, err = s.file.Stat()
	}
	if err == nil {
		var held bool
		if held, err = lock(s.file); held {
			err = errExchanged(s.name) // a sweep was faster than we
		}
		if errors.Is(err, errors.ErrUnsupported) {
			err = nil // then nobody can sweep it, either
		}
	}
	if err == nil {
		err = s.check(s.name) // a sweep may also have come and gone
	}
	if err != nil {
		_ = s.parent.Remove(s.name)
	}
	return err
}

// check fails if the name is no longer that of the staging directory.
func (s *staging) check(name string) error {
	now, err := s.parent.Lstat(name)
	if err == nil && !os.SameFile(s.info, now) {
		err = errExchanged(name)
	}
	return err
}

// commit lets finish give the directory its metadata and makes it the target.
func (s *staging) commit(ctx context.Context, finish func(*os.Root, *os.File) error, sync bool) error {
	if s.inside {
		return s.fill(ctx, finish, sync)
	}
	if err := setMode(s.file, s.perm); err != nil { // finish may know better
		return err
	}
	if err := finish(s.root, s.file); err != nil {
		return err
	}
	if sync {
		if err := syncAll(s.file); err != nil {
			return err
		}
	}
	if err := s.check(s.name); err != nil {
		return err
	}
	if !canReplace { // nor rename what is open
		s.closeDir()
	}
	if err := replaceDir(s.parent, s.name, s.target); err != nil {
		return err
	}
	s.done = true
	if err := s.check(s.target); err != nil {
		return err
	}
	return s.syncParent(sync)
}

func (s *staging) syncParent(sync bool) error {
	if !sync {
		return nil
	}
	f, err := s.parent.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return durable.SyncDir(f)
}

// fill moves what is in the staging directory into the target, or nothing.
func (s *staging) fill(ctx context.Context, finish func(*os.Root, *os.File) error, sync bool) error {
	if sync {
		if err := syncAll(s.file); err != nil {
			return err
		}
	}
	if err := s.check(s.name); err != nil {
		return err
	}
	names, err := list(s.root, -1)
	if err != nil {
		return err
	}
	for i, name := range names {
		err := ctx.Err()
		if err == nil {
			err = move(s.parent, path.Join(s.name, name), name)
		}
		if err != nil {
			return errors.Join(err, s.unfill(names[:i]))
		}
	}
	s.closeDir()
	// Before the target gets its time, and a mode that may forbid it.
	if err := s.parent.Remove(s.name); err != nil {
		return errors.Join(err, s.unfill(names))
	}
	f, err := s.parent.Open(".")
	if err == nil {
		defer f.Close()
		err = finish(s.parent, f)
	}
	if err != nil {
		return errors.Join(err, s.unfill(names))
	}
	s.done = true
	if sync {
		return durable.SyncDir(f)
	}
	return nil
}

// unfill moves back what fill has moved.
func (s *staging) unfill(names []string) error {
	if err := s.parent.Mkdir(s.name, 0o700); err == nil {
		if s.info, err = s.parent.Lstat(s.name); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range names {
		// Nothing else is under the old name: the staging directory is ours.
		errs = append(errs, s.parent.Rename(name, path.Join(s.name, name)))
	}
	return errors.Join(errs...)
}

// move renames an entry to a name of root. It overwrites nothing but an empty
// directory, by a directory.
func move(root *os.Root, oldname, newname string) error {
	info, err := root.Lstat(oldname)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return moveDir(root, oldname, newname, info.Mode())
	}
	err = durable.RootFS(root).RenameNoReplace(oldname, newname)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := root.Link(filepath.FromSlash(oldname), newname); err != nil {
		return err
	}
	return root.Remove(filepath.FromSlash(oldname))
}

// moveDir moves a directory, which needs the right to write to it: its entry
// ".." changes.
func moveDir(root *os.Root, oldname, newname string, mode fs.FileMode) error {
	err := replaceDir(root, oldname, newname)
	if !errors.Is(err, fs.ErrPermission) || mode&0o200 != 0 {
		return err
	}
	if err := root.Chmod(oldname, mode|0o700); err != nil {
		return err
	}
	if err := replaceDir(root, oldname, newname); err != nil {
		return err
	}
	return root.Chmod(newname, mode)
}

// close removes what was not committed, and closes everything.
func (s *staging) close(ctx context.Context) error {
	defer s.closeFiles()
	if s.done {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := s.check(s.name)
	if err == nil {
		s.closeDir() // Windows does not remove what is open
		err = removeAll(ctx, s.parent, s.name)
	}
	if err != nil {
		return fmt.Errorf("staging directory %q in %q remains: %w", s.name, s.parent.Name(), err)
	}
	return nil
}

func (s *staging) closeDir() {
	if s.file != nil {
		_ = s.file.Close()
	}
	if s.root != nil {
		_ = s.root.Close()
	}
}

func (s *staging) closeFiles() {
	s.closeDir()
	_ = s.parent.Close()
}

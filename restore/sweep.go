// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// IsStaging reports whether a name is that of a staging directory. Such
// directories are beside the targets of restores, or in them where the targets
// cannot be replaced; while a restore runs they are in use.
func IsStaging(name string) bool { return strings.HasPrefix(name, stagingPrefix) }

// Sweep removes the staging directories that killed processes left in a
// directory, and returns their number. Those of restores that still run, on any
// host that shares the file system's locks, are left alone. The error matches
// errors.ErrUnsupported if the system or the file system has no locks and there
// are staging directories that may be in use.
func Sweep(ctx context.Context, dir string) (int, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("restore: sweep: %w", err)
	}
	defer root.Close()
	n, err := sweep(ctx, root)
	if err != nil {
		return n, fmt.Errorf("restore: sweep: %w", err)
	}
	return n, nil
}

func sweep(ctx context.Context, dir *os.Root) (int, error) {
	names, err := list(dir, -1)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, name := range names {
		if !IsStaging(name) {
			continue
		}
		gone, err := sweepOne(ctx, dir, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", name, err))
		}
		if gone {
			n++
		}
	}
	return n, errors.Join(errs...)
}

// sweepOne removes a staging directory unless it is in use.
func sweepOne(ctx context.Context, parent *os.Root, name string) (gone bool, err error) {
	info, err := parent.Lstat(name)
	if err != nil || !info.IsDir() {
		return false, ignoreGone(err)
	}
	if err := unlock(parent, name, info.Mode()); err != nil {
		return false, ignoreGone(err)
	}
	f, err := parent.Open(name)
	if err != nil {
		return false, ignoreGone(err)
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return false, err // exchanged: somebody is at work
	}
	if held, err := lock(f); held || err != nil {
		return false, err
	}
	// Its process is dead, unless it became a target since we opened it.
	if now, err := parent.Lstat(name); err != nil || !os.SameFile(info, now) {
		return false, ignoreGone(err)
	}
	return true, removeAll(ctx, parent, name)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// unlock makes a directory of ours accessible to us.
func unlock(parent *os.Root, name string, mode fs.FileMode) error {
	if mode&0o700 == 0o700 {
		return nil
	}
	return parent.Chmod(name, 0o700)
}

// removeBatch is how many names of a directory are read at once.
const removeBatch = 1000

// removeAll removes what has the name in parent, and everything below it, also
// where a directory's mode forbids it. It follows no links. That it is gone
// already is no error.
func removeAll(ctx context.Context, parent *os.Root, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := parent.Lstat(name)
	if err != nil {
		return ignoreGone(err)
	}
	if info.IsDir() {
		if err := unlock(parent, name, info.Mode()); err != nil {
			return ignoreGone(err)
		}
		dir, err := openDir(parent, name)
		if err != nil {
			return ignoreGone(err)
		}
		err = empty(ctx, dir)
		if cerr := dir.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return ignoreGone(parent.Remove(name))
}

func empty(ctx context.Context, dir *os.Root) error {
	for {
		names, err := list(dir, removeBatch)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := removeAll(ctx, dir, name); err != nil {
				return err
			}
		}
	}
}

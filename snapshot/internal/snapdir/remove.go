// SPDX-License-Identifier: Apache-2.0

package snapdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// MaxDepth is how deep a tree may be that RemoveAll is to remove. It bounds
// the open descriptors, one a level.
const MaxDepth = 512

// RemoveAll removes the tree name in parent, stopping when ctx is done. Unlike
// os.RemoveAll it gets through directories that their owner may not write. It
// follows no links.
func RemoveAll(ctx context.Context, parent *os.Root, name string) error {
	return removeAll(ctx, parent, name, 0)
}

func removeAll(ctx context.Context, parent *os.Root, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := parent.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fi, statErr := parent.Lstat(name)
	if errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	if statErr != nil || !fi.IsDir() {
		return err
	}
	if depth > MaxDepth {
		return fmt.Errorf("%q is nested too deep", name)
	}
	if fi.Mode().Perm()&0o700 != 0o700 {
		if err := parent.Chmod(name, 0o700); err != nil {
			return err
		}
	}
	if err := empty(ctx, parent, name, depth); err != nil {
		return err
	}
	if err := parent.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// empty removes everything in the directory name.
func empty(ctx context.Context, parent *os.Root, name string, depth int) error {
	root, err := parent.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		// Opened anew for each batch: whether a directory stream survives
		// removals is left to the file system.
		d, err := root.Open(".")
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(1024)
		d.Close()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := removeAll(ctx, root, n, depth+1); err != nil {
				return err
			}
		}
	}
}

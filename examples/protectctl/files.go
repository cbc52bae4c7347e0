// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// withFiles adds volumes that are regular files to a driver of directories. A
// file is copied into dir, by shared extents where the file system has them.
// Its mode, time and owner are kept, other attributes and holes are not.
type withFiles struct {
	driver.Provider // of directories
	dir             string
	files           snapshots
}

// Check implements driver.Provider.
func (w *withFiles) Check(ctx context.Context, vol driver.VolumeID) error {
	if !isFile(vol) {
		return w.Provider.Check(ctx, vol)
	}
	f, err := os.Open(string(vol))
	if err != nil {
		return err
	}
	return f.Close()
}

// Create implements driver.Provider.
func (w *withFiles) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	if !isFile(vol) {
		return w.Provider.Create(ctx, vol, id)
	}
	dir, err := os.MkdirTemp(w.dir, "file-")
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	l := &local{path: filepath.Join(dir, "data"), remove: remove}
	l.info = driver.SnapshotInfo{ID: id, Volume: vol, Created: time.Now(), Method: "copy"}
	err = copyFile(ctx, string(vol), l.path)
	if err == nil {
		var s driver.Snapshot
		if s, err = w.files.add(l); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, remove())
}

// List implements driver.Provider.
func (w *withFiles) List(ctx context.Context, prefix string) ([]driver.Snapshot, error) {
	dirs, err := w.Provider.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	files, err := w.files.List(ctx, prefix)
	return append(dirs, files...), err
}

func isFile(vol driver.VolumeID) bool {
	info, err := os.Lstat(string(vol))
	return err == nil && info.Mode().IsRegular()
}

// copyStep is how much is copied between two looks at the context, in bytes.
const copyStep = 4 << 20

// copyFile copies a regular file to a new one.
func copyFile(ctx context.Context, from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file any more: %w", from, fs.ErrInvalid)
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	for left := info.Size(); left > 0; left -= copyStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, min(left, copyStep)); err != nil {
			return fmt.Errorf("copy %q: %w", from, err)
		}
	}
	if err := chownLike(dst, info); err != nil {
		return err
	}
	return errors.Join(dst.Chmod(info.Mode()), os.Chtimes(to, time.Time{}, info.ModTime()))
}

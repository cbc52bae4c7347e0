// SPDX-License-Identifier: Apache-2.0

package snapdir

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckVolume checks that volume is the absolute, clean path of a directory,
// not a link to one, that is neither the store nor below it, and returns what
// Lstat says of it.
func (s *Store) CheckVolume(volume string) (fs.FileInfo, error) {
	if !filepath.IsAbs(volume) || filepath.Clean(volume) != volume {
		return nil, fmt.Errorf("the volume is not an absolute, clean path: %w", fs.ErrInvalid)
	}
	if len(volume) > MaxVolume {
		return nil, fmt.Errorf("the volume's path is longer than %d bytes: %w", MaxVolume, fs.ErrInvalid)
	}
	fi, err := os.Lstat(volume)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("the volume is not a directory: %w", fs.ErrInvalid)
	}
	inside, err := Inside(volume, s.dir)
	if err != nil {
		return nil, err
	}
	if inside {
		return nil, fmt.Errorf("the volume is in the folder of snapshots, %q: %w", s.dir, fs.ErrInvalid)
	}
	return fi, nil
}

// Inside reports whether path is dir or below it. It compares the directories
// themselves, so that links and mounts do not deceive it.
func Inside(path, dir string) (bool, error) {
	want, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	for {
		fi, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		if os.SameFile(fi, want) {
			return true, nil
		}
		up := filepath.Dir(path)
		if up == path {
			return false, nil
		}
		path = up
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package snapdir lays out snapshots in a folder, for the drivers that keep
// theirs there.
//
// A snapshot is a claim: a folder <dir>/<id>/<volume>, with the volume's name
// escaped. Making that folder is one atomic step that fails if it exists, so
// it decides who owns the pair, and the name alone says whose it is: there is
// no instant at which a crash leaves something that [Store.List] cannot name.
// What is in the folder is the driver's business.
//
// A name too long for one folder is continued in a folder below it, which is
// why names that end in "=" are not claims. Names that start with a dot, below
// <id>, are free for drivers.
package snapdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxPart is the number of bytes in one folder name.
	maxPart = 200
	// MaxVolume is the number of bytes that a volume's name may have.
	MaxVolume = 1024
)

// Store is a folder of snapshots. It is safe for concurrent use, also by
// several processes.
type Store struct{ dir string }

// Claim is a snapshot's folder.
type Claim struct {
	ID     string
	Volume string
	Path   string
}

// Open returns the store in dir, an absolute path of an existing folder.
func Open(dir string) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%q is not an absolute path: %w", dir, fs.ErrInvalid)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%q is not a directory: %w", dir, fs.ErrInvalid)
	}
	return &Store{dir: filepath.Clean(dir)}, nil
}

// Dir returns the path of the store.
func (s *Store) Dir() string { return s.dir }

// ID returns the path of the folder that holds all claims of id.
func (s *Store) ID(id string) string { return filepath.Join(s.dir, escapeID(id)) }

// Claim makes the folder for volume and id. The error matches fs.ErrExist if
// it is there already.
func (s *Store) Claim(id, volume string) (Claim, error) {
	parts := escape(volume)
	for range 100 {
		path := s.ID(id)
		err := os.Mkdir(path, 0o700)
		for _, p := range parts {
			if err != nil && !errors.Is(err, fs.ErrExist) {
				break
			}
			path = filepath.Join(path, p)
			err = os.Mkdir(path, 0o700)
		}
		// A parent vanishes if a claim beside ours is removed just now.
		if !errors.Is(err, fs.ErrNotExist) {
			return Claim{ID: id, Volume: volume, Path: path}, err
		}
		if _, gone := os.Stat(s.dir); gone != nil {
			return Claim{}, fmt.Errorf("the folder of snapshots is gone: %q", s.dir)
		}
	}
	return Claim{}, fmt.Errorf("claim %q of %q: the folder vanishes again and again", id, volume)
}

// NotTaken returns err, but so that it does not match fs.ErrExist, which to
// the callers of drivers means a taken id. Several failures of the system
// match it too, such as a directory that is not empty.
func NotTaken(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return errors.New(err.Error())
	}
	return err
}

// Remove removes the folder of c, which must be empty by now, and those above
// it that nobody else uses.
func (s *Store) Remove(c Claim) error {
	if err := os.Remove(c.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// It fails if the folder is not empty, and that is what ends it.
	for p := filepath.Dir(c.Path); p != s.dir && os.Remove(p) == nil; p = filepath.Dir(p) {
	}
	return nil
}

// List returns the claims whose id starts with prefix, ordered. Other things
// in the folder are ignored. Folders of an id without claims, which a process
// that died in Claim or in Remove left, are removed.
func (s *Store) List(ctx context.Context, prefix string) ([]Claim, error) {
	ids, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var claims []Claim
	for _, e := range ids {
		id, ok := unescapeID(e.Name())
		if !ok || !e.IsDir() || !strings.HasPrefix(id, prefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		below, err := s.Claims(id)
		if err != nil {
			return nil, err
		}
		if len(below) == 0 {
			prune(s.ID(id))
		}
		claims = append(claims, below...)
	}
	slices.SortStableFunc(claims, func(a, b Claim) int { return strings.Compare(a.ID, b.ID) })
	return claims, nil
}

// prune removes path and the folders in it as far as they are empty. If a claim
// is just being made there, it starts again.
func prune(path string) {
	entries, _ := os.ReadDir(path) // what cannot be read is not removed
	for _, e := range entries {
		if e.IsDir() && strings.HasSuffix(e.Name(), "=") {
			prune(filepath.Join(path, e.Name()))
		}
	}
	_ = os.Remove(path) // fails if it is not empty
}

// Claims returns the claims of id, ordered by folder name.
func (s *Store) Claims(id string) ([]Claim, error) {
	var claims []Claim
	var walk func(path, name string) error
	walk = func(path, name string) error {
		entries, err := os.ReadDir(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, e := range entries {
			if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			path, name := filepath.Join(path, e.Name()), name+e.Name()
			if cut, more := strings.CutSuffix(name, "="); more {
				err = errors.Join(err, walk(path, cut))
			} else if volume, ok := unescape(name); ok {
				claims = append(claims, Claim{ID: id, Volume: volume, Path: path})
			}
		}
		return err
	}
	err := walk(s.ID(id), "")
	return claims, err
}

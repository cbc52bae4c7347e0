// SPDX-License-Identifier: Apache-2.0

package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

// snap is the snapshot of a volume, complete or not. It changes nothing in
// itself, all state is in the file system.
type snap struct {
	store   *snapdir.Store
	claim   snapdir.Claim
	created time.Time
}

var (
	_ driver.Snapshot  = (*snap)(nil)
	_ driver.DirReader = (*snap)(nil)
)

// Info implements driver.Snapshot.
func (s *snap) Info() driver.SnapshotInfo {
	return driver.SnapshotInfo{
		ID:          s.claim.ID,
		Volume:      driver.VolumeID(s.claim.Volume),
		Created:     s.created,
		Method:      "btrfs snapshot",
		PointInTime: true,
	}
}

// link makes the view, which leads to the volume's directory in the snapshot
// to be.
func (s *snap) link(target string) error {
	rel, err := filepath.Rel(s.claim.Path, target)
	if err != nil {
		return err
	}
	return os.Symlink(rel, filepath.Join(s.claim.Path, viewName))
}

// place returns the folder that the snapshot is or was to be in, and the
// volume's path in it.
func (s *snap) place() (home, rel string, err error) {
	view, err := os.Readlink(filepath.Join(s.claim.Path, viewName))
	if err != nil {
		return "", "", err
	}
	home, rel, ok := strings.Cut("/"+view+"/", "/"+cutName+"/")
	if !ok {
		return "", "", fmt.Errorf("%q in %q leads nowhere", viewName, s.claim.Path)
	}
	return filepath.Join(s.claim.Path, home), filepath.Clean("./" + rel), nil
}

// open opens the snapshot, a subvolume, and returns the volume's path in it.
func (s *snap) open() (_ *os.File, rel string, err error) {
	home, rel, err := s.place()
	if err != nil {
		return nil, "", err
	}
	f, err := os.OpenFile(filepath.Join(home, cutName), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, "", err
	}
	ro, err := readOnly(f)
	if err == nil && !ro {
		err = errors.New("the snapshot was made writable")
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, rel, nil
}

// examine checks that the snapshot just made shows the volume, whose directory
// has that inode number: its path may have changed since it was resolved.
func (s *snap) examine(inode uint64) error {
	f, rel, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := below(f, rel, inode); err != nil {
		return err
	}
	s.created, err = created(f)
	return err
}

// when returns when the snapshot was made.
func (s *snap) when() (time.Time, error) {
	f, _, err := s.open()
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	return created(f)
}

// Ready implements driver.Snapshot.
func (s *snap) Ready(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	f, _, err := s.open()
	if err != nil {
		return false, gone(err)
	}
	return true, f.Close()
}

// Dir implements driver.DirReader.
func (s *snap) Dir(ctx context.Context) (string, func(context.Context) error, error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	f, rel, err := s.open()
	if err != nil {
		return "", nil, gone(err)
	}
	defer f.Close()
	path := filepath.Join(f.Name(), rel)
	return path, func(context.Context) error { return nil }, nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("btrfs: the snapshot is gone or partial: %w", fs.ErrNotExist)
	}
	return fmt.Errorf("btrfs: %w", err)
}

// Delete implements driver.Snapshot.
func (s *snap) Delete(ctx context.Context) error {
	unlock, err := lock(ctx, s.store.ID(s.claim.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("btrfs: delete: %w", err)
	}
	defer unlock()
	if err := s.remove(); err != nil {
		return fmt.Errorf("btrfs: delete: %w", err)
	}
	return nil
}

// remove removes the snapshot, if no other member of the group needs it, and
// then the claim. It runs under the lock, so that of the last two members one
// is the last.
func (s *snap) remove() error {
	home, _, err := s.place()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.store.Remove(s.claim) // there was no cut
	case err != nil:
		return err
	}
	shared, err := s.shared(home)
	if err != nil {
		return err
	}
	if !shared {
		if err := s.destroy(home); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.claim.Path, viewName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.store.Remove(s.claim)
}

// shared reports whether another claim needs the snapshot in home.
func (s *snap) shared(home string) (bool, error) {
	if home == s.claim.Path {
		return false, nil
	}
	claims, err := s.store.Claims(s.claim.ID)
	if err != nil {
		return false, err
	}
	for _, c := range claims {
		if c.Path == s.claim.Path {
			continue
		}
		other, _, err := (&snap{store: s.store, claim: c}).place()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if other == home {
			return true, nil
		}
	}
	return false, nil
}

// destroy removes the snapshot in home, and home if it is the group's.
func (s *snap) destroy(home string) error {
	d, err := os.Open(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := destroy(d, cutName); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if home == s.claim.Path {
		return nil
	}
	if err := os.Remove(home); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockWait is how long to wait before trying again. Locks are held for the
// few calls of one deletion.
const lockWait = 5 * time.Millisecond

// lock locks the folder path against other deletions, of all processes.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			f.Close()
			return nil, err
		}
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		t := time.NewTimer(lockWait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

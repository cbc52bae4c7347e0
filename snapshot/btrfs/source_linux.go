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

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

// source is a volume that can be snapshotted.
type source struct {
	volume string
	subvol *os.File // the root of the subvolume it is in
	rel    string   // its path below that, "." if it is the root
	inode  uint64   // its own inode number, the same in the snapshot
	id     identity // of the subvolume's root
}

// identity tells subvolumes apart: each has a device number of its own.
type identity struct{ device, inode uint64 }

func (s *source) close() { s.subvol.Close() }

// resolve finds the subvolume of volume, and checks that a snapshot of it
// would show what volume shows.
func resolve(ctx context.Context, store *snapdir.Store, volume string) (_ *source, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := store.CheckVolume(volume); err != nil {
		return nil, err
	}
	if inside, err := snapdir.Inside(store.Dir(), volume); err != nil || inside {
		if err == nil {
			err = fmt.Errorf("the folder of snapshots, %q, is in the volume: %w", store.Dir(), fs.ErrInvalid)
		}
		return nil, err
	}
	real, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := sameFS(f, store.Dir()); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	s := &source{volume: volume, inode: st.Ino}
	if err := s.findRoot(real, uint64(st.Dev)); err != nil { //nolint:unconvert // types differ between systems
		return nil, err
	}
	if err := s.verify(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// sameFS checks that f is on btrfs, and on the same one as dir.
func sameFS(f *os.File, dir string) error {
	ok, err := isBtrfs(f)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the volume is not on btrfs: %w", errors.ErrUnsupported)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	want, err := fsid(d)
	if err != nil {
		return err
	}
	got, err := fsid(f)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the volume is on another file system than the folder of snapshots, %q: %w", dir, errors.ErrUnsupported)
	}
	return nil
}

// findRoot walks up from path, which is on device, to its subvolume's root.
func (s *source) findRoot(path string, device uint64) error {
	for dir := path; ; dir = filepath.Dir(dir) {
		f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &st)
		if err == nil && uint64(st.Dev) == device && st.Ino == rootInode { //nolint:unconvert // types differ between systems
			s.subvol, s.id = f, identity{device, st.Ino}
			s.rel, err = filepath.Rel(dir, path)
			return err
		}
		f.Close()
		if err != nil {
			return err
		}
		if uint64(st.Dev) != device || dir == filepath.Dir(dir) { //nolint:unconvert // types differ between systems
			return fmt.Errorf("the root of the volume's subvolume cannot be reached from it, it is mounted elsewhere: %w", errors.ErrUnsupported)
		}
	}
}

// verify checks that the volume is at rel in its subvolume itself, and not
// mounted over it, and that no subvolumes are nested in it.
func (s *source) verify() error {
	if err := below(s.subvol, s.rel, s.inode); err != nil {
		return err
	}
	paths, err := nested(s.subvol)
	if err != nil {
		return fmt.Errorf("list nested subvolumes: %w", err)
	}
	for _, p := range paths {
		if s.rel == "." || strings.HasPrefix(p, s.rel+"/") {
			return fmt.Errorf("the subvolume %q is nested in the volume and would be missing in a snapshot: %w", p, errors.ErrUnsupported)
		}
	}
	return nil
}

// below checks that rel, below the directory root, is a directory with that
// inode number, reached through no link and no mount.
func below(root *os.File, rel string, inode uint64) error {
	fd, err := unix.Openat2(int(root.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("a mount is between the volume and its subvolume's root: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return &fs.PathError{Op: "openat2", Path: rel, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Ino != inode {
		return fmt.Errorf("%q is not the volume's directory", rel)
	}
	return nil
}

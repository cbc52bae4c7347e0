// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// clean removes what belongs to the process that was copied.
func (r *restoring) clean(context.Context) error {
	for _, name := range []string{"postmaster.pid", "postmaster.opts", "recovery.signal", "standby.signal", "backup_manifest", evidenceMap} {
		if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// The slots of the original would keep WAL here that nobody will ask for.
	return emptyDir(r.path("pg_replslot"), func(string) bool { return true })
}

// emptyDir removes what is in a directory, which need not exist.
func emptyDir(dir string, which func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if which(e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// links makes tablespaces, and pg_wal, lead to where they were restored to.
func (r *restoring) links(context.Context) error {
	for oid, place := range r.opts.Tablespaces {
		if err := relink(r.path("pg_tblspc/"+oid), place); err != nil {
			return err
		}
		if err := os.Chmod(place, 0o700); err != nil {
			return err
		}
	}
	if r.opts.WALVolume != "" {
		return relink(r.path(walDir), r.opts.WALVolume)
	}
	info, err := os.Lstat(r.path(walDir))
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil: // a link into the original, for which there is WAL to put in place
		err = os.Remove(r.path(walDir))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err == nil {
		err = os.Mkdir(r.path(walDir), 0o700)
	}
	return err
}

// relink replaces a link, or an empty directory, by a link.
func relink(name, target string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, name)
}

// label puts the files in place by which the server knows that it recovers from
// a backup. It comes first, so that a server that is started on half of our work
// fails for want of WAL, rather than recovering from the wrong place.
func (r *restoring) label(context.Context) error {
	if r.info.Method == MethodAtomic {
		return nil
	}
	if err := writeFile(r.path(evidenceLabel), r.info.Label); err != nil {
		return err
	}
	if len(r.opts.Tablespaces) > 0 {
		if err := writeFile(r.path(evidenceMap), r.tablespaceMap()); err != nil {
			return err
		}
	}
	if r.opts.RestoreCommand == "" {
		return nil
	}
	conf, err := os.ReadFile(r.path("postgresql.auto.conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	line := "restore_command = '" + strings.ReplaceAll(strings.ReplaceAll(r.opts.RestoreCommand, `\`, `\\`), "'", "''") + "'\n"
	if text := string(conf); !strings.HasSuffix(text, line) {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		if err := writeFile(r.path("postgresql.auto.conf"), []byte(text+line)); err != nil {
			return err
		}
	}
	return writeFile(r.path("recovery.signal"), nil)
}

// tablespaceMap is the map of the backup with the places of the restore: the
// server makes the links anew from it.
func (r *restoring) tablespaceMap() []byte {
	var b strings.Builder
	for oid, place := range r.opts.Tablespaces {
		fmt.Fprintf(&b, "%s %s\n", oid, strings.NewReplacer(`\`, `\\`, "\n", "\\\n", "\r", "\\\r").Replace(place))
	}
	return []byte(b.String())
}

// writeFile writes a file that survives a power failure.
func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// wal replaces the WAL segments in the copy of a backup, which were cut too
// early and perhaps in the middle of a write, by the ones that were kept.
func (r *restoring) wal(ctx context.Context) error {
	if r.info.Method == MethodAtomic {
		return nil
	}
	place := r.path(walDir)
	err := emptyDir(place, func(name string) bool {
		_, _, segment := segmentStart(strings.TrimSuffix(name, ".partial"), r.info.SegmentSize)
		return segment || name == "archive_status" || name == "summaries"
	})
	if err == nil {
		err = os.Mkdir(filepath.Join(place, "archive_status"), 0o700)
	}
	if err != nil || r.opts.WAL == nil {
		return err
	}
	for name := range segments(r.info.Timeline, r.info.Start, r.info.Stop, r.info.SegmentSize) {
		if err := errors.Join(ctx.Err(), copyFile(r.opts.WAL, name, place)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from fs.FS, name, dir string) error {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}

// own gives the files the owner and the mode that the server wants to see.
func (r *restoring) own(ctx context.Context) error {
	roots := []string{r.dir}
	if r.opts.WALVolume != "" {
		roots = append(roots, r.opts.WALVolume)
	}
	for _, place := range r.opts.Tablespaces {
		roots = append(roots, place)
	}
	if o := r.opts.Owner; o != nil {
		for _, root := range roots {
			if err := program.Give(ctx, root, program.Owner(*o)); err != nil {
				return err
			}
		}
	}
	return os.Chmod(r.dir, 0o700)
}

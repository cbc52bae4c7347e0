// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// RestoreOptions are what PrepareRestore may need to know.
type RestoreOptions struct {
	// Tool makes a data directory of a snapshot: the path of etcdutl, or before
	// version 3.6 of etcdctl. Required for a snapshot, and for nothing else.
	Tool string
	// DataDir and WALDir are where a snapshot is restored to; neither may exist,
	// or only as an empty directory. DataDir is required, WALDir is for a server
	// with --wal-dir. Of a cut at one instant, WALDir says where the WAL was
	// restored to, if it had a directory of its own, and DataDir is not used.
	DataDir, WALDir string
	// Name, InitialCluster, InitialClusterToken and AdvertisePeerURLs are the
	// settings of the member that is to start on a restored snapshot, by the names
	// that its flags have. Empty is the default of the tool: a cluster of one
	// member on this machine. A token of its own keeps the new cluster apart from
	// the old one, if members of that are still alive.
	Name, InitialCluster, InitialClusterToken, AdvertisePeerURLs string
	// BumpRevision is added to the revision, so that no client sees it go back,
	// and all of the history before is marked as compacted, so that they read
	// everything anew: what Kubernetes needs. The tool must be of version 3.5.6 or
	// newer. Verify cannot compare such a restore with the evidence: verify one
	// without.
	BumpRevision uint64
	// Owner is the user that the server runs as. The files become his; that takes
	// root. Nil leaves the owners alone.
	Owner *Owner
}

// PrepareRestore makes what was restored fit to be started. After NewSnapshot,
// dir is the restored directory of the snapshot: the file must be the one that
// the evidence is of, and is made a data directory. After NewAtomic, dir is the
// restored data directory, which must have a database and a write-ahead log.
//
// Files that do not fit are an error that matches ErrInconsistent, and are not
// changed. A snapshot that fails half way leaves nothing.
func PrepareRestore(ctx context.Context, dir string, evidence hooks.Evidence, opts *RestoreOptions) (*Info, error) {
	info, err := ParseEvidence(evidence)
	if err != nil {
		return nil, err
	}
	var o RestoreOptions
	if opts != nil {
		o = *opts
	}
	if info.Method == MethodSnapshot {
		err = restoreSnapshot(ctx, dir, info, &o)
	} else {
		o.DataDir = dir
		err = checkAtomic(layout{data: dir, wal: o.WALDir}, info)
	}
	if err == nil {
		err = own(ctx, &o)
	}
	if err != nil {
		return nil, fmt.Errorf("etcd: prepare restore: %w", err)
	}
	return info, nil
}

// checkAtomic checks that there is all that a recovery needs, and nothing that
// came after the cut.
func checkAtomic(l layout, info *Info) error {
	if err := l.check(ErrInconsistent); err != nil {
		return err
	}
	f, err := os.Open(l.db())
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	db, err := readDatabase(f, st.Size())
	if err != nil {
		return err
	}
	if rev := db.revision(); rev > info.LastRevision {
		return inconsistent("the database has revision %d, and the store had %d after the cut: it is another one, or was started since", rev, info.LastRevision)
	}
	return nil
}

// restoreSnapshot has the tool make a data directory.
func restoreSnapshot(ctx context.Context, dir string, info *Info, o *RestoreOptions) (err error) {
	if !filepath.IsAbs(o.Tool) || !filepath.IsAbs(o.DataDir) || o.WALDir != "" && !filepath.IsAbs(o.WALDir) {
		return errors.New("a snapshot needs RestoreOptions.Tool and DataDir, and all paths have to be absolute")
	}
	name := filepath.Join(dir, SnapshotFile)
	if err := checkSnapshot(ctx, name, info); err != nil {
		return err
	}
	for _, place := range []string{o.DataDir, o.WALDir} {
		if place == "" {
			continue
		}
		// Old versions of the tool want no directory at all.
		if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the place of the restore must be empty: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(o.DataDir))
			if o.WALDir != "" {
				err = errors.Join(err, os.RemoveAll(o.WALDir))
			}
		}
	}()
	var out program.Tail
	c := toolCommand(ctx, o.Tool, restoreArgs(name, o)...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(o.Tool), err, out.String())
	}
	return layout{data: o.DataDir, wal: o.WALDir}.check(ErrInconsistent)
}

// checkSnapshot checks that a file is the one that the evidence is of.
func checkSnapshot(ctx context.Context, name string, info *Info) error {
	size, sum, err := checkFile(ctx, name)
	if err != nil {
		return err
	}
	if size != info.Size || sum != info.SHA256 {
		return inconsistent("the snapshot has %d bytes and SHA-256 %s, and the evidence is of %d and %s", size, sum, info.Size, info.SHA256)
	}
	return nil
}

func restoreArgs(name string, o *RestoreOptions) []string {
	args := []string{"snapshot", "restore", name, "--data-dir=" + o.DataDir}
	for _, f := range []struct{ flag, value string }{
		{"wal-dir", o.WALDir},
		{"name", o.Name},
		{"initial-cluster", o.InitialCluster},
		{"initial-cluster-token", o.InitialClusterToken},
		{"initial-advertise-peer-urls", o.AdvertisePeerURLs},
	} {
		if f.value != "" {
			args = append(args, "--"+f.flag+"="+f.value)
		}
	}
	if o.BumpRevision > 0 {
		args = append(args, "--bump-revision="+strconv.FormatUint(o.BumpRevision, 10), "--mark-compacted")
	}
	return args
}

// own gives the files the owner and the mode that the server wants to see.
func own(ctx context.Context, o *RestoreOptions) error {
	for _, root := range []string{o.DataDir, o.WALDir} {
		if root == "" {
			continue
		}
		if o.Owner != nil {
			if err := program.Give(ctx, root, program.Owner(*o.Owner)); err != nil {
				return err
			}
		}
		if err := os.Chmod(root, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// RestoreOptions are what PrepareRestore may need to know.
type RestoreOptions struct {
	// Dirs say where each of Info.Dirs was restored to, by the same names, as
	// the server will see it. All have to be named, so that a restored server
	// never opens the files of the original by accident.
	Dirs map[string]string
	// Owner is the user that the server runs as. The files become his; that
	// takes root. Nil leaves the owners alone.
	Owner *Owner
}

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// PrepareRestore makes the restored data directory fit to be started: it checks
// that the files belong to the evidence and were cut when it says, by the
// checkpoint of the redo log, the binary log, and the name and number of every
// tablespace, and that none is missing. It removes what belongs to statements
// that were under way, as far as the server does not need it to clean up by
// itself, and temporary tables. The directory gets the mode 0700.
//
// Files that do not fit are an error that matches ErrInconsistent, and are not
// changed. It is idempotent, until the server is started.
func PrepareRestore(ctx context.Context, dir string, evidence hooks.Evidence, opts *RestoreOptions) (*Info, error) {
	r := &restoring{dir: dir}
	if opts != nil {
		r.opts = *opts
	}
	var err error
	if r.info, err = ParseEvidence(evidence); err != nil {
		return nil, err
	}
	r.info.restored = maps.Clone(r.opts.Dirs)
	for _, step := range []func(context.Context) error{r.checkOptions, r.checkFiles, r.clean, r.own} {
		if err := errors.Join(ctx.Err(), step(ctx)); err != nil {
			return nil, fmt.Errorf("mariadb: prepare restore: %w", err)
		}
	}
	return r.info, nil
}

// restoring is one restore at work.
type restoring struct {
	dir  string
	info *Info
	opts RestoreOptions
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// checkOptions checks that the caller said what is needed.
func (r *restoring) checkOptions(context.Context) error {
	for name, was := range r.info.Dirs {
		if !filepath.IsAbs(r.opts.Dirs[name]) {
			return fmt.Errorf("RestoreOptions.Dirs has no absolute path for %s, which was at %q", name, was)
		}
	}
	for name := range r.opts.Dirs {
		if _, ok := r.info.Dirs[name]; !ok {
			return fmt.Errorf("RestoreOptions.Dirs has %q, which the server had in its data directory, or not at all", name)
		}
	}
	return nil
}

// in returns where a setting leads to.
func (i *Info) in(dir, setting string) string {
	if p := i.restored[setting]; p != "" {
		return p
	}
	return dir
}

// checkFiles checks that this is the data directory of that server at that time.
func (r *restoring) checkFiles(ctx context.Context) error {
	i := r.info
	if _, err := os.Stat(filepath.Join(r.dir, "mysql")); err != nil {
		return fmt.Errorf("%w: this is no data directory: %w", ErrInconsistent, err)
	}
	redo, err := innodb.ReadRedo(filepath.Join(i.in(r.dir, "innodb_log_group_home_dir"), "ib_logfile0"))
	if err != nil {
		return fmt.Errorf("%w: redo log: %w", ErrInconsistent, err)
	}
	if redo.Checkpoint < i.CheckpointLSN {
		return inconsistent("the redo log has the checkpoint %d, that before the cut was %d: the files were cut too early, or are of another server", redo.Checkpoint, i.CheckpointLSN)
	}
	if redo.Checkpoint > i.StopLSN {
		return inconsistent("the redo log has the checkpoint %d, and the cut ended at %d: the files were cut too late, were started since, or are of another server", redo.Checkpoint, i.StopLSN)
	}
	if i.BinlogFile != "" {
		info, err := os.Stat(filepath.Join(i.in(r.dir, innodb.LogBin), i.BinlogFile))
		switch {
		case err != nil:
			return fmt.Errorf("%w: binary log: %w", ErrInconsistent, err)
		case info.Size() < i.BinlogPos:
			return inconsistent("the binary log %s has %d bytes, and the evidence %d", i.BinlogFile, info.Size(), i.BinlogPos)
		}
	}
	return r.checkSpaces(ctx)
}

// checkSpaces compares the tablespaces with those of the server.
func (r *restoring) checkSpaces(ctx context.Context) error {
	if err := innodb.Foreign(r.dir); err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	if r.info.Tablespaces == "" {
		return nil
	}
	spaces, numbered, err := innodb.Spaces(ctx, r.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	if innodb.DigestNames(spaces) != r.info.TablespaceNames {
		return inconsistent("the %d tablespaces do not have the names of the %d of the evidence: files are missing, or of another server", len(spaces), r.info.TablespaceCount)
	}
	if numbered && innodb.Digest(spaces) != r.info.Tablespaces {
		return inconsistent("the tablespaces have other numbers than the evidence says: they are of another server")
	}
	return nil
}

// clean removes what is left of statements. Tablespaces with such names are in
// InnoDB's dictionary, so that InnoDB removes them; so are the tables of its log
// of DDL.
func (r *restoring) clean(context.Context) error {
	if err := os.Remove(filepath.Join(r.dir, "ibtmp1")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(r.dir, "ddl_recovery.log")); err == nil {
		return nil
	}
	return innodb.RemoveLeftovers(r.dir)
}

// own gives the files the owner and the mode that the server wants to see.
func (r *restoring) own(ctx context.Context) error {
	if o := r.opts.Owner; o != nil {
		for _, root := range append(slices.Collect(maps.Values(r.opts.Dirs)), r.dir) {
			if err := program.Give(ctx, root, program.Owner(*o)); err != nil {
				return err
			}
		}
	}
	return os.Chmod(r.dir, 0o700)
}

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

	"github.com/stillpoint-go/protect/hooks"
)

// RestoreOptions are what PrepareRestore may need to know.
type RestoreOptions struct {
	// WAL has the segments that a Keeper stored, by their names; for
	// Directory, os.DirFS of it. Needed after NewBackup, unless there is a
	// RestoreCommand.
	WAL fs.FS
	// RestoreCommand is put into postgresql.auto.conf as restore_command, with
	// recovery.signal beside it: the server replays its archive, to the end or
	// to a target that is set like that, and goes on with a new timeline.
	// It is refused for a cut at one instant, which has no such recovery.
	RestoreCommand string
	// WALVolume is where the volume with the WAL was restored to, as the server
	// will see it, if pg_wal was a link or a mount of its own.
	WALVolume string
	// Tablespaces say where each tablespace was restored to, by OID, as the
	// server will see it. All have to be named, so that a restored server never
	// opens the files of the original by accident.
	Tablespaces map[string]string
	// Owner is the user that the server runs as. The files become his; that
	// takes root. Nil leaves the owners alone.
	Owner *Owner
}

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// PrepareRestore makes the restored data directory fit to be started: it checks
// that the files belong to the evidence, that they were cut when it says, and
// that the WAL reaches from where the recovery begins to where it ends; puts
// backup_label, tablespace_map and the WAL into place; and removes what belongs
// to the process that was copied: postmaster.pid, replication slots, signals of
// an earlier recovery. The directory gets the mode 0700.
//
// Files that do not fit are an error that matches ErrInconsistent, and are not
// changed. It is idempotent, until the server is started.
//
// Without RestoreCommand there is no recovery.signal: the server replays the WAL
// that is there and goes on with its timeline. A restored server that runs
// beside the original must not archive to the same place then.
func PrepareRestore(ctx context.Context, dir string, evidence hooks.Evidence, opts *RestoreOptions) (*Info, error) {
	r := &restoring{dir: dir}
	if opts != nil {
		r.opts = *opts
	}
	var err error
	if r.info, err = ParseEvidence(evidence); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{r.checkFiles, r.checkTimes, r.checkOptions, r.checkWAL, r.clean, r.label, r.links, r.wal, r.own} {
		if err := errors.Join(ctx.Err(), step(ctx)); err != nil {
			return nil, fmt.Errorf("postgres: prepare restore: %w", err)
		}
	}
	return r.info, nil
}

// restoring is one restore at work.
type restoring struct {
	dir  string
	info *Info
	opts RestoreOptions
	ctl  *control
}

func (r *restoring) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *restoring) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// checkFiles checks that this is the data directory of that server.
func (r *restoring) checkFiles(context.Context) error {
	b, err := os.ReadFile(r.path("PG_VERSION"))
	if err != nil {
		return fmt.Errorf("%w: this is no data directory: %w", ErrInconsistent, err)
	}
	if v, want := strings.TrimSpace(string(b)), fmt.Sprint(r.info.ServerVersion/10000); v != want {
		return inconsistent("the files are of version %.20q, and the evidence of %s", v, want)
	}
	if r.ctl, err = readControl(r.dir); err != nil {
		return err
	}
	if r.ctl.System != r.info.System {
		return inconsistent("the files are of system %s, and the evidence of %s", r.ctl.System, r.info.System)
	}
	if r.ctl.Timeline != r.info.Timeline {
		return inconsistent("the files are of timeline %d, and the evidence of %d", r.ctl.Timeline, r.info.Timeline)
	}
	return nil
}

// stateInProduction is what pg_control says of a server that runs.
const stateInProduction = 6

// checkTimes checks that the files were cut between the start and the stop.
func (r *restoring) checkTimes(context.Context) error {
	if r.ctl.State != stateInProduction {
		return inconsistent("pg_control is in state %d: the files are not those of a running server, or were started since", r.ctl.State)
	}
	if r.ctl.Checkpoint < r.info.Checkpoint {
		return inconsistent("pg_control has the checkpoint at %s, that before the cut was at %s: the files were cut too early", r.ctl.Checkpoint, r.info.Checkpoint)
	}
	if r.ctl.Checkpoint > r.info.Stop {
		return inconsistent("pg_control has a checkpoint at %s, and the cut ended at %s: the files were cut too late, or were started since", r.ctl.Checkpoint, r.info.Stop)
	}
	if r.info.Method == MethodAtomic && r.exists(evidenceLabel) {
		return inconsistent("there is a backup_label in a cut at one instant: it is that of somebody else's backup")
	}
	return nil
}

// checkOptions checks that the caller said what is needed.
func (r *restoring) checkOptions(context.Context) error {
	for oid := range r.info.Tablespaces {
		if p := r.opts.Tablespaces[oid]; !filepath.IsAbs(p) {
			return fmt.Errorf("RestoreOptions.Tablespaces has no absolute path for tablespace %s, which was at %q", oid, r.info.Tablespaces[oid])
		}
	}
	for oid := range r.opts.Tablespaces {
		if _, ok := r.info.Tablespaces[oid]; !ok {
			return fmt.Errorf("RestoreOptions.Tablespaces has tablespace %q, which the server had not", oid)
		}
	}
	if r.opts.WALVolume != "" && !filepath.IsAbs(r.opts.WALVolume) {
		return errors.New("RestoreOptions.WALVolume is not an absolute path")
	}
	if strings.ContainsAny(r.opts.RestoreCommand, "\n\r\x00") {
		return errors.New("RestoreOptions.RestoreCommand has more than one line")
	}
	if r.info.Method == MethodAtomic {
		if r.opts.RestoreCommand != "" || r.opts.WAL != nil {
			return fmt.Errorf("a cut at one instant recovers with its own WAL only: %w", errors.ErrUnsupported)
		}
		return nil
	}
	if r.opts.WAL == nil && r.opts.RestoreCommand == "" {
		return inconsistent("the WAL of the backup, from %s to %s, is needed: set RestoreOptions.WAL or RestoreCommand", r.info.Start, r.info.Stop)
	}
	return nil
}

// checkWAL checks that the WAL of the recovery is there.
func (r *restoring) checkWAL(context.Context) error {
	from, start, stop := r.opts.WAL, r.info.Start, r.info.Stop
	if r.info.Method == MethodAtomic {
		place := r.path(walDir)
		if r.opts.WALVolume != "" {
			place = r.opts.WALVolume
		} else if info, err := os.Lstat(place); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return errors.New("pg_wal is a link: RestoreOptions.WALVolume has to say where it was restored to")
		}
		// What was flushed before the cut must be there, and the checkpoint
		// that the recovery starts with.
		from, start, stop = os.DirFS(place), r.ctl.Redo, max(r.info.Start, r.ctl.Checkpoint+1)
	}
	if from == nil {
		return nil // the archive has it; the server fails if not
	}
	for name := range segments(r.info.Timeline, start, stop, r.info.SegmentSize) {
		if err := r.checkSegmentIn(from, name); err != nil {
			return fmt.Errorf("WAL from %s to %s: %w", start, stop, err)
		}
	}
	return nil
}

func (r *restoring) checkSegmentIn(from fs.FS, name string) (err error) {
	f, err := from.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != r.info.SegmentSize {
		return inconsistent("segment %s has %d bytes instead of %d", name, info.Size(), r.info.SegmentSize)
	}
	head := make([]byte, walHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	return checkSegment(head, name, r.info)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/snapshot"
)

// backupResult is what backup prints.
type backupResult struct {
	pointResult
	Skipped   int64    `json:"skipped"`   // sockets, devices, and files that vanished
	Doubts    []string `json:"doubts"`    // why the level is not higher
	FrozenMS  float64  `json:"frozen_ms"` // from the first freeze to the last thaw
	ElapsedMS float64  `json:"elapsed_ms"`
}

// backupFlags say what to do with the paths.
type backupFlags struct {
	freezeFlags
	name, id, require, staging, snapshot, parent string
	rehearse                                     bool
}

func (c *cli) backupCommand() *cobra.Command {
	f := &backupFlags{}
	cmd := &cobra.Command{
		Use:   "backup PATH…",
		Short: "Take a recovery point of folders, files, or - for stdin",
		Long: `Take a recovery point. Each PATH, a folder or a file, becomes a volume that is
named like its last element; "-" is the volume "stdin". What earlier points of
the same --name hold is not read into the repository again.

--hold, --freeze, --thaw and --held take a program with its arguments, which a
shell would understand the same way; none is used. Their working directory is /.
While the application is frozen the volumes are cloned into a staging directory,
by shared extents where the file system has them (btrfs, XFS), else as copies.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error { return c.backup(cmd.Context(), f, paths) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "name of the application (default: that of the first PATH)")
	fs.StringVar(&f.id, "id", "", "id of the recovery point; one that is there already is success (default: a new one)")
	fs.StringVar(&f.require, "require", "none", "weakest consistency to accept: none, crash-single, crash-group, filesystem-group or application")
	fs.StringVar(&f.staging, "staging", "", "directory for a hidden one with the snapshots (default: beside the first PATH)")
	fs.StringVar(&f.parent, "parent", parentNone, "auto does not read files that are unchanged since the last point of the name, by their times; none reads all")
	fs.StringVar(&f.snapshot, "snapshot", snapshotAuto, "how to cut: live (not at all), reflink or btrfs; auto is reflink if something freezes, else live")
	fs.BoolVar(&f.rehearse, "rehearse", false, "freeze and thaw, and say how long it took and what is missing; cut and store nothing")
	f.register(fs)
	return cmd
}

func (c *cli) backup(ctx context.Context, f *backupFlags, paths []string) error {
	start := time.Now()
	vols, stream, err := volumes(paths)
	if err != nil {
		return err
	}
	app, err := c.application(f, paths, vols)
	if err != nil {
		return err
	}
	if err := f.resolve(stream != "", app.Require); err != nil {
		return err
	}
	journal, err := f.openJournal()
	if err != nil {
		return err
	}
	if err := c.recoverFreezes(ctx, app, journal); err != nil {
		return err
	}
	return c.withRepository(ctx, func(ctx context.Context, r *repo.Repository) error {
		if stream != "" {
			p, err := c.backupStream(ctx, r, app, f, stream)
			if err != nil {
				return err
			}
			return c.printBackup(p, nil, time.Since(start))
		}
		return c.withProtector(ctx, r, app, journal, f, func(p *protect.Protector) error {
			if f.rehearse {
				return c.rehearse(ctx, p, app)
			}
			rp, err := p.Run(ctx, *app, f.id)
			if err != nil {
				return err
			}
			return c.printBackup(rp.Point, rp, time.Since(start))
		})
	})
}

// application returns what to protect.
func (c *cli) application(f *backupFlags, paths []string, vols []protect.Volume) (*protect.Application, error) {
	app := &protect.Application{Name: f.name, Volumes: vols, Window: f.window}
	if app.Name == "" {
		app.Name = baseName(paths[0])
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	if err := app.Require.UnmarshalText([]byte(f.require)); err != nil {
		return nil, fmt.Errorf("--require: %w", err)
	}
	var err error
	app.Members, err = f.members(command.Options{Logger: c.log})
	return app, err
}

// resolve settles the flags that depend on each other.
func (f *backupFlags) resolve(stream bool, require protect.Consistency) error {
	if f.id == "" {
		f.id = newID(time.Now())
	}
	if err := checkID(f.id); err != nil {
		return err
	}
	if f.snapshot == snapshotAuto {
		f.snapshot = snapshotLive
		if f.freezes() {
			f.snapshot = snapshotReflink
		}
	}
	switch f.snapshot {
	case snapshotLive, snapshotReflink, snapshotBtrfs:
	default:
		return fmt.Errorf("--snapshot %q: want auto, live, reflink or btrfs", f.snapshot)
	}
	switch f.parent {
	case parentAuto, parentNone:
	default:
		return fmt.Errorf("--parent %q: want auto or none", f.parent)
	}
	switch {
	case f.rehearse && !f.freezes():
		return errors.New("--rehearse needs something to freeze: --hold, or --freeze and --thaw")
	case f.freezes() && stream:
		return errors.New("stdin cannot be frozen: back it up without --hold, --freeze and --thaw")
	case f.freezes() && f.snapshot == snapshotLive:
		return errors.New("--snapshot live reads after the thaw: use reflink or btrfs with --hold, --freeze and --thaw")
	case stream && f.snapshot != snapshotLive:
		return fmt.Errorf("stdin cannot be cut: back it up without --snapshot %s", f.snapshot)
	case stream && require > protect.None:
		return fmt.Errorf("%w: stdin is of the level %s, --require is %s", protect.ErrConsistency, protect.None, require)
	}
	return nil
}

// The values of --parent.
const (
	parentAuto = "auto"
	parentNone = "none"
)

// reuse returns by what a file is known to be unchanged. The inodes and change
// times of clones are new each time.
func (f *backupFlags) reuse() repo.Reuse {
	switch {
	case f.parent == parentNone:
		return repo.ReuseNever
	case f.snapshot == snapshotReflink:
		return repo.ReuseByModTime
	default:
		return repo.ReuseByChangeTime
	}
}

// withProtector calls do with a Protector for the application.
func (c *cli) withProtector(ctx context.Context, r *repo.Repository, app *protect.Application, journal hooks.Journal, f *backupFlags, do func(*protect.Protector) error) (err error) {
	drv := snapshot.NewProvider(&live{}, nil)
	if f.snapshot != snapshotLive {
		parent := f.staging
		if parent == "" {
			parent = stagingParent(string(app.Volumes[0].ID))
		}
		s, err2 := c.openStaging(ctx, f.snapshot, parent)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, s.close()) }()
		drv = snapshot.NewProvider(s.driver, &snapshot.Options{Logger: c.log})
	}
	bar := c.newBar("backup")
	defer bar.close()
	p, err := protect.New(protect.Config{
		Repository: r, Snapshots: drv, Reuse: f.reuse(), Journal: journal, Logger: c.log,
		Events: &protect.Events{
			Progress: func(_ context.Context, _ protect.PhaseInfo, p repo.Progress) { bar.backup(p) },
		},
	})
	if err != nil {
		return err
	}
	return do(p)
}

// backup shows how far a session has come. Nobody knows how much there is.
func (b *bar) backup(p repo.Progress) {
	b.set(p.Bytes, 0, fmt.Sprintf("%d files, %s new", p.Files, size(p.New)))
}

// printBackup prints a point of the repository, and what was proven of it, if
// anything was.
func (c *cli) printBackup(p *repo.Point, rp *protect.RecoveryPoint, elapsed time.Duration) error {
	res := backupResult{pointResult: newPointResult(p), Doubts: []string{}, ElapsedMS: millis(elapsed)}
	if rp != nil {
		res.Doubts, res.FrozenMS = append(res.Doubts, rp.Doubts...), millis(rp.Frozen)
	}
	for _, v := range p.Volumes {
		res.Skipped += v.Skipped
	}
	return c.print(res, func(w io.Writer) {
		fmt.Fprintf(w, "id\t%s\n", text(res.ID))
		fmt.Fprintf(w, "name\t%s\n", text(res.Name))
		fmt.Fprintf(w, "level\t%s\n", text(res.Level))
		for _, d := range res.Doubts {
			fmt.Fprintf(w, "doubt\t%s\n", text(d))
		}
		if res.FrozenMS > 0 {
			fmt.Fprintf(w, "frozen\t%.1f ms\n", res.FrozenMS)
		}
		fmt.Fprintf(w, "size\t%s in %d files\n", size(res.Bytes), res.Files)
		if res.Skipped > 0 {
			fmt.Fprintf(w, "skipped\t%d without data, or vanished\n", res.Skipped)
		}
		fmt.Fprintf(w, "new\t%s, stored as %s\n", size(res.BytesNew), size(res.BytesStored))
		fmt.Fprintf(w, "took\t%s\n", elapsed.Round(time.Millisecond))
	})
}

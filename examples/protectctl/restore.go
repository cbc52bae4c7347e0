// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore"
)

// restoreResult is what restore prints.
type restoreResult struct {
	ID        string  `json:"id"`
	Target    string  `json:"target"` // absolute
	Files     int64   `json:"files"`
	Dirs      int64   `json:"dirs"`
	Bytes     int64   `json:"bytes"`
	ElapsedMS float64 `json:"elapsed_ms"`
	// Skipped lists the first hundred properties that the target could not
	// hold or that were not asked for.
	Skipped      []restore.Skip `json:"skipped"`
	SkippedTotal int64          `json:"skipped_total"`
	// Failed lists the first thousand entries that --partial left out.
	Failed      []restore.Failure `json:"failed"`
	FailedTotal int64             `json:"failed_total"`
}

// restoreFlags say what to restore.
type restoreFlags struct {
	path           string
	owner, partial bool
}

func (c *cli) restoreCommand() *cobra.Command {
	f := &restoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore POINT TARGET",
		Short: "Write a recovery point, or a part of it, to a directory",
		Long: `Write a recovery point to the directory TARGET, which must not exist or be empty. The content
of its only volume, or of the directory that --path selects, lands directly in
TARGET; of several volumes each gets a directory there. A single file lands in
TARGET under its name. TARGET is complete when it appears.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.restore(ctx, r, args[0], args[1], f)
			})
		},
	}
	cmd.Flags().StringVar(&f.path, "path", "", "restore this file or directory: VOLUME/path, or a path in the only volume")
	cmd.Flags().BoolVar(&f.owner, "owner", false, "restore owners, and the setuid, setgid and sticky bits that go with them")
	cmd.Flags().BoolVar(&f.partial, "partial", false, "of a damaged repository, restore what can be read, and list the rest; the exit status is 3 then")
	return cmd
}

func (c *cli) restore(ctx context.Context, r *repo.Repository, arg, target string, f *restoreFlags) error {
	start := time.Now()
	p, err := findPoint(ctx, r, arg)
	if err != nil {
		return err
	}
	if target == "" { // which Abs takes for the working directory
		return errors.New("there is no target")
	}
	if target, err = filepath.Abs(target); err != nil {
		return err
	}
	// What a killed restore left beside the target has no other finder.
	if _, err := restore.Sweep(ctx, filepath.Dir(target)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.log.Warn("cannot remove what an earlier restore left", "error", err)
	}
	bar := c.newBar("restore")
	opts := &restore.Options{
		Owners: f.owner, SpecialModes: f.owner, Partial: f.partial, Logger: c.log,
		Progress: func(p restore.Progress) {
			bar.set(p.Bytes, p.BytesTotal, fmt.Sprintf("restore: %d of %d files", p.Files, p.FilesTotal))
		},
	}
	rep, failed := restorePoint(ctx, r, p, target, f.path, opts)
	bar.close()
	if rep == nil {
		return failed
	}
	res := restoreResult{
		ID: p.ID, Target: target, Files: rep.Files, Dirs: rep.Dirs, Bytes: rep.Bytes, ElapsedMS: millis(time.Since(start)),
		Skipped: some(rep.Skipped), SkippedTotal: rep.SkippedTotal, Failed: some(rep.Failed), FailedTotal: rep.FailedTotal,
	}
	return errors.Join(failed, c.print(res, res.write))
}

// restorePoint restores what sub selects of a point, or all of it.
func restorePoint(ctx context.Context, r *repo.Repository, p *repo.Point, target, sub string, opts *restore.Options) (*restore.Report, error) {
	if sub == "" && len(p.Volumes) != 1 {
		return restore.Point(ctx, r, p, target, opts)
	}
	volume, within, err := selectPath(ctx, r, p, sub)
	if err != nil {
		return nil, err
	}
	opts.Path = within
	return restore.Volume(ctx, r, p, volume, target, opts)
}

// selectPath returns the volume and the path in it that sub stands for. In a
// point of one volume it may do without the volume's name.
func selectPath(ctx context.Context, r *repo.Repository, p *repo.Point, sub string) (volume, within string, err error) {
	sub = strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(sub)), "/")
	if len(p.Volumes) == 1 {
		only := p.Volumes[0].Name
		t, err := r.Tree(ctx, p, only)
		if err != nil {
			return "", "", err
		}
		if sub == "" {
			return only, ".", nil
		}
		if _, err := t.Entry(ctx, sub); !errors.Is(err, fs.ErrNotExist) {
			return only, sub, err
		}
	}
	volume, within, _ = strings.Cut(sub, "/")
	if within == "" {
		within = "."
	}
	if !slices.ContainsFunc(p.Volumes, func(v repo.Volume) bool { return v.Name == volume }) {
		return "", "", fmt.Errorf("path %q in point %q: %w", sub, p.ID, fs.ErrNotExist)
	}
	return volume, within, nil
}

// write writes the result for people.
func (r *restoreResult) write(w io.Writer) {
	fmt.Fprintf(w, "point\t%s\n", text(r.ID))
	fmt.Fprintf(w, "target\t%s\n", text(r.Target))
	fmt.Fprintf(w, "size\t%s in %d files and %d directories\n", size(r.Bytes), r.Files, r.Dirs)
	fmt.Fprintf(w, "took\t%s\n", time.Duration(r.ElapsedMS*float64(time.Millisecond)).Round(time.Millisecond))
	if r.SkippedTotal > 0 {
		fmt.Fprintf(w, "not restored\t%d properties\n", r.SkippedTotal)
		for _, s := range r.Skipped {
			fmt.Fprintf(w, "\t%s of %s in %s\n", text(s.What), text(s.Path), text(s.Volume))
		}
	}
	for _, l := range r.Failed {
		at := text(path.Join(l.Volume, l.Path))
		if l.Unlisted {
			at = "what comes after " + at
		}
		fmt.Fprintf(w, "LOST\t%s: %s\n", at, text(l.Reason))
	}
	if n := r.FailedTotal - int64(len(r.Failed)); n > 0 {
		fmt.Fprintf(w, "LOST\t%d more\n", n)
	}
}

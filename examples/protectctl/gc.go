// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// gcResult is what gc prints.
type gcResult struct {
	DryRun bool `json:"dry_run"`
	repo.CollectReport
}

func (c *cli) gcCommand() *cobra.Command {
	opts := &repo.CollectOptions{}
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Free what no recovery point needs any more",
		Long: `Free what no recovery point needs any more. It may run at any time, next to backups,
restores and itself. What is found to be garbage is deleted by this run or, while
a backup is at work that began before, by a later one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(opts.MaxDelete > 0 && opts.MaxDelete <= 1) {
				return fmt.Errorf("--max-delete %v: want more than 0 and at most 1", opts.MaxDelete)
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.gc(ctx, r, opts)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.DryRun, "dry-run", "n", false, "show what would be done, and do nothing")
	f.DurationVar(&opts.StaleAfter, "stale-after", 24*time.Hour, "give up backups that have stored nothing for so long; negative: all that are not done")
	f.Float64Var(&opts.MaxDelete, "max-delete", 0.5, "do nothing if more than this share of all packs is garbage; 1 is no limit")
	f.Float64Var(&opts.Repack, "repack", 0.5, "rewrite packs of which less than this share is in use; negative: none")
	return cmd
}

func (c *cli) gc(ctx context.Context, r *repo.Repository, opts *repo.CollectOptions) error {
	bar := c.newBar("gc")
	opts.Progress = func(phase string, done, total int64) { bar.set(done, total, "gc: "+phase) }
	rep, err := r.Collect(ctx, opts)
	bar.close()
	if err != nil {
		return err
	}
	res := gcResult{opts.DryRun, *rep}
	return c.print(res, func(w io.Writer) {
		for _, it := range res.Items {
			fmt.Fprintf(w, "%s\t%s\t%s\n", text(it.Action), text(it.Object), text(it.Reason))
		}
		verb := "deleted"
		if opts.DryRun {
			verb = "would be deleted"
		}
		fmt.Fprintf(w, "%d recovery points kept, %d packs, %d of them garbage, %d %s, %s freed, %s rewritten\n",
			res.Points, res.Packs, res.Condemned, res.Deleted, verb, size(res.Freed), size(res.Rewritten))
		if res.Remaining > 0 {
			fmt.Fprintf(w, "%d packs are left for a later run\n", res.Remaining)
		}
		if res.Fenced > 0 || res.Open > 0 {
			fmt.Fprintf(w, "%d backups given up, %d still at work\n", res.Fenced, res.Open)
		}
	})
}

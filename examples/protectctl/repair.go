// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// repairResult is what repair prints.
type repairResult struct {
	DryRun    bool          `json:"dry_run"`
	Restored  []string      `json:"restored"`  // the header or its copy
	Indexed   []string      `json:"indexed"`   // packs that the index knows again
	Condemned []string      `json:"condemned"` // packs that nobody relies on any more
	Rescued   int64         `json:"chunks_rescued"`
	Fetched   int64         `json:"chunks_fetched"` // of the replica
	Useless   []repo.Damage `json:"useless"`        // objects that --remove may remove
	Removed   []string      `json:"removed"`
	Points    []string      `json:"points"` // that cannot be restored as a whole
	Damage    []repo.Damage `json:"damage"` // that is left
}

func (c *cli) repairCommand() *cobra.Command {
	opts := &repo.RepairOptions{}
	var level, from, passwordFile string
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Repair what can be repaired",
		Long: `Look for damage and repair what can be repaired without the source. It may run at
any time; nothing that can be read becomes unreadable. The exit status is 3 if
damage is left: to back up the same content again brings back what is lost.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Level, err = verifyLevel(level); err != nil {
				return err
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				if from == "" {
					return c.repair(ctx, r, opts)
				}
				return c.withOther(ctx, from, passwordFile, func(ctx context.Context, replica *repo.Repository) error {
					opts.From = replica
					return c.repair(ctx, r, opts)
				})
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.DryRun, "dry-run", "n", false, "show what would be done, and do nothing")
	f.StringVar(&level, "level", "", "how deep to look: structure, metadata, data or full (default full)")
	f.StringVar(&from, "from", "", "URL of a replica of the bucket, to take lost content from")
	f.StringVar(&passwordFile, "from-password-file", "", "file with the password of the replica (default: the same password)")
	f.StringArrayVar(&opts.Remove, "remove", nil, "remove this object, one of those that repair calls useless")
	f.BoolVar(&opts.Offline, "offline", false, "nothing else uses the repository: needed to remove some objects")
	return cmd
}

func (c *cli) repair(ctx context.Context, r *repo.Repository, opts *repo.RepairOptions) error {
	bar := c.newBar("repair")
	opts.Progress = bar.verifying
	rep, err := r.Repair(ctx, opts)
	bar.close()
	if err != nil {
		return err
	}
	res := repairResult{
		DryRun: opts.DryRun, Restored: some(rep.Restored), Indexed: some(rep.Indexed), Condemned: some(rep.Condemned), Rescued: rep.Rescued, Fetched: rep.Fetched,
		Useless: some(rep.Useless), Removed: some(rep.Removed), Points: some(rep.Points), Damage: some(rep.Damage),
	}
	if err := c.print(res, res.write); err != nil {
		return err
	}
	if n := len(res.Damage); n > 0 || len(res.Points) > 0 {
		return fmt.Errorf("%w in %d places still", errDamage, n)
	}
	return nil
}

// write writes the result for people.
func (r *repairResult) write(w io.Writer) {
	list := func(what string, names []string) {
		for _, n := range names {
			fmt.Fprintf(w, "%s: %s\n", what, text(n))
		}
	}
	list("stored again", r.Restored)
	list("in the index again", r.Indexed)
	list("not relied on any more", r.Condemned)
	list("removed", r.Removed)
	for _, u := range r.Useless {
		fmt.Fprintf(w, "useless, may be removed: %s: %s\n", text(u.Object), text(u.Reason))
	}
	fmt.Fprintf(w, "%d chunks rescued, %d fetched\n", r.Rescued, r.Fetched)
	writeDamage(w, r.Damage)
	list("cannot be restored as a whole", r.Points)
	if len(r.Damage) == 0 && len(r.Points) == 0 {
		fmt.Fprintln(w, "no damage left")
	}
}

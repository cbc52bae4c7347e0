// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// errDamage reports that verify found damage, which it has printed.
var errDamage = errors.New("the repository is damaged")

// verifyResult is what verify prints.
type verifyResult struct {
	Level   repo.VerifyLevel `json:"level"`
	Points  int              `json:"points"`
	Objects int64            `json:"objects"` // checked
	Packs   int64            `json:"packs"`   // read whole
	Bytes   int64            `json:"bytes"`   // of objects that were read whole
	Damage  []repo.Damage    `json:"damage"`
	// Unindexed lists packs that the index does not know.
	Unindexed []string `json:"unindexed"`
	Unknown   []string `json:"unknown"` // objects of somebody else
}

func (c *cli) verifyCommand() *cobra.Command {
	var level, budget string
	var data bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that everything is complete and authentic",
		Long: `Check that everything is complete and authentic. Each level includes those before
it: structure reads no pack, metadata reads all directories and maps of files,
data also reads some packs whole, those that were not read for the longest time,
and full every byte. The exit status is 3 if something is damaged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := verifyOptions(level, budget, data)
			if err != nil {
				return err
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.verify(ctx, r, opts)
			})
		},
	}
	cmd.Flags().StringVar(&level, "level", "", "how deep to look: structure, metadata, data or full (default metadata)")
	cmd.Flags().StringVar(&budget, "budget", "", "how much to read with --level data, such as 20GiB (default a thirtieth of everything)")
	cmd.Flags().BoolVar(&data, "data", false, "the same as --level full")
	return cmd
}

func verifyOptions(level, budget string, data bool) (*repo.VerifyOptions, error) {
	opts := &repo.VerifyOptions{}
	if data && level != "" {
		return nil, errors.New("--data is --level full: use one of the two")
	}
	if data {
		level = string(repo.VerifyFull)
	}
	var err error
	if opts.Level, err = verifyLevel(level); err != nil {
		return nil, err
	}
	if budget == "" {
		return opts, nil
	}
	n, err := humanize.ParseBytes(budget)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return nil, fmt.Errorf("--budget %q: want a size such as 20GiB", budget)
	}
	if opts.Level != repo.VerifyData {
		return nil, errors.New("--budget is for --level data")
	}
	opts.Budget = int64(n) // checked
	return opts, nil
}

// verifyLevel returns the level of this name. The empty name is that of the
// default.
func verifyLevel(name string) (repo.VerifyLevel, error) {
	switch l := repo.VerifyLevel(name); l {
	case "", repo.VerifyStructure, repo.VerifyMetadata, repo.VerifyData, repo.VerifyFull:
		return l, nil
	default:
		return "", fmt.Errorf("--level %q: want structure, metadata, data or full", name)
	}
}

// verifying shows how far a verification has come.
func (b *bar) verifying(p repo.VerifyProgress) {
	b.set(p.Bytes, p.BytesTotal, fmt.Sprintf("verify: %d of %d objects", p.Objects, p.ObjectsTotal))
}

func (c *cli) verify(ctx context.Context, r *repo.Repository, opts *repo.VerifyOptions) error {
	bar := c.newBar("verify")
	opts.Progress = bar.verifying
	rep, err := r.Verify(ctx, opts)
	bar.close()
	if err != nil {
		return err
	}
	res := verifyResult{
		Level: rep.Level, Points: rep.Points, Objects: rep.Objects, Packs: rep.Packs, Bytes: rep.Bytes,
		Damage: some(rep.Damage), Unindexed: some(rep.Unindexed), Unknown: some(rep.Unknown),
	}
	if err := c.print(res, res.write); err != nil {
		return err
	}
	if len(res.Damage) > 0 {
		return fmt.Errorf("%w in %d places", errDamage, len(res.Damage))
	}
	return nil
}

// write writes the result for people.
func (v *verifyResult) write(w io.Writer) {
	fmt.Fprintf(w, "%d recovery points, %d objects checked, %d packs and %s read whole\n", v.Points, v.Objects, v.Packs, size(v.Bytes))
	for _, u := range v.Unknown {
		fmt.Fprintf(w, "not of this repository: %s\n", text(u))
	}
	for _, u := range v.Unindexed {
		fmt.Fprintf(w, "not in the index: %s\n", text(u))
	}
	writeDamage(w, v.Damage)
	if len(v.Damage) == 0 {
		fmt.Fprintln(w, "no damage")
	}
}

func writeDamage(w io.Writer, damage []repo.Damage) {
	for _, d := range damage {
		fmt.Fprintf(w, "DAMAGED: %s\n", text(d.Reason))
		if d.Object != "" {
			fmt.Fprintf(w, "  object %s\n", text(d.Object))
		}
		if d.Chunk != "" {
			fmt.Fprintf(w, "  chunk %s\n", text(d.Chunk))
		}
		for _, a := range d.Affects {
			fmt.Fprintf(w, "  affects %s\n", text(a))
		}
		if d.More > 0 {
			fmt.Fprintf(w, "  and about %d more\n", d.More)
		}
	}
}

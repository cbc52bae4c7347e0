// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// errDamage reports that verify found damage, which it has printed.
var errDamage = errors.New("the repository is damaged")

// verifyResult is what verify prints.
type verifyResult struct {
	Points  int           `json:"points"`
	Objects int64         `json:"objects"` // checked
	Bytes   int64         `json:"bytes"`   // of objects that were read whole
	Damage  []repo.Damage `json:"damage"`
	Unknown []string      `json:"unknown"` // objects of somebody else
}

func (c *cli) verifyCommand() *cobra.Command {
	var data bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that everything is complete and authentic",
		Long: `Check that everything is there, and with --data that every byte of it is what was
written. The exit status is 3 if something is damaged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.verify(ctx, r, data)
			})
		},
	}
	cmd.Flags().BoolVar(&data, "data", false, "read and check every byte")
	return cmd
}

func (c *cli) verify(ctx context.Context, r *repo.Repository, data bool) error {
	bar := c.newBar("verify")
	level := repo.VerifyMetadata
	if data {
		level = repo.VerifyFull
	}
	rep, err := r.Verify(ctx, &repo.VerifyOptions{Level: level, Progress: func(p repo.VerifyProgress) {
		bar.set(p.Bytes, p.BytesTotal, fmt.Sprintf("verify: %d of %d objects", p.Objects, p.ObjectsTotal))
	}})
	bar.close()
	if err != nil {
		return err
	}
	res := verifyResult{Points: rep.Points, Objects: rep.Objects, Bytes: rep.Bytes, Damage: rep.Damage, Unknown: rep.Unknown}
	if res.Damage == nil {
		res.Damage = []repo.Damage{}
	}
	if res.Unknown == nil {
		res.Unknown = []string{}
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
	fmt.Fprintf(w, "%d recovery points, %d objects checked, %s read whole\n", v.Points, v.Objects, size(v.Bytes))
	for _, u := range v.Unknown {
		fmt.Fprintf(w, "not of this repository: %s\n", text(u))
	}
	for _, d := range v.Damage {
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
	}
	if len(v.Damage) == 0 {
		fmt.Fprintln(w, "no damage")
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// statsResult is what stats prints.
type statsResult struct {
	repo.Usage
	// DedupRatio is how much can be restored for each byte that is stored.
	DedupRatio float64 `json:"dedup_ratio"`
}

func (c *cli) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show what the repository holds and takes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withRepository(cmd.Context(), c.stats)
		},
	}
}

func (c *cli) stats(ctx context.Context, r *repo.Repository) error {
	// If records are damaged, the others are counted all the same.
	u, damage := r.Usage(ctx)
	if u == nil {
		return damage
	}
	res := statsResult{Usage: *u}
	if u.Stored > 0 {
		res.DedupRatio = float64(u.Bytes) / float64(u.Stored)
	}
	err := c.print(res, func(w io.Writer) {
		fmt.Fprintf(w, "recovery points\t%d\n", u.Points)
		fmt.Fprintf(w, "restorable\t%s\n", size(u.Bytes))
		fmt.Fprintf(w, "stored\t%s in %d objects\n", size(u.Stored), u.Objects)
		fmt.Fprintf(w, "packs\t%d\n", u.Packs)
		fmt.Fprintf(w, "chunks\t%d\n", u.Chunks)
		fmt.Fprintf(w, "ratio\t%.2f\n", res.DedupRatio)
	})
	if err != nil {
		return err
	}
	return damage
}

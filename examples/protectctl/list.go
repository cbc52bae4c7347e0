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

func (c *cli) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all recovery points, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withRepository(cmd.Context(), c.list)
		},
	}
}

func (c *cli) list(ctx context.Context, r *repo.Repository) error {
	// If records are damaged, the others are listed all the same.
	points, damage := r.Points(ctx)
	if damage != nil && len(points) == 0 {
		return damage
	}
	res := make([]pointResult, 0, len(points))
	for _, p := range points {
		res = append(res, newPointResult(p))
	}
	err := c.print(res, func(w io.Writer) {
		fmt.Fprintln(w, "ID\tNAME\tTIME\tLEVEL\tFILES\tSIZE\tNEW\tSTORED")
		for _, p := range res {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", text(p.ID), text(p.Name),
				p.Time.Local().Format(time.DateTime), text(p.Level), p.Files, size(p.Bytes), size(p.BytesNew), size(p.BytesStored))
		}
	})
	if err != nil {
		return err
	}
	return damage
}

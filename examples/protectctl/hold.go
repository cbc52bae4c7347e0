// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// holdResult is what the commands below hold print.
type holdResult struct {
	ID      string   `json:"id"`
	Holders []string `json:"holders"` // that there are now
}

func (c *cli) holdCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Keep recovery points from being forgotten",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return fmt.Errorf("see %s --help", cmd.CommandPath()) },
	}
	cmd.AddCommand(
		c.holdSubcommand("add POINT", "Hold a recovery point until the same holder lets it go", (*repo.Repository).Hold),
		c.holdSubcommand("remove POINT", "End the hold of a holder on a recovery point", (*repo.Repository).Release),
		c.holdSubcommand("list POINT", "List who holds a recovery point", nil),
	)
	return cmd
}

// holdSubcommand returns a command that changes the holds of a point, if change
// is not nil, and prints them.
func (c *cli) holdSubcommand(use, short string, change func(*repo.Repository, context.Context, string, string) error) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				p, err := findPoint(ctx, r, args[0])
				if err != nil {
					return err
				}
				if change != nil {
					if err := change(r, ctx, p.ID, by); err != nil {
						return err
					}
				}
				holders, err := r.Holders(ctx, p.ID)
				if err != nil {
					return err
				}
				return c.print(holdResult{p.ID, some(holders)}, func(w io.Writer) {
					fmt.Fprintf(w, "%s\tis held by %s\n", text(p.ID), nobody(texts(holders)))
				})
			})
		},
	}
	if change != nil {
		cmd.Flags().StringVar(&by, "by", "", "who holds, such as \"case 4711\" (required)")
		_ = cmd.MarkFlagRequired("by") // it is there
	}
	return cmd
}

// nobody is who holds what nobody holds.
func nobody(holders string) string {
	if holders == "" {
		return "nobody"
	}
	return holders
}

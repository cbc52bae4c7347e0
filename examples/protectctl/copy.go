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

// copyResult is what copy prints.
type copyResult struct {
	Copied      []string `json:"copied"`
	Present     []string `json:"present"` // in the target already
	BytesNew    int64    `json:"bytes_new"`
	BytesStored int64    `json:"bytes_stored"`
}

func (c *cli) copyCommand() *cobra.Command {
	var to, passwordFile string
	cmd := &cobra.Command{
		Use:   "copy --to URL [POINT…]",
		Short: "Copy recovery points to another repository",
		Long: `Copy recovery points, or all of them, to another repository, the oldest first. What
is there already is neither copied nor read again; a copy that was interrupted is
continued by doing it again. Points that cannot be copied do not keep others from
it: if there are any, the exit status tells, and the result is printed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				ids := make([]string, 0, len(args))
				for _, arg := range args {
					p, err := findPoint(ctx, r, arg)
					if err != nil {
						return err
					}
					ids = append(ids, p.ID)
				}
				return c.withOther(ctx, to, passwordFile, func(ctx context.Context, dst *repo.Repository) error {
					return c.copy(ctx, r, dst, ids)
				})
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "URL of the other repository, which must be there (required)")
	cmd.Flags().StringVar(&passwordFile, "to-password-file", "", "file with its password (default: the same password)")
	_ = cmd.MarkFlagRequired("to") // it is there
	return cmd
}

func (c *cli) copy(ctx context.Context, r, dst *repo.Repository, ids []string) error {
	bar := c.newBar("copy")
	rep, failed := r.CopyTo(ctx, dst, ids, &repo.CopyOptions{Progress: func(id string, p repo.Progress) {
		bar.set(p.Bytes, 0, fmt.Sprintf("copy %s: %d files, %s new", text(id), p.Files, size(p.New)))
	}})
	bar.close()
	if failed != nil && len(rep.Copied)+len(rep.Present) == 0 {
		return failed
	}
	res := copyResult{Copied: some(rep.Copied), Present: some(rep.Present), BytesNew: rep.New, BytesStored: rep.Stored}
	err := c.print(res, func(w io.Writer) {
		for _, id := range res.Present {
			fmt.Fprintf(w, "present\t%s\n", text(id))
		}
		for _, id := range res.Copied {
			fmt.Fprintf(w, "copied\t%s\n", text(id))
		}
		fmt.Fprintf(w, "new\t%s, stored as %s\n", size(res.BytesNew), size(res.BytesStored))
	})
	return errors.Join(failed, err)
}

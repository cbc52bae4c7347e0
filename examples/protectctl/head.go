// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// headResult is what head prints.
type headResult struct {
	Head string `json:"head"`
}

func (c *cli) headCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "head",
		Short: "Print what stands for all that was committed and forgotten so far",
		Long: `Print a text that stands for all that was committed and forgotten so far. Keep it
outside of the bucket, and pass it to later commands with --head: they fail, with
exit status 3, if somebody has put the repository back to an earlier state.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				head, err := r.Head(ctx)
				if err != nil {
					return err
				}
				return c.print(headResult{head}, func(w io.Writer) { fmt.Fprintln(w, head) })
			})
		},
	}
}

// maxHead bounds a file with a head, in bytes.
const maxHead = 4096

// expectedHead returns the head that --head says.
func (c *cli) expectedHead() (string, error) {
	name, file := strings.CutPrefix(c.head, "@")
	if !file {
		return c.head, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("--head: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHead))
	head := strings.TrimSpace(string(b))
	if err == nil && head == "" {
		err = fmt.Errorf("%q is empty", name)
	}
	if err != nil {
		return "", fmt.Errorf("--head: %w", err)
	}
	return head, nil
}

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

// initResult is what init prints.
type initResult struct {
	ID string `json:"id"`
	// AtomicCreate says that the store lets exactly one of several creators of
	// an object win.
	AtomicCreate bool `json:"atomic_create"`
}

func (c *cli) initCommand() *cobra.Command {
	var kdf kdfFlag
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a repository in the bucket",
		Long: `Make a repository in the bucket, which must not hold one yet. Of a local directory
(dir://) the last element is made if it is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.init(cmd.Context(), kdf) },
	}
	kdf.register(cmd.Flags())
	return cmd
}

func (c *cli) init(ctx context.Context, kdf kdfFlag) (err error) {
	key, err := c.key()
	if err != nil {
		return err
	}
	if key, err = kdf.apply(key); err != nil {
		return err
	}
	bucket, err := c.newBucket(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	r, err := repo.Init(ctx, bucket, key, &repo.Options{Logger: c.log})
	if err != nil {
		return err
	}
	res := initResult{ID: r.ID(), AtomicCreate: r.AtomicCreate()}
	return c.print(res, func(w io.Writer) {
		fmt.Fprintf(w, "repository %s is ready\n", res.ID)
		if !res.AtomicCreate {
			fmt.Fprintln(w, "its store has no atomic create: do not give the same --id to two backups at the same time")
		}
	})
}

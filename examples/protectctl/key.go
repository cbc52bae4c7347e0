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

// keyResult is what key add and key remove print.
type keyResult struct {
	ID string `json:"id"` // of the slot
}

// rotateResult is what key rotate prints.
type rotateResult struct {
	Keys []repo.KeySlot `json:"keys"` // that open the repository now
}

func (c *cli) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage the passwords that open the repository",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return fmt.Errorf("see %s --help", cmd.CommandPath()) },
	}
	cmd.AddCommand(c.keyAddCommand(), c.keyRemoveCommand(), c.keyListCommand(), c.keyRotateCommand())
	return cmd
}

func (c *cli) keyAddCommand() *cobra.Command {
	var file string
	var kdf kdfFlag
	cmd := &cobra.Command{
		Use:   "add --new-password-file FILE",
		Short: "Let another password open the repository",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := c.newKey(file, kdf)
			if err != nil {
				return err
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				id, err := r.AddKey(ctx, key)
				if err != nil {
					return err
				}
				return c.print(keyResult{id}, func(w io.Writer) { fmt.Fprintf(w, "key %s opens the repository, too\n", id) })
			})
		},
	}
	cmd.Flags().StringVar(&file, "new-password-file", "", "file with the new password (required)")
	_ = cmd.MarkFlagRequired("new-password-file") // it is there
	kdf.register(cmd.Flags())
	return cmd
}

func (c *cli) keyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Keep a password from opening the repository",
		Long: `Remove a key, by the ID that key list shows; never the last one. Who has used it
may have kept what it opened: key rotate protects what is written from then on.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				if err := r.RemoveKey(ctx, args[0]); err != nil {
					return err
				}
				return c.print(keyResult{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "key %s is removed\n", text(args[0])) })
			})
		},
	}
}

func (c *cli) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys that open the repository",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				keys, err := r.Keys(ctx)
				if err != nil {
					return err
				}
				return c.print(some(keys), func(w io.Writer) { writeKeys(w, keys) })
			})
		},
	}
}

func (c *cli) keyRotateCommand() *cobra.Command {
	var file string
	var kdf kdfFlag
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Seal what is written from now on with a new secret",
		Long: `Seal what is written from now on with a new secret, which the password in use opens,
or a new one, and no other: all other keys are removed. Backups that are running
go on under the old secret.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := c.newKey(file, kdf)
			if err != nil {
				return err
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				if err := r.RotateKeys(ctx, key); err != nil {
					return err
				}
				keys, err := r.Keys(ctx)
				if err != nil {
					return err
				}
				return c.print(rotateResult{some(keys)}, func(w io.Writer) { writeKeys(w, keys) })
			})
		},
	}
	cmd.Flags().StringVar(&file, "new-password-file", "", "file with a new password (default: the one in use)")
	kdf.register(cmd.Flags())
	return cmd
}

// newKey returns the key for a new password, or for the one in use.
func (c *cli) newKey(file string, kdf kdfFlag) (repo.Key, error) {
	key, err := c.keyFrom(file)
	if err != nil {
		return key, err
	}
	return kdf.apply(key)
}

func writeKeys(w io.Writer, keys []repo.KeySlot) {
	fmt.Fprintln(w, "ID\tKIND\tNAME\tCREATED\tPROBLEM")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", text(k.ID), text(k.Kind), text(k.Name), k.Created.Local().Format(time.DateTime), text(k.Problem))
	}
}

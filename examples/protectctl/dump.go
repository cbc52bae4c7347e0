// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// dumpResult is what dump prints with --json.
type dumpResult struct {
	ID      string `json:"id"`
	Volume  string `json:"volume"`
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	Content []byte `json:"content"` // in base64
}

// maxDump bounds a file that is printed as JSON, in bytes.
const maxDump = 16 << 20

func (c *cli) dumpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dump POINT PATH",
		Short: "Write a file of a recovery point to stdout",
		Long: `Write the content of a file to stdout, and nothing else; PATH is VOLUME/path, or a
path in the only volume. If the exit status is not 0, what was written is not
the whole file. With --json the content, of at most 16 MiB, is a member of an
object, in base64.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.dump(ctx, r, args[0], args[1])
			})
		},
	}
}

func (c *cli) dump(ctx context.Context, r *repo.Repository, arg, sub string) error {
	p, err := findPoint(ctx, r, arg)
	if err != nil {
		return err
	}
	volume, within, err := selectPath(ctx, r, p, sub)
	if err != nil {
		return err
	}
	t, err := r.Tree(ctx, p, volume)
	if err != nil {
		return err
	}
	e, err := t.Entry(ctx, within)
	if err == nil && e.Type == repo.Link {
		e, err = t.Entry(ctx, e.Target) // the file under its first name
	}
	if err != nil {
		return err
	}
	if e.Type != repo.File {
		return fmt.Errorf("%q is a %s: %w", within, e.Type, fs.ErrInvalid)
	}
	if !c.json {
		_, err = t.WriteTo(ctx, c.stdout, e)
		return err
	}
	if e.Size > maxDump {
		return fmt.Errorf("%q has %d bytes, more than fit into JSON: use dump without --json", within, e.Size)
	}
	content := bytes.NewBuffer([]byte{}) // of an empty file: "", not null
	if _, err := t.WriteTo(ctx, content, e); err != nil {
		return err
	}
	return c.print(dumpResult{ID: p.ID, Volume: volume, Path: within, Size: e.Size, Content: content.Bytes()}, func(io.Writer) {})
}

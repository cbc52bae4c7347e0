// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/repo"
)

// backupStream stores stdin as a volume, beside the volumes of the
// application. A stream is read once and while the session is open, so that it
// is a session of the repository and not a snapshot of anything.
func (c *cli) backupStream(ctx context.Context, r *repo.Repository, app *protect.Application, f *backupFlags, name string) (*repo.Point, error) {
	bar := c.newBar("backup")
	defer bar.close()
	opts := repo.WriteOptions{ID: f.id, Name: app.Name, Reuse: f.reuse(), Level: protect.None.String(), Progress: bar.backup}
	return r.Write(ctx, opts, func(ctx context.Context, w *repo.Writer) error {
		for _, v := range app.Volumes {
			if err := w.Put(ctx, v.Name, string(v.ID)); err != nil {
				return err
			}
		}
		return w.PutStream(ctx, name, interruptible(ctx, c.stdin))
	})
}

// interruptible returns a reader of what r has, that fails when ctx ends. A
// call of r that never returns is left behind.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer stop()
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, 1<<20))
		_ = pw.CloseWithError(err)
	}()
	return pr
}

// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/repo"
)

// work does jobs until there are no more.
func (t *tree) work(ctx context.Context) error {
	for j := range t.jobs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := t.do(ctx, j); err == nil {
			t.files.Add(1)
		} else if err = t.giveUp(ctx, j, err); err != nil {
			return fmt.Errorf("%q: %w", j.path, err)
		}
		if err := t.release(j.dir); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) do(ctx context.Context, j *job) error {
	switch {
	case j.first != "":
		return t.doLink(ctx, j)
	case j.Type == repo.Symlink:
		return t.doSymlink(j)
	}
	if err := t.doFile(ctx, j); err != nil {
		return err
	}
	t.settle(j)
	return nil
}

// settle lets the further names of a file go on.
func (t *tree) settle(j *job) {
	t.mu.Lock()
	delete(t.mu.files, j.path)
	t.mu.Unlock()
	close(j.done)
}

// output is a file being restored, with what was counted for it.
type output struct {
	*os.File
	bytes, written atomic.Int64
}

func (t *tree) doFile(ctx context.Context, j *job) (err error) {
	file, err := j.dir.root.OpenFile(j.name, openFlags, 0o600)
	if err != nil {
		return collision(err)
	}
	f := &output{File: file}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr // may be where a network file system reports a failed write
		}
	}()
	if err := t.content(ctx, f, j.Entry); err != nil {
		t.bytes.Add(-f.bytes.Load())
		t.written.Add(-f.written.Load())
		return err
	}
	if err := t.applyMeta(j.item, j.dir.root, j.name, file); err != nil {
		return err
	}
	return t.syncEach(file)
}

// content writes the content of a file.
func (t *tree) content(ctx context.Context, f *output, e *repo.Entry) error {
	g, gctx := errgroup.WithContext(ctx)
	end, err := t.writeSlices(gctx, g, f, e)
	if werr := g.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr // the cause of the cancellation
	}
	if err != nil {
		return err
	}
	if end < e.Size {
		return f.Truncate(e.Size) // the file ends with a hole
	}
	return nil
}

// writeSlices writes the slices of a file, several at a time if it is large.
// It returns the end of the last one with data.
func (t *tree) writeSlices(ctx context.Context, g *errgroup.Group, f *output, e *repo.Entry) (end int64, err error) {
	var off int64
	for s, err := range t.src.Slices(ctx, e) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return 0, err
		}
		if s.Offset != off || s.Length <= 0 || s.Length > e.Size-off {
			return 0, corrupt("slice of %d bytes at %d does not fit", s.Length, s.Offset)
		}
		off += s.Length
		switch {
		case s.Hole:
			t.count(f, s.Length, 0)
			continue
		case s.Length == e.Size:
			err = t.writeSlice(ctx, f, s)
		default:
			select {
			case t.pieces <- struct{}{}:
				g.Go(func() error {
					defer func() { <-t.pieces }()
					return t.writeSlice(ctx, f, s)
				})
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err != nil {
			return 0, err
		}
		end = off
	}
	if off != e.Size {
		return 0, corrupt("content of %d bytes, not %d", off, e.Size)
	}
	return end, nil
}

func (t *tree) writeSlice(ctx context.Context, f *output, s repo.Slice) error {
	data, err := t.src.ReadSlice(ctx, s)
	if err != nil {
		return err
	}
	if int64(len(data)) != s.Length {
		return corrupt("slice has %d bytes, not %d", len(data), s.Length)
	}
	if _, err := f.WriteAt(data, s.Offset); err != nil {
		return err
	}
	t.count(f, s.Length, s.Length)
	return nil
}

func (t *tree) count(f *output, bytes, written int64) {
	f.bytes.Add(bytes)
	f.written.Add(written)
	t.bytes.Add(bytes)
	t.written.Add(written)
}

func (t *tree) doSymlink(j *job) error {
	if err := j.dir.root.Symlink(j.Target, j.name); err != nil {
		return collision(err)
	}
	if t.opts.Owners {
		uid, gid := t.owner(j.item)
		if err := j.dir.root.Lchown(j.name, uid, gid); err != nil {
			return err
		}
	}
	return setLinkTime(j.dir.root, j.name, j.ModTime)
}

// doLink makes a further name of a file of this restore.
func (t *tree) doLink(ctx context.Context, j *job) error {
	t.mu.Lock()
	done := t.mu.files[j.first]
	t.mu.Unlock()
	if done != nil { // earlier in the queue, so that somebody works on it
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	oldname, okOld := inside(t.path, j.first)
	newname, okNew := inside(t.path, j.path)
	if !okOld || !okNew {
		return corrupt("hard link to %q", j.first)
	}
	info, err := t.regular(oldname)
	if err != nil {
		return err
	}
	root := t.base.root
	if err := root.Link(filepath.FromSlash(oldname), filepath.FromSlash(newname)); err != nil {
		return collision(err)
	}
	now, err := j.dir.root.Lstat(j.name)
	if err == nil && !os.SameFile(info, now) {
		err = errExchanged(j.name)
	}
	return err
}

// regular returns the regular file at a path, through directories only.
func (t *tree) regular(name string) (fs.FileInfo, error) {
	root := t.base.root
	for {
		first, rest, more := strings.Cut(name, "/")
		info, err := root.Lstat(first)
		switch {
		case err == nil && more && info.IsDir():
			root, err = openDir(root, first)
			if err != nil {
				return nil, err
			}
			defer root.Close()
			name = rest
			continue
		case err == nil && !more && info.Mode().IsRegular():
			return info, nil
		case err == nil || errors.Is(err, fs.ErrNotExist):
			return nil, corrupt("hard link to something that is not a file before it")
		}
		return nil, err
	}
}

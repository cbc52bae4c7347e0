// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/internal/durable"
	"github.com/stillpoint-go/protect/internal/durable/durabletest"
)

// crashBucket is what repo/dirbucket does to a file system, on one whose power
// can be cut: the same package writes and removes the files, and listings flush
// the directories that they read.
type crashBucket struct {
	files *durable.Dir
	fsys  lockedFS
}

func newCrashBucket(fsys lockedFS) *crashBucket {
	return &crashBucket{fsys: fsys, files: durable.NewDir(fsys, &durable.Options{TempDir: ".tmp"})}
}

// path returns the name of the file of a key, which has at most one slash.
func path(key string) string { return strings.Replace(key, "/", "+/", 1) }

func (b *crashBucket) Close() error            { return nil }
func (b *crashBucket) As(any) bool             { return false }
func (b *crashBucket) ErrorAs(error, any) bool { return false }
func (b *crashBucket) unsupported(what string) error {
	return fmt.Errorf("%s: %w", what, errors.ErrUnsupported)
}

func (b *crashBucket) Copy(_ context.Context, _, _ string, _ *driver.CopyOptions) error {
	return b.unsupported("copy")
}

func (b *crashBucket) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", b.unsupported("signed URL")
}

func (b *crashBucket) ErrorCode(err error) gcerrors.ErrorCode {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return gcerrors.NotFound
	case errors.Is(err, fs.ErrExist):
		return gcerrors.FailedPrecondition
	}
	return gcerrors.Unknown
}

func (b *crashBucket) Delete(_ context.Context, key string, _ *driver.DeleteOptions) error {
	return b.files.Remove(path(key))
}

func (b *crashBucket) Attributes(_ context.Context, key string) (*driver.Attributes, error) {
	info, err := b.fsys.Lstat(path(key))
	if err != nil {
		return nil, err
	}
	return &driver.Attributes{Size: info.Size(), ModTime: info.ModTime()}, nil
}

func (b *crashBucket) ListPaged(_ context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	all, err := b.list(".", "", opts.Prefix)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *driver.ListObject) int { return strings.Compare(a.Key, b.Key) })
	all = slices.DeleteFunc(all, func(o *driver.ListObject) bool {
		return !strings.HasPrefix(o.Key, opts.Prefix) || o.Key <= string(opts.PageToken)
	})
	page := &driver.ListPage{Objects: all}
	if n := opts.PageSize; n > 0 && len(all) > n {
		page.Objects, page.NextPageToken = all[:n], []byte(all[n-1].Key)
	}
	return page, nil
}

// list returns the objects of a directory whose keys begin with base, and of
// those below it that can have the prefix.
func (b *crashBucket) list(dir, base, prefix string) ([]*driver.ListObject, error) {
	if err := b.fsys.SyncDir(dir); err != nil {
		return nil, err
	}
	infos, err := b.fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []*driver.ListObject
	for _, info := range infos {
		name, isDir := strings.CutSuffix(info.Name(), "+")
		switch {
		case strings.HasPrefix(name, "."):
		case !isDir:
			all = append(all, &driver.ListObject{Key: base + name, Size: info.Size(), ModTime: info.ModTime()})
		case strings.HasPrefix(prefix, name+"/") || strings.HasPrefix(name+"/", prefix):
			below, err := b.list(info.Name(), name+"/", prefix)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

// crashReader reads a file as it was when it was opened.
type crashReader struct {
	io.Reader
	attrs driver.ReaderAttributes
}

func (r *crashReader) Close() error                         { return nil }
func (r *crashReader) As(any) bool                          { return false }
func (r *crashReader) Attributes() *driver.ReaderAttributes { return &r.attrs }

func (b *crashBucket) NewRangeReader(_ context.Context, key string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	data, err := b.fsys.readFile(path(key))
	if err != nil {
		return nil, err
	}
	rest := data[min(offset, int64(len(data))):]
	if length >= 0 {
		rest = rest[:min(length, int64(len(rest)))]
	}
	return &crashReader{Reader: bytes.NewReader(rest), attrs: driver.ReaderAttributes{Size: int64(len(data))}}, nil
}

// crashWriter publishes a file when it is closed.
type crashWriter struct {
	ctx  context.Context //nolint:containedctx // that of the constructor decides in Close
	f    *durable.File
	name string
	once bool
}

func (b *crashBucket) NewTypedWriter(ctx context.Context, key, _ string, opts *driver.WriterOptions) (driver.Writer, error) {
	f, err := b.files.NewFile()
	if err != nil {
		return nil, err
	}
	return &crashWriter{ctx: ctx, f: f, name: path(key), once: opts.IfNotExist}, nil
}

func (w *crashWriter) Write(p []byte) (int, error) { return w.f.Write(p) }

func (w *crashWriter) Close() error {
	defer w.f.Discard()
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.once {
		return w.f.Create(w.name)
	}
	return w.f.Replace(w.name)
}

// lockedFS lets one operation happen at a time.
type lockedFS struct {
	c  *durabletest.CrashFS
	mu *sync.Mutex
}

func (l lockedFS) lock() func() { l.mu.Lock(); return l.mu.Unlock }

func (l lockedFS) readFile(name string) ([]byte, error) { defer l.lock()(); return l.c.ReadFile(name) }

func (l lockedFS) Mkdir(name string, perm fs.FileMode) error {
	defer l.lock()()
	return l.c.Mkdir(name, perm)
}
func (l lockedFS) Link(o, n string) error   { defer l.lock()(); return l.c.Link(o, n) }
func (l lockedFS) Rename(o, n string) error { defer l.lock()(); return l.c.Rename(o, n) }
func (l lockedFS) RenameNoReplace(o, n string) error {
	defer l.lock()()
	return l.c.RenameNoReplace(o, n)
}

func (l lockedFS) Remove(name string) error { defer l.lock()(); return l.c.Remove(name) }

func (l lockedFS) SyncDir(name string) error { defer l.lock()(); return l.c.SyncDir(name) }

func (l lockedFS) Lstat(name string) (fs.FileInfo, error) { defer l.lock()(); return l.c.Lstat(name) }

func (l lockedFS) SameFile(a, b string) (bool, error) { defer l.lock()(); return l.c.SameFile(a, b) }

func (l lockedFS) ReadDir(name string) ([]fs.FileInfo, error) {
	defer l.lock()()
	return l.c.ReadDir(name)
}

func (l lockedFS) CreateExclusive(name string, perm fs.FileMode) (durable.WriteSyncCloser, error) {
	defer l.lock()()
	f, err := l.c.CreateExclusive(name, perm)
	if err != nil {
		return nil, err
	}
	return lockedFile{f, l}, nil
}

type lockedFile struct {
	f durable.WriteSyncCloser
	l lockedFS
}

func (f lockedFile) Write(p []byte) (int, error) { defer f.l.lock()(); return f.f.Write(p) }
func (f lockedFile) Sync() error                 { defer f.l.lock()(); return f.f.Sync() }
func (f lockedFile) Close() error                { defer f.l.lock()(); return f.f.Close() }

// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/internal/durable"
)

// bucket reads through root and writes through files, which uses root as well:
// no operation can leave the directory, whatever a key or a planted link says.
type bucket struct {
	root  *os.Root
	files *durable.Dir
}

var _ driver.Bucket = (*bucket)(nil)

// Close implements driver.Bucket.
func (b *bucket) Close() error { return b.root.Close() }

// As implements driver.Bucket; there are no driver-specific types.
func (b *bucket) As(any) bool { return false }

// ErrorAs implements driver.Bucket; errors.As finds what the error wraps.
func (b *bucket) ErrorAs(error, any) bool { return false }

// ErrorCode implements driver.Bucket.
func (b *bucket) ErrorCode(err error) gcerrors.ErrorCode {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return gcerrors.Unimplemented
	case errors.Is(err, fs.ErrNotExist):
		return gcerrors.NotFound
	case errors.Is(err, fs.ErrExist):
		return gcerrors.FailedPrecondition
	case errors.Is(err, fs.ErrPermission):
		return gcerrors.PermissionDenied
	case errors.Is(err, fs.ErrInvalid):
		return gcerrors.InvalidArgument
	case durable.IsFull(err):
		return gcerrors.ResourceExhausted
	}
	return gcerrors.Unknown
}

// object is an open object.
type object struct {
	f     *os.File
	info  fs.FileInfo
	size  int64 // of the content
	attrs attributes
}

func (b *bucket) open(key string) (*object, error) {
	name, err := fileName(key)
	if err != nil {
		return nil, err
	}
	return openObject(b.root, name)
}

// openObject opens the file name. What is not a regular file does not exist.
func openObject(root *os.Root, name string) (*object, error) {
	// Before the open, because opening a FIFO that somebody planted would block.
	info, err := root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("dirbucket: open: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "dirbucket: open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("dirbucket: open: %w", err)
	}
	o := &object{f: f}
	if o.info, err = f.Stat(); err == nil { // it may have been replaced meanwhile
		o.size, o.attrs, err = decodeTrailer(f, o.info.Size())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("dirbucket: open %q: %w", name, err)
	}
	return o, nil
}

// Attributes implements driver.Bucket.
func (b *bucket) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o, err := b.open(key)
	if err != nil {
		return nil, err
	}
	if err := o.f.Close(); err != nil {
		return nil, fmt.Errorf("dirbucket: close: %w", err)
	}
	return &driver.Attributes{
		CacheControl:       o.attrs.CacheControl,
		ContentDisposition: o.attrs.ContentDisposition,
		ContentEncoding:    o.attrs.ContentEncoding,
		ContentLanguage:    o.attrs.ContentLanguage,
		ContentType:        o.attrs.contentType(),
		Metadata:           o.attrs.Metadata,
		ModTime:            o.info.ModTime(),
		Size:               o.size,
		ETag:               fmt.Sprintf("\"%x-%x\"", o.info.ModTime().UnixNano(), o.info.Size()),
	}, nil
}

// NewRangeReader implements driver.Bucket.
func (b *bucket) NewRangeReader(ctx context.Context, key string, offset, length int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o, err := b.open(key)
	if err != nil {
		return nil, err
	}
	if opts.BeforeRead != nil {
		if err := opts.BeforeRead(noTypes); err != nil {
			_ = o.f.Close()
			return nil, err
		}
	}
	rest := max(0, o.size-offset)
	if length < 0 || length > rest {
		length = rest
	}
	return &reader{ctx: ctx, f: o.f, r: io.NewSectionReader(o.f, offset, length), attrs: driver.ReaderAttributes{
		ContentType: o.attrs.contentType(),
		ModTime:     o.info.ModTime(),
		Size:        o.size,
	}}, nil
}

// reader reads a range of an object. ctx is that of the stream.
type reader struct {
	ctx   context.Context //nolint:containedctx // that of NewRangeReader, for its Read
	f     *os.File
	r     *io.SectionReader
	attrs driver.ReaderAttributes
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (r *reader) Close() error                         { return r.f.Close() }
func (r *reader) Attributes() *driver.ReaderAttributes { return &r.attrs }
func (r *reader) As(any) bool                          { return false }

// Copy implements driver.Bucket. The content is copied, not linked, so that
// damage to one of the two does not hit the other.
func (b *bucket) Copy(ctx context.Context, dstKey, srcKey string, opts *driver.CopyOptions) error {
	dst, err := fileName(dstKey)
	if err != nil {
		return err
	}
	o, err := b.open(srcKey)
	if err != nil {
		return err
	}
	defer func() { _ = o.f.Close() }()
	if opts.BeforeCopy != nil {
		if err := opts.BeforeCopy(noTypes); err != nil {
			return err
		}
	}
	f, err := b.files.NewFile()
	if err != nil {
		return err
	}
	// The whole file: the trailer, if any, belongs to the copy as well.
	all := &reader{ctx: ctx, r: io.NewSectionReader(o.f, 0, o.info.Size())}
	if _, err := io.Copy(f, all); err != nil {
		f.Discard()
		return err
	}
	return f.Replace(dst)
}

// Delete implements driver.Bucket.
func (b *bucket) Delete(ctx context.Context, key string, opts *driver.DeleteOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := fileName(key)
	if err != nil {
		return err
	}
	if opts.BeforeDelete != nil {
		if err := opts.BeforeDelete(noTypes); err != nil {
			return err
		}
	}
	// Remove would take an empty directory too.
	if info, err := b.root.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "dirbucket: delete", Path: name, Err: fs.ErrNotExist}
	}
	return b.files.Remove(name)
}

// SignedURL implements driver.Bucket.
func (b *bucket) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", fmt.Errorf("dirbucket: signed URL: %w", errors.ErrUnsupported)
}

func noTypes(any) bool { return false }

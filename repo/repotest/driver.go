// SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"
)

const defaultContentType = "application/octet-stream"

// drv is a Bucket as package blob sees it; apart, so that users do not.
type drv Bucket

var _ driver.Bucket = (*drv)(nil)

func (d *drv) b() *Bucket { return (*Bucket)(d) }

// Close does nothing: the objects outlive the process.
func (d *drv) Close() error { return nil }

func (d *drv) As(any) bool             { return false }
func (d *drv) ErrorAs(error, any) bool { return false }

func (d *drv) ErrorCode(err error) gcerrors.ErrorCode {
	if coded, ok := errors.AsType[*codedError](err); ok {
		return coded.code
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return gcerrors.NotFound
	case errors.Is(err, fs.ErrExist):
		return gcerrors.FailedPrecondition
	case errors.Is(err, fs.ErrInvalid):
		return gcerrors.InvalidArgument
	case errors.Is(err, errors.ErrUnsupported):
		return gcerrors.Unimplemented
	}
	return gcerrors.Unknown
}

func (d *drv) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	var attrs driver.Attributes
	err := d.b().call(ctx, Op{Kind: Attributes, Key: key}, func(s *store, _ Fault) error {
		o, err := s.get(key)
		if err != nil {
			return err
		}
		attrs = o.attrs
		attrs.Metadata = maps.Clone(o.attrs.Metadata)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &attrs, nil
}

func (d *drv) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	if err := before(opts.BeforeList); err != nil {
		return nil, err
	}
	size := d.opts.PageSize
	if opts.PageSize > 0 {
		size = min(size, opts.PageSize)
	}
	var page *driver.ListPage
	err := d.b().call(ctx, Op{Kind: List, Key: opts.Prefix}, func(s *store, _ Fault) error {
		page = s.list(opts, size)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func (d *drv) NewRangeReader(ctx context.Context, key string, offset, length int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	r := &reader{ctx: ctx, b: d.b()}
	op := Op{Kind: Get, Key: key, Offset: offset, Length: max(length, -1)}
	err := d.b().call(ctx, op, func(s *store, f Fault) error {
		o, err := s.get(key)
		if err != nil {
			return err
		}
		rest := o.data[min(offset, int64(len(o.data))):]
		if length >= 0 && length < int64(len(rest)) {
			rest = rest[:length]
		}
		if f.Action == FailAfter {
			rest, r.err = rest[:min(max(0, f.Offset), int64(len(rest)))], f.error()
		}
		r.rest = f.damage(slices.Clone(rest))
		r.attrs = driver.ReaderAttributes{ContentType: o.attrs.ContentType, ModTime: o.attrs.ModTime, Size: o.attrs.Size}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := before(opts.BeforeRead); err != nil {
		return nil, err
	}
	return r, nil
}

// reader delivers rest and then err, or io.EOF. ctx is that of the stream.
type reader struct {
	ctx   context.Context //nolint:containedctx // that of the constructor decides later
	b     *Bucket
	rest  []byte
	err   error
	attrs driver.ReaderAttributes
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.b.Killed() {
		return 0, errKilled
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	switch {
	case n > 0 || len(p) == 0:
		return n, nil
	case r.err != nil:
		return 0, r.err
	}
	return 0, io.EOF
}

func (r *reader) Close() error                         { return nil }
func (r *reader) Attributes() *driver.ReaderAttributes { return &r.attrs }
func (r *reader) As(any) bool                          { return false }

func (d *drv) NewTypedWriter(ctx context.Context, key, contentType string, opts *driver.WriterOptions) (driver.Writer, error) {
	if key == "" {
		return nil, fmt.Errorf("repotest: the key is empty: %w", fs.ErrInvalid)
	}
	if err := before(opts.BeforeWrite); err != nil {
		return nil, err
	}
	if contentType == "" {
		contentType = defaultContentType
	}
	op := Op{Kind: Put, Key: key}
	if opts.IfNotExist {
		op.Kind = PutOnce
	}
	return &writer{ctx: ctx, b: d.b(), op: op, attrs: driver.Attributes{
		CacheControl:       opts.CacheControl,
		ContentDisposition: opts.ContentDisposition,
		ContentEncoding:    opts.ContentEncoding,
		ContentLanguage:    opts.ContentLanguage,
		ContentType:        contentType,
		Metadata:           maps.Clone(opts.Metadata),
	}}, nil
}

// writer collects an object and puts it when it is closed. ctx is that of the
// stream.
type writer struct {
	ctx   context.Context //nolint:containedctx // that of the constructor decides later
	b     *Bucket
	op    Op
	attrs driver.Attributes
	data  []byte
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

func (w *writer) Close() error {
	w.op.Length = int64(len(w.data))
	return w.b.call(w.ctx, w.op, func(s *store, f Fault) error {
		o := object{data: f.damage(w.data), attrs: w.attrs}
		return s.put(w.op.Key, o, w.op.Kind == PutOnce)
	})
}

func (d *drv) Copy(ctx context.Context, dstKey, srcKey string, opts *driver.CopyOptions) error {
	if err := before(opts.BeforeCopy); err != nil {
		return err
	}
	return d.b().call(ctx, Op{Kind: Copy, Key: dstKey, Source: srcKey}, func(s *store, _ Fault) error {
		o, err := s.get(srcKey)
		if err != nil {
			return err
		}
		return s.put(dstKey, *o, false)
	})
}

func (d *drv) Delete(ctx context.Context, key string, opts *driver.DeleteOptions) error {
	if err := before(opts.BeforeDelete); err != nil {
		return err
	}
	return d.b().call(ctx, Op{Kind: Delete, Key: key}, func(s *store, _ Fault) error { return s.remove(key) })
}

func (d *drv) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", fmt.Errorf("repotest: signed URL: %w", errors.ErrUnsupported)
}

// before runs a callback of package blob, which finds no types of ours.
func before(callback func(asFunc func(any) bool) error) error {
	if callback == nil {
		return nil
	}
	return callback(func(any) bool { return false })
}

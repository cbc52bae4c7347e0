// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"context"
	"maps"

	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/internal/durable"
)

// writer writes one object. ctx is that of the stream.
type writer struct {
	ctx   context.Context //nolint:containedctx // that of NewTypedWriter decides in Close
	f     *durable.File
	name  string
	once  bool
	attrs attributes
	size  int64
	end   []byte // the last bytes, at most as many as trailerMagic has
}

var _ driver.Writer = (*writer)(nil)

// NewTypedWriter implements driver.Bucket.
func (b *bucket) NewTypedWriter(ctx context.Context, key, contentType string, opts *driver.WriterOptions) (driver.Writer, error) {
	name, err := fileName(key)
	if err != nil {
		return nil, err
	}
	f, err := b.files.NewFile()
	if err != nil {
		return nil, err
	}
	if opts.BeforeWrite != nil {
		if err := opts.BeforeWrite(noTypes); err != nil {
			f.Discard()
			return nil, err
		}
	}
	return &writer{ctx: ctx, f: f, name: name, once: opts.IfNotExist, attrs: attributes{
		CacheControl:       opts.CacheControl,
		ContentDisposition: opts.ContentDisposition,
		ContentEncoding:    opts.ContentEncoding,
		ContentLanguage:    opts.ContentLanguage,
		ContentType:        contentType,
		Metadata:           maps.Clone(opts.Metadata),
	}}, nil
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	last := p[max(0, n-len(trailerMagic)):n]
	w.end = append(w.end, last...)
	w.end = w.end[max(0, len(w.end)-len(trailerMagic)):]
	return n, err
}

// Close publishes the object, unless the context is done or a write failed.
func (w *writer) Close() error {
	defer w.f.Discard()
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if !w.attrs.empty() || looksTrailed(w.size, w.end) {
		trailer, err := w.attrs.encode(w.size)
		if err != nil {
			return err
		}
		if _, err := w.f.Write(trailer); err != nil {
			return err
		}
	}
	if w.once {
		return w.f.Create(w.name)
	}
	return w.f.Replace(w.name)
}

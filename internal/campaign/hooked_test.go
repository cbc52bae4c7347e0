// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"
)

// hooked passes everything on to another bucket and says before and after each
// call that it does so.
type hooked struct {
	b             *blob.Bucket
	before, after func(call string)
}

// hook returns b with hooks around its calls.
func hook(b *blob.Bucket, before, after func(string)) *blob.Bucket {
	return blob.NewBucket(&hooked{b: b, before: before, after: after})
}

func (h *hooked) Close() error              { return h.b.Close() }
func (h *hooked) As(any) bool               { return false }
func (h *hooked) ErrorAs(error, any) bool   { return false }
func (h *hooked) around(call string) func() { h.before(call); return func() { h.after(call) } }

func (h *hooked) ErrorCode(err error) gcerrors.ErrorCode { return gcerrors.Code(err) }

func (h *hooked) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	defer h.around("attributes " + key)()
	a, err := h.b.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	return &driver.Attributes{ContentType: a.ContentType, ModTime: a.ModTime, Size: a.Size, ETag: a.ETag}, nil
}

func (h *hooked) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	defer h.around("list " + opts.Prefix)()
	token := opts.PageToken
	if len(token) == 0 {
		token = blob.FirstPageToken
	}
	size := opts.PageSize
	if size == 0 {
		size = 1000
	}
	objects, next, err := h.b.ListPage(ctx, token, size, &blob.ListOptions{Prefix: opts.Prefix, Delimiter: opts.Delimiter})
	if err != nil {
		return nil, err
	}
	page := &driver.ListPage{NextPageToken: next}
	for _, o := range objects {
		page.Objects = append(page.Objects, &driver.ListObject{Key: o.Key, ModTime: o.ModTime, Size: o.Size, IsDir: o.IsDir})
	}
	return page, nil
}

// hookedReader is a reader in the form of a driver.
type hookedReader struct{ *blob.Reader }

func (r hookedReader) As(any) bool { return false }
func (r hookedReader) Attributes() *driver.ReaderAttributes {
	return &driver.ReaderAttributes{ContentType: r.ContentType(), ModTime: r.ModTime(), Size: r.Size()}
}

func (h *hooked) NewRangeReader(ctx context.Context, key string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	defer h.around("get " + key)()
	r, err := h.b.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, err
	}
	return hookedReader{r}, nil
}

// hookedWriter makes its call when it is closed.
type hookedWriter struct {
	*blob.Writer
	h   *hooked
	key string
}

func (w *hookedWriter) Close() error {
	defer w.h.around("put " + w.key)()
	return w.Writer.Close()
}

func (h *hooked) NewTypedWriter(ctx context.Context, key, contentType string, opts *driver.WriterOptions) (driver.Writer, error) {
	w, err := h.b.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: contentType, DisableContentTypeDetection: true, IfNotExist: opts.IfNotExist, BufferSize: opts.BufferSize, MaxConcurrency: opts.MaxConcurrency,
	})
	if err != nil {
		return nil, err
	}
	return &hookedWriter{Writer: w, h: h, key: key}, nil
}

func (h *hooked) Copy(ctx context.Context, dst, src string, _ *driver.CopyOptions) error {
	defer h.around("copy " + dst)()
	return h.b.Copy(ctx, dst, src, nil)
}

func (h *hooked) Delete(ctx context.Context, key string, _ *driver.DeleteOptions) error {
	defer h.around("delete " + key)()
	return h.b.Delete(ctx, key)
}

func (h *hooked) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", errors.ErrUnsupported
}

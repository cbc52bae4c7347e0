// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/internal/retry"
	"github.com/stillpoint-go/protect/internal/store"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// modem is a bucket behind a line of so many bytes per second.
type modem struct {
	driver.Bucket
	rate int
}

func (m modem) transfer(ctx context.Context, n int) error {
	select {
	case <-time.After(time.Duration(n/m.rate) * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type modemReader struct {
	driver.Reader
	m   modem
	ctx context.Context //nolint:containedctx // that of the read
}

func (r *modemReader) Read(p []byte) (int, error) {
	if err := r.m.transfer(r.ctx, len(p)); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (m modem) NewRangeReader(ctx context.Context, key string, off, n int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	r, err := m.Bucket.NewRangeReader(ctx, key, off, n, opts)
	return &modemReader{r, m, ctx}, err
}

type modemWriter struct {
	driver.Writer
	m   modem
	ctx context.Context //nolint:containedctx // that of the write
	n   int
}

func (w *modemWriter) Write(p []byte) (int, error) {
	w.n += len(p)
	return w.Writer.Write(p)
}

func (w *modemWriter) Close() error {
	err := w.m.transfer(w.ctx, w.n)
	return errors.Join(err, w.Writer.Close()) // which fails, too
}

func (m modem) NewTypedWriter(ctx context.Context, key, contentType string, opts *driver.WriterOptions) (driver.Writer, error) {
	w, err := m.Bucket.NewTypedWriter(ctx, key, contentType, opts)
	return &modemWriter{w, m, ctx, 0}, err
}

// TestSlowLine stores and reads a large object over a line that takes longer for it
// than a store may take to answer.
func TestSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(blob.NewBucket(modem{repotest.NewBucket(nil).Driver(), 64 << 10}), retry.Policy{Attempts: 1})
		data := make([]byte, 32<<20)
		if err := s.Put(t.Context(), "k", data); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "k", int64(len(data))); err != nil {
			t.Error(err)
		}
		if _, err := s.GetRange(t.Context(), "k", 0, int64(len(data))); err != nil {
			t.Error(err)
		}
	})
}

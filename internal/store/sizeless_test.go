// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/internal/retry"
	"github.com/stillpoint-go/protect/internal/store"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// sizeless is a bucket that does not know sizes, as that of a store that
// decompresses what it sends.
type sizeless struct{ driver.Bucket }

func (b sizeless) NewRangeReader(ctx context.Context, key string, offset, length int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	r, err := b.Bucket.NewRangeReader(ctx, key, offset, length, opts)
	if err == nil {
		r.Attributes().Size = -1
	}
	return r, err
}

func (b sizeless) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	page, err := b.Bucket.ListPaged(ctx, opts)
	if err == nil {
		for _, o := range page.Objects {
			o.Size = -1
		}
	}
	return page, err
}

// TestSizeless must not allocate a negative number of bytes.
func TestSizeless(t *testing.T) {
	world := repotest.NewBucket(nil)
	world.Set("k", []byte("data"))
	s := store.New(blob.NewBucket(sizeless{world.Driver()}), retry.Policy{})
	if got, err := s.Get(t.Context(), "k", 10); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("get: %q, %v", got, err)
	}
	for o, err := range s.List(t.Context(), "") {
		if err != nil || o.Size != 0 {
			t.Errorf("list: %+v, %v", o, err)
		}
	}
}

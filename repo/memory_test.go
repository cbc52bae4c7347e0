// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// sink is a bucket that forgets the content of packs, so that a test sees the
// memory of the engine and not that of the bucket.
type sink struct{ driver.Bucket }

func newSink() *blob.Bucket { return blob.NewBucket(sink{repotest.NewBucket(nil).Driver()}) }

func (s sink) NewTypedWriter(ctx context.Context, key, contentType string, opts *driver.WriterOptions) (driver.Writer, error) {
	if strings.HasPrefix(key, "pack/") {
		return nothing{}, nil
	}
	return s.Bucket.NewTypedWriter(ctx, key, contentType, opts)
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }

// peakHeap returns the largest heap that fn needs above that of before.
func peakHeap(fn func()) uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 { metrics.Read(sample); return sample[0].Value.Uint64() }
	runtime.GC()
	before, peak := read(), uint64(0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak = max(peak, read())
			case <-done:
				return
			}
		}
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	fn()
	close(done)
	<-ended
	return peak - min(before, peak)
}

// noise is a stream of random bytes.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// maxHeap is what a session may need, with as little garbage as gcPercent
// leaves.
const (
	maxHeap   = 256 << 20
	gcPercent = 20
)

// requirePools skips a test of memory where pools do not work.
func requirePools(t *testing.T) {
	t.Helper()
	if testing.Short() || raceEnabled {
		t.Skip("takes seconds, and means nothing under the race detector")
	}
}

// TestMemoryOfStream stores a gigabyte.
func TestMemoryOfStream(t *testing.T) {
	requirePools(t)
	r, err := repo.Init(t.Context(), newSink(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	peak := peakHeap(func() {
		_, err = r.Write(t.Context(), repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error {
			return w.PutStream(ctx, "v", noise(1, 1<<30))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak heap of %d MiB, %.1f s", peak>>20, time.Since(start).Seconds())
	if peak > maxHeap {
		t.Errorf("peak heap of %d MiB", peak>>20)
	}
}

// TestMemoryOfFiles stores small files of the largest size, and large files at
// once.
func TestMemoryOfFiles(t *testing.T) {
	requirePools(t)
	dir := t.TempDir()
	for i := range 3000 {
		put(t, dir, fmt.Sprintf("small/%d", i), random(uint64(i), 128<<10))
	}
	for i := range 8 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("large", i)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(f, noise(byte(i), 16<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	r, err := repo.Init(t.Context(), newSink(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	peak := peakHeap(func() { write(t, r, "p", dir) })
	t.Logf("peak heap of %d MiB", peak>>20)
	if peak > maxHeap {
		t.Errorf("peak heap of %d MiB", peak>>20)
	}
}

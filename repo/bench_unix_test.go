// SPDX-License-Identifier: Apache-2.0

//go:build unix

package repo_test

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo"
)

// The figures of the machine are noise; processor time per GiB is what a change
// of the engine moves:
//
//	go test ./repo -run '^$' -bench . -benchmem

// cpu returns the processor time of this process.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs fn, which handles size bytes, b.N times.
func measure(b *testing.B, size int64, fn func(i int)) {
	b.Helper()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpu(b)
	for i := range b.N {
		fn(i)
	}
	b.ReportMetric((cpu(b)-start).Seconds()/float64(b.N)/float64(size)*(1<<30), "cpu-s/GiB")
}

func sinkRepo(b *testing.B) *repo.Repository {
	b.Helper()
	r, err := repo.Init(b.Context(), newSink(), key("secret"), nil)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkWriteStream stores 256 MiB that do not compress.
func BenchmarkWriteStream(b *testing.B) {
	data := random(1, 256<<20)
	r := sinkRepo(b)
	measure(b, int64(len(data)), func(i int) {
		data[0], data[1] = byte(i), byte(i>>8) // chunks of their own, all but the last
		_, err := r.Write(b.Context(), repo.WriteOptions{ID: fmt.Sprint(i)}, func(ctx context.Context, w *repo.Writer) error {
			return w.PutStream(ctx, "v", &salted{data: data, salt: byte(i)})
		})
		if err != nil {
			b.Fatal(err)
		}
	})
}

// salted is data that differs from salt to salt in every chunk.
type salted struct {
	data []byte
	salt byte
}

func (s *salted) Read(p []byte) (int, error) {
	n := copy(p, s.data)
	if s.data = s.data[n:]; n == 0 {
		return 0, io.EOF
	}
	for i := 0; i < n; i += 64 << 10 {
		p[i] ^= s.salt
	}
	return n, nil
}

// smallFiles makes files of 1 to 8 KiB.
func smallFiles(b *testing.B, n int) (dir string, size int64) {
	b.Helper()
	dir = b.TempDir()
	for i := range n {
		data := random(uint64(i), 1<<10+i%(7<<10))
		for j := range data { // about as compressible as text
			data[j] &= 0x1f
		}
		put(b, dir, fmt.Sprintf("d%03d/f%05d", i/100, i), data)
		size += int64(len(data))
	}
	return dir, size
}

// BenchmarkWriteSmallFiles stores 10,000 files of 1 to 8 KiB.
func BenchmarkWriteSmallFiles(b *testing.B) {
	dir, size := smallFiles(b, 10_000)
	measure(b, size, func(int) {
		if p := write(b, sinkRepo(b), "p", dir); p.Stats.New < size {
			b.Fatalf("%+v", p.Stats)
		}
	})
}

// BenchmarkUnchanged stores the same files once more.
func BenchmarkUnchanged(b *testing.B) {
	dir, size := smallFiles(b, 10_000)
	r, _ := newRepo(b)
	write(b, r, "first", dir)
	measure(b, size, func(i int) {
		if p := write(b, r, fmt.Sprint(i), dir); p.Stats.New > size/100 {
			b.Fatalf("%+v", p.Stats)
		}
	})
}

// BenchmarkRead reads 128 MiB back, from memory.
func BenchmarkRead(b *testing.B) {
	const size = 128 << 20
	r, _ := newRepo(b)
	p, err := r.Write(b.Context(), repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutStream(ctx, "v", noise(1, size))
	})
	if err != nil {
		b.Fatal(err)
	}
	measure(b, size, func(int) {
		t, err := r.Tree(b.Context(), p, "v")
		if err != nil {
			b.Fatal(err)
		}
		e, err := t.Entry(b.Context(), ".")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := t.WriteTo(b.Context(), io.Discard, e); err != nil || n != size {
			b.Fatal(n, err)
		}
	})
}

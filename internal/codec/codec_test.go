// SPDX-License-Identifier: Apache-2.0

package codec_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/stillpoint-go/protect/internal/codec"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func samples() map[string][]byte {
	return map[string][]byte{
		"empty": {}, "a byte": {1}, "zeros": make([]byte, 1<<20), "random": random(1 << 20), "text": bytes.Repeat([]byte("line of text\n"), 5000),
		"largest": make([]byte, ondisk.MaxChunk), "half random": append(random(1<<19), make([]byte, 1<<19)...),
	}
}

func TestRoundTrip(t *testing.T) {
	c := codec.New()
	var buf, out []byte
	for name, plain := range samples() {
		body, kind := c.Compress(&buf, plain)
		if len(body) > len(plain)+64 || kind == ondisk.Raw && !bytes.Equal(body, plain) {
			t.Errorf("%s: %d bytes are stored as %d", name, len(plain), len(body))
		}
		got, err := c.Decompress(out, body, kind, len(plain))
		if err == nil && kind == ondisk.Zstd {
			out = got // the next one reuses it
		}
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
		for _, wrong := range []int{len(plain) - 1, len(plain) + 1, 0, -1, ondisk.MaxChunk + 1, 1 << 40} {
			if wrong == len(plain) {
				continue
			}
			if _, err := c.Decompress(nil, body, kind, wrong); err == nil {
				t.Errorf("%s: decodes to a length of %d, too", name, wrong)
			}
		}
		if _, err := c.Decompress(nil, body, 7, len(plain)); err == nil {
			t.Errorf("%s: unknown codec", name)
		}
	}
}

// TestBomb decodes a gigabyte of zeros that claims to be small.
func TestBomb(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	var frame bytes.Buffer
	enc.Reset(&frame)
	block := make([]byte, 1<<20)
	for range 1 << 10 {
		if _, err := enc.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	many := bytes.Repeat(enc.EncodeAll(make([]byte, 1<<20), nil), 1000) // frames one after the other
	c := codec.New()
	for name, bomb := range map[string][]byte{"stream": frame.Bytes(), "frames": many} {
		for _, size := range []int{1, 1000, 1 << 20, ondisk.MaxChunk} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := c.Decompress(nil, bomb, ondisk.Zstd, size)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("%s: a bomb of %d bytes decodes to %d", name, len(bomb), size)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
				t.Errorf("%s: decoding to %d bytes allocates %d MiB", name, size, n>>20)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	c := codec.New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name, plain := range samples() {
				body, kind := c.Compress(new([]byte), plain)
				if got, err := c.Decompress(nil, body, kind, len(plain)); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzDecompress(f *testing.F) {
	c := codec.New()
	for _, plain := range samples() {
		if len(plain) > 1<<17 {
			plain = plain[:1<<17]
		}
		body, kind := c.Compress(new([]byte), plain)
		if len(body) < 1<<12 {
			f.Add(body, uint8(kind), uint32(len(plain))) // small
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, kind uint8, size uint32) {
		size %= ondisk.MaxChunk + 2
		out, err := c.Decompress(nil, body, ondisk.Codec(kind), int(size))
		if err == nil && len(out) != int(size) {
			t.Fatalf("%d bytes instead of %d", len(out), size)
		}
		if err == nil && cap(out) > max(int(size), cap(body), 1)+64 {
			t.Fatalf("capacity of %d for %d bytes", cap(out), size)
		}
	})
}

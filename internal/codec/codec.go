// SPDX-License-Identifier: Apache-2.0

// Package codec compresses chunks. Decoding is bounded by the length that was
// authenticated with the chunk, so that no input can make it allocate more.
package codec

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Codec compresses and decompresses chunks. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder // looks for repetitions
	lit *zstd.Encoder // is content with bytes that are not equally frequent
	dec *zstd.Decoder
}

func newEncoder(literals bool) *zstd.Encoder {
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(false), // the seal is stronger
		zstd.WithWindowSize(1<<20),
		zstd.WithLowerEncoderMem(true),
		zstd.WithAllLitEntropyCompression(literals))
	if err != nil {
		panic(err) // the options are constant
	}
	return enc
}

// New returns a codec that uses up to GOMAXPROCS processors.
func New() *Codec {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(ondisk.MaxChunk),
		zstd.WithDecoderMaxWindow(ondisk.MaxChunk),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constant
	}
	return &Codec{enc: newEncoder(false), lit: newEncoder(true), dec: dec}
}

// Compress returns the stored form of plain and says which it is. Content that
// hardly shrinks is stored as it is, since reading it back is faster: then the
// result is plain itself. Otherwise it is in *buf, which grows as needed.
func (c *Codec) Compress(buf *[]byte, plain []byte) ([]byte, ondisk.Codec) {
	shrunk := func() bool { return len(*buf) < len(plain)-len(plain)/32 }
	if *buf = c.enc.EncodeAll(plain, (*buf)[:0]); shrunk() {
		return *buf, ondisk.Zstd
	}
	// Nothing repeats. That is so for random bytes, on which more work is
	// wasted, and for random digits, which take half the space.
	if entropy(plain) < 7.5 {
		if *buf = c.lit.EncodeAll(plain, (*buf)[:0]); shrunk() {
			return *buf, ondisk.Zstd
		}
	}
	return plain, ondisk.Raw
}

// entropy estimates from a sample how many bits a byte of p carries, 0 to 8.
func entropy(p []byte) float64 {
	const runs, length = 16, 256
	var count [256]float64
	n := 0.0
	for i := range runs {
		run := p[i*len(p)/runs:]
		for _, b := range run[:min(length, len(run))] {
			count[b]++
			n++
		}
	}
	h := 0.0
	for _, k := range count {
		if k > 0 {
			h -= k / n * math.Log2(k/n)
		}
	}
	return h
}

var errLength = errors.New("codec: decoded length differs from the authenticated one")

// Decompress returns the plaintext of body, which has exactly size bytes. The
// result aliases body if it was stored as it is, and otherwise buf if that is
// large enough.
func (c *Codec) Decompress(buf, body []byte, codec ondisk.Codec, size int) ([]byte, error) {
	switch codec {
	case ondisk.Raw:
		if len(body) != size {
			return nil, errLength
		}
		return body, nil
	case ondisk.Zstd:
		if size < 0 || size > ondisk.MaxChunk {
			return nil, errLength
		}
		n := max(size, 1) // the limit is on the capacity, which must not be zero
		if cap(buf) < n {
			buf = make([]byte, 0, n)
		}
		out, err := c.dec.DecodeAll(body, buf[:0:n])
		if err != nil {
			return nil, fmt.Errorf("codec: %w", err)
		}
		if len(out) != size {
			return nil, errLength
		}
		return out, nil
	default:
		return nil, fmt.Errorf("codec: unknown codec %d", codec)
	}
}

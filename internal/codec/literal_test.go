// SPDX-License-Identifier: Apache-2.0

package codec_test

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/stillpoint-go/protect/internal/codec"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestLiterals compresses what has no repetitions.
func TestLiterals(t *testing.T) {
	random := make([]byte, 256<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	tests := []struct {
		name  string
		data  []byte
		codec ondisk.Codec
		most  float64 // of the plain size
	}{
		{"random bytes", random, ondisk.Raw, 1},
		{"random digits", []byte(hex.EncodeToString(random)), ondisk.Zstd, 0.52},
	}
	c := codec.New()
	for _, tt := range tests {
		out, used := c.Compress(new([]byte), tt.data)
		if ratio := float64(len(out)) / float64(len(tt.data)); used != tt.codec || ratio > tt.most {
			t.Errorf("%s: codec %d, ratio %.3f", tt.name, used, ratio)
		}
	}
}

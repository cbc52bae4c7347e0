// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzIntent decodes what it is given. What is accepted is bounded and means
// the same after it is encoded again.
func FuzzIntent(f *testing.F) {
	seed, err := encodeIntent(Intent{
		Epoch: 7, Application: "app", ID: "x", Members: []string{"db"}, Window: time.Second,
		Began: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"epoch":1,"application":"a","id":"\u2028","members":["a"],"window":"1s"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := decodeIntent(data)
		if err != nil {
			return
		}
		again, err := encodeIntent(in)
		if err != nil {
			t.Fatalf("decoded, but cannot be encoded: %v", err)
		}
		if len(again) > maxIntent {
			t.Fatalf("encoded to %d bytes", len(again))
		}
		back, err := decodeIntent(again)
		if err != nil {
			t.Fatalf("decoded and encoded, but cannot be decoded: %v", err)
		}
		if diff := cmp.Diff(in, back); diff != "" {
			t.Fatalf("round trip (-want +got):\n%s", diff)
		}
	})
}

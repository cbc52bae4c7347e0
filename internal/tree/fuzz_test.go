// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// FuzzNodes reads trees of malicious nodes: the input is cut at a separator,
// and the first byte of an id selects a node. Reading must end, keys must
// ascend, and no more nodes be read than records allow.
func FuzzNodes(f *testing.F) {
	sep := []byte("\xfe\xed")
	child := func(n byte) []byte { return append([]byte{n}, make([]byte, 31)...) }
	f.Add(uint8(0), node(0, rec("", nil), rec("a", []byte("v")), rec("ab", nil)))
	f.Add(uint8(1), bytes.Join([][]byte{
		node(1, rec("a", child(1)), rec("c", child(2))), node(0, rec("a", nil), rec("b", nil)), node(0, rec("c", nil)),
	}, sep))
	f.Add(uint8(2), bytes.Join([][]byte{node(2, rec("a", child(1))), node(1, rec("a", child(2))), node(0, rec("a", nil))}, sep))
	f.Add(uint8(7), node(7, rec("a", child(0))))
	f.Fuzz(func(t *testing.T, height uint8, data []byte) {
		parts := bytes.Split(data, sep)
		gets := 0
		tr := tree.New(ondisk.Root{Height: height}, func(_ context.Context, id ondisk.ID) ([]byte, error) {
			if gets++; gets > 2+8*len(data) {
				t.Fatal("reading goes on for ever")
			}
			return parts[int(id[0])%len(parts)], nil
		})
		recs, err := collect(tr, nil)
		if err != nil && !errors.Is(err, tree.ErrMalformed) {
			t.Fatalf("unexpected class of error: %v", err)
		}
		for i, r := range recs {
			if i > 0 && bytes.Compare(recs[i-1].Key, r.Key) >= 0 {
				t.Fatalf("key %q before %q", recs[i-1].Key, r.Key)
			}
		}
		if err != nil {
			return
		}
		for i, r := range recs {
			v, ok, err := tr.Get(t.Context(), r.Key)
			if err != nil || !ok || !bytes.Equal(v, r.Value) {
				t.Fatalf("record %d of %d: get %q: %t, %v", i, len(recs), r.Key, ok, err)
			}
			if i == 50 {
				break
			}
		}
	})
}

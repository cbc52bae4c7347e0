// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestChunkOfAnotherKind asks for a node as if it were content, before and after
// it was read: what is in memory must not be refused less than what is stored.
func TestChunkOfAnotherKind(t *testing.T) {
	r, _ := initTest(t)
	p, err := r.Write(t.Context(), WriteOptions{ID: "p"}, func(ctx context.Context, w *Writer) error {
		return w.PutStream(ctx, "v", strings.NewReader("x"))
	})
	if err != nil {
		t.Fatal(err)
	}
	id := p.Volumes[0].root.ID
	for _, c := range []struct {
		kind ondisk.Kind
		ok   bool
	}{{ondisk.KindData, false}, {ondisk.KindTree, true}, {ondisk.KindData, false}} {
		if _, err := r.loader.get(t.Context(), id, c.kind); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("as kind %d: %v", c.kind, err)
		}
	}
}

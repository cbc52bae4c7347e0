// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// waitFor waits until ok, which the goroutine of a session brings about.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("nothing happened for a minute")
		}
	}
}

// TestFlush lets a session die: what it had put into packs for a while, the next
// one need not store again, here or elsewhere. So it is with what is stored
// while the session runs.
func TestFlush(t *testing.T) {
	r, b := initTest(t)
	rng := rand.New(rand.NewPCG(1, 1))
	chunks := make([][]byte, 40) // more than a pack
	for i := range chunks {
		chunks[i] = make([]byte, 1<<20)
		for k := range chunks[i] {
			chunks[i][k] = byte(rng.Uint32())
		}
	}
	died := errors.New("died")
	_, err := r.Write(t.Context(), WriteOptions{ID: "dies"}, func(_ context.Context, w *Writer) error {
		w.FlushAfter(30 << 20)
		for range 2 { // the second time all of it is known, in a segment or not
			for _, c := range chunks {
				if _, err := w.pk.put(ondisk.KindData, c); err != nil {
					return err
				}
			}
			waitFor(t, func() bool {
				w.pk.mu.Lock()
				defer w.pk.mu.Unlock()
				return len(w.pk.mu.seen) < len(chunks)/2 // the others are in the index
			})
		}
		if n := w.pk.count.Load(); n != int64(len(chunks)) {
			t.Errorf("%d chunks were stored, of %d", n, len(chunks))
		}
		return died
	})
	if !errors.Is(err, died) {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), b, Passphrase("secret").WithKDF(1, 8, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Repository{r, again} {
		if err := r.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		known := 0
		for _, c := range chunks {
			places, err := r.find(t.Context(), r.keys.ChunkID(ondisk.KindData, c))
			if err != nil {
				t.Fatal(err)
			}
			known += len(places)
		}
		if known < 28 || known > len(chunks) {
			t.Errorf("%d of %d chunks are in the index", known, len(chunks))
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package keylock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/internal/keylock"
)

func TestExclusion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			locks keylock.Set
			wg    sync.WaitGroup
			in    [2]int
		)
		for i := range 20 {
			wg.Go(func() {
				unlock, err := locks.Lock(t.Context(), []string{"a", "b"}[i%2])
				if err != nil {
					t.Error(err)
					return
				}
				defer unlock()
				if in[i%2]++; in[i%2] != 1 {
					t.Errorf("%d holders", in[i%2])
				}
				time.Sleep(time.Second)
				in[i%2]--
			})
		}
		begin := time.Now()
		wg.Wait()
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("two names with ten holders each took %v", d)
		}
	})
}

func TestCancel(t *testing.T) {
	var locks keylock.Set
	unlock, err := locks.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := locks.Lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	again, err := locks.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	again()
}

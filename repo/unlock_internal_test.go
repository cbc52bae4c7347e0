// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/seal"
)

// TestUnlockWork: a wrong key costs a bounded amount of work, whatever slots
// there are, and the cheap ones are tried.
func TestUnlockWork(t *testing.T) {
	r, _ := initTest(t)
	var found []*slot
	for i := range 200 {
		k := Passphrase("other").WithKDF(1, uint32(64+i), 1).get()
		s := &slot{key: fmt.Sprintf("key/%016x", 1000-i)}
		if err := k.wrap(t.Context(), &s.Slot, r.keys.SlotPayload(s.key)); err != nil {
			t.Fatal(err)
		}
		found = append([]*slot{s}, found...) // the most expensive ones first
	}
	u := unlocking{r: r, with: Passphrase("wrong").get(), limit: 1000}
	if err := u.try(t.Context(), found); err != nil || u.best != nil {
		t.Fatal(err)
	}
	if u.untried != 200-14 { // 64+65+...+77 = 987
		t.Errorf("%d slots were not tried", u.untried)
	}
	err := u.failure(found, nil)
	if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "186 slots were not tried") {
		t.Error(err)
	}
	// One slot is tried in any case.
	u = unlocking{r: r, with: Passphrase("wrong").get(), limit: 1}
	if err := u.try(t.Context(), found); err != nil || u.untried != 199 {
		t.Errorf("%d slots were not tried, %v", u.untried, err)
	}
	var worst seal.KDF
	for worst = (seal.KDF{Time: 1, Memory: 1 << 20, Threads: 1}); worst.Check() == nil; worst.Time++ {
	}
	if all := 63*seal.DefaultKDF().Cost() + worst.Cost(); all > maxWork {
		t.Errorf("64 slots cost %d, more than %d", all, maxWork)
	}
}

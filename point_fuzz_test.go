// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/repo"
)

// FuzzRecoveryPoint reads what a record says of its cut. It may be anything: the
// level is one that there is, and what is accepted can be printed and read again.
func FuzzRecoveryPoint(f *testing.F) {
	for _, cut := range []protect.Cut{
		{},
		{Set: "s", Time: time.Unix(1, 2).UTC(), Level: protect.ApplicationConsistent, Frozen: time.Second, Skew: 3},
		{Level: protect.CrashGroup, Doubts: []string{"a \"doubt\"", ""}},
	} {
		b, err := json.Marshal(cut)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"level":"best"}`))
	f.Add([]byte(`{"level":4,"frozen_ns":-1}`))
	f.Fuzz(func(t *testing.T, evidence []byte) {
		p := protect.NewRecoveryPoint(&repo.Point{ID: "id", Evidence: map[string]map[string][]byte{"protect": {"cut": evidence}}})
		if p.Level < protect.None || p.Level > protect.ApplicationConsistent {
			t.Fatalf("level %v", p.Level)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again protect.RecoveryPoint
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		p.Point = nil
		if len(p.Doubts) == 0 {
			p.Doubts = nil
		}
		if diff := cmp.Diff(*p, again); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

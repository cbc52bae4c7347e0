// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/crashsafe"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// noIntents is a journal that nobody may write to.
type noIntents struct{ hooks.Journal }

func (noIntents) Begin(context.Context, hooks.Intent) (hooks.Epoch, error) {
	return 0, errors.New("an intent, although nothing is frozen")
}

// TestCrashSafe cuts an application without freezing it: the point says why,
// and is worth nothing to it unless all volumes were cut at one instant.
func TestCrashSafe(t *testing.T) {
	const reason = "its log is synced before it acknowledges"
	tests := map[string]struct {
		fake snapshottest.FakeOptions
		want protect.Consistency
	}{
		"atomic":      {snapshottest.FakeOptions{}, protect.ApplicationConsistent},
		"single cuts": {snapshottest.FakeOptions{NoGroup: true}, protect.CrashSingle},
		"copies":      {snapshottest.FakeOptions{NoGroup: true, Torn: true}, protect.None},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, &tt.fake)
			w.journal = noIntents{w.journal}
			p := w.start(t, &process{})
			q, err := crashsafe.New(reason)
			if err != nil {
				t.Fatal(err)
			}
			p.app.Members = []protect.Member{{Name: "log", Quiescer: q}}
			rp, err := p.Run(t.Context(), p.app, "one")
			if err != nil {
				t.Fatal(err)
			}
			if rp.Level != tt.want || rp.Frozen != 0 {
				t.Errorf("level %s after a freeze of %v, want %s and none; doubts %q", rp.Level, rp.Frozen, tt.want, rp.Doubts)
			}
			if got := string(rp.Point.Evidence["log"][crashsafe.Evidence]); got != reason {
				t.Errorf("the point says %q of why nothing was frozen, want %q", got, reason)
			}
			if tt.want == protect.ApplicationConsistent {
				if len(rp.Doubts) > 0 {
					t.Errorf("doubts %q", rp.Doubts)
				}
				return
			}
			if !strings.Contains(strings.Join(rp.Doubts, "; "), `"log"`) {
				t.Errorf("doubts %q, want one of the member", rp.Doubts)
			}
			p.app.Require = protect.ApplicationConsistent
			if _, err := p.Run(t.Context(), p.app, "two"); !errors.Is(err, protect.ErrConsistency) {
				t.Errorf("error %v, want protect.ErrConsistency", err)
			}
		})
	}
}

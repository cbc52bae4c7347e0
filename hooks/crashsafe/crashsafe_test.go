// SPDX-License-Identifier: Apache-2.0

package crashsafe_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/crashsafe"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

// readOnlyJournal has no room for intents.
type readOnlyJournal struct{ *hooks.MemJournal }

var errReadOnly = errors.New("the journal is not to be written to")

func (readOnlyJournal) Begin(context.Context, hooks.Intent) (hooks.Epoch, error) {
	return 0, errReadOnly
}

func (readOnlyJournal) End(context.Context, hooks.Epoch) error { return errReadOnly }

func (readOnlyJournal) Remember(context.Context, hooks.PastFreeze) error { return errReadOnly }

// TestCostsNothing costs nothing: no intent, no gap, no budget.
func TestCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reason = "it syncs its log before it acknowledges"
		q, err := crashsafe.New(reason)
		if err != nil {
			t.Fatal(err)
		}
		g, err := hooks.NewGroup("app", []hooks.Member{{Name: "a", Quiescer: q}, {Name: "b", Quiescer: q}}, &hooks.GroupOptions{
			Journal: readOnlyJournal{hooks.NewMemJournal()}, MinGap: time.Hour, Budget: hooks.DefaultWindow,
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			report, err := g.Do(t.Context(), "id", func(context.Context) error {
				<-time.After(time.Second)
				return nil
			})
			if err != nil || !report.Proven() || report.Frozen != 0 || report.Epoch != 0 || report.Unfinished != "" {
				t.Errorf("error %v, report %+v", err, report)
			}
			if got := string(report.Evidence["b"][crashsafe.Evidence]); got != reason {
				t.Errorf("evidence %q, want %q", got, reason)
			}
			if traits := report.Members[0].Traits; !traits.AtomicCut || traits.Scope != hooks.Application {
				t.Errorf("traits %+v", traits)
			}
		}
	})
}

// TestBesideOthers is a freeze like any other if somebody freezes.
func TestBesideOthers(t *testing.T) {
	q, err := crashsafe.New("it is")
	if err != nil {
		t.Fatal(err)
	}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "a", Quiescer: q}, {Name: "b", Quiescer: hookstest.Scripted(&hookstest.Target{}, nil)}},
		&hooks.GroupOptions{Journal: readOnlyJournal{hooks.NewMemJournal()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), "id", func(context.Context) error { return nil }); !errors.Is(err, errReadOnly) {
		t.Errorf("error %v, want the one of the journal", err)
	}
}

func TestRefuses(t *testing.T) {
	for _, reason := range []string{"", "two\nlines", strings.Repeat("x", 1025)} {
		if _, err := crashsafe.New(reason); err == nil {
			t.Errorf("a reason of %d bytes: no error", len(reason))
		}
	}
	q, err := crashsafe.New(strings.Repeat("x", 1024))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Quiesce(ctx, hooks.FreezeRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Quiesce: error %v", err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := hold.Thaw(t.Context()); err != nil {
			t.Errorf("Thaw: %v", err)
		}
	}
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held after Thaw: error %v, want hooks.ErrHoldLost", err)
	}
}

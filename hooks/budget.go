// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// TooSoonError refuses a freeze that would come too soon after others
// (GroupOptions.MinGap) or exceed what an hour may have of them
// (GroupOptions.Budget). Nothing was touched.
type TooSoonError struct {
	// Application is the name of the group.
	Application string
	// Again is when a freeze will be admitted, if there is no other until then.
	Again time.Time
	// Reason says which limit it was, for people.
	Reason string
}

// Error says when to come again.
func (e *TooSoonError) Error() string {
	return fmt.Sprintf("hooks: %q may not freeze before %s: %s", e.Application, e.Again.UTC().Format(time.RFC3339), e.Reason)
}

const (
	budgetPeriod = time.Hour
	// futureLimit is how far in the future the clock of another process may
	// have been. What lies beyond was noted by a clock that is wrong, and would
	// keep the application from freezing until that time comes.
	futureLimit = time.Minute
)

func checkBudget(o GroupOptions) error {
	if o.MinGap < 0 || o.MinGap > maxGap {
		return fmt.Errorf("hooks: minimum gap %v is not between 0 and %v", o.MinGap, maxGap)
	}
	if o.Budget != 0 && (o.Budget < o.Window || o.Budget > budgetPeriod) {
		return fmt.Errorf("hooks: budget %v is not between the window of %v and %v", o.Budget, o.Window, budgetPeriod)
	}
	if _, ok := o.Journal.(History); o.Journal != nil && o.limited() && !ok {
		return errors.New("hooks: MinGap and Budget need a journal that is a History")
	}
	return nil
}

// limited says whether the group has limits that need a history.
func (o GroupOptions) limited() bool { return o.MinGap > 0 || o.Budget > 0 }

// admit refuses a freeze that comes too soon.
func (g *Group) admit(ctx context.Context) error {
	history, ok := g.journal.(History)
	if !ok || !g.opts.limited() {
		return nil
	}
	past, err := history.Past(ctx, g.name)
	if err != nil {
		return fmt.Errorf("hooks: read the history of freezes: %w", err)
	}
	now := time.Now()
	past = slices.DeleteFunc(past, func(p PastFreeze) bool { return p.Ended.Sub(now) > futureLimit })
	slices.SortFunc(past, func(a, b PastFreeze) int { return a.Ended.Compare(b.Ended) })
	refusal := &TooSoonError{Application: g.name, Again: now}
	if n := len(past); n > 0 && g.opts.MinGap > 0 {
		refusal.later(past[n-1].Ended.Add(g.opts.MinGap), fmt.Sprintf("the gap between freezes is %v", g.opts.MinGap))
	}
	if g.opts.Budget > 0 {
		g.spend(past, refusal)
	}
	if refusal.Again.After(now) {
		return refusal
	}
	return nil
}

// spend looks for the time at which the budget has room for a whole window.
// The past is in order.
func (g *Group) spend(past []PastFreeze, refusal *TooSoonError) {
	var used time.Duration
	for _, p := range slices.Backward(past) {
		used += p.Frozen
		if used+g.opts.Window > g.opts.Budget {
			// There is room once this one, and so all before it, are past.
			refusal.later(p.Ended.Add(budgetPeriod), fmt.Sprintf(
				"the budget is %v in an hour, and the window of %v does not fit beside the last freezes", g.opts.Budget, g.opts.Window))
			return
		}
	}
}

func (e *TooSoonError) later(again time.Time, reason string) {
	if again.After(e.Again) {
		e.Again, e.Reason = again, reason
	}
}

// remember notes a freeze that is over, if the group has to know.
func (g *Group) remember(ctx context.Context, epoch Epoch, ended time.Time, frozen time.Duration) error {
	history, ok := g.journal.(History)
	if !ok || !g.opts.limited() {
		return nil
	}
	return history.Remember(ctx, PastFreeze{Epoch: epoch, Application: g.name, Ended: ended.UTC(), Frozen: frozen})
}

// rememberUnseen notes a freeze whose end nobody saw. It counts as a whole
// window, and as over now if its clock was ahead of ours.
func (g *Group) rememberUnseen(ctx context.Context, in Intent) error {
	ended, now := in.Began.Add(in.Window), time.Now()
	if ended.After(now) {
		ended = now
	}
	return g.remember(ctx, in.Epoch, ended, in.Window)
}

// SPDX-License-Identifier: Apache-2.0

// Package retention decides which recovery points to keep. It only decides: it
// reads no repository, deletes nothing and looks at no clock.
//
// A [Policy] is applied to a list of points and returns a [Plan] with one
// [Decision] for each of them:
//
//	policy := retention.Policy{Last: 3, Daily: 7, Weekly: 4, Yearly: 10}
//	plan, err := policy.Plan(points)
//
// # Whose time it is
//
// A writer can claim any time for what it writes. [Point.Time] is therefore the
// time at which the store saw the commit, such as the modification time of the
// commit record, and the only time that counts. A point that claims to come
// from the future is as old as its object.
//
// Points of one [Point.Group] are ordered by that time, and points of the same
// time by their place in the list, which is oldest first. Hours, days, weeks
// (ISO 8601), months and years are those of UTC, so that every process that
// runs the same policy decides alike.
//
// # The rules
//
// A point is kept if at least one rule keeps it, and forgotten otherwise.
//
//   - Last n keeps the n newest points of each group.
//   - Hourly, Daily, Weekly, Monthly and Yearly n keep the newest point of each
//     of the n newest hours, days… that have a point. Periods without a point
//     do not count.
//   - Within keeps what is at most that much older than the newest point of the
//     group. Where nothing is written any more, nothing gets too old.
//   - Tags keep the points that bear one of them.
//
// Whatever the rules say, points under a hold, points whose time is not known
// and the newest MinPoints of each group are kept, and a plan that forgets more
// than MaxShare of a group is an error. Somebody who can write points, and
// nothing else, can push good ones out by writing many: a rule by days, weeks
// or months next to Last makes that slow, and MaxShare makes it visible.
//
// # What holds
//
// A policy that keeps more by each of its rules keeps every point that the
// narrower one keeps. Applied to what it has left, a policy forgets nothing.
// Applied after every commit it leaves the same points as if applied once, at
// the end. Groups do not influence each other.
package retention

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"time"
)

// The values that stand for a zero field.
const (
	DefaultMinPoints = 1
	DefaultMaxShare  = 0.5
)

// ErrMaxShare reports a plan that would forget more than Policy.MaxShare of a
// group.
var ErrMaxShare = errors.New("the policy would forget too many points at once")

// Policy says what to keep. Its rules add up; see the package comment. At least
// one of them must be set. [Policy.MarshalJSON] describes its form in JSON.
type Policy struct {
	// Last is how many of the newest points of each group are kept.
	Last int
	// Hourly to Yearly are how many periods keep their newest point.
	Hourly, Daily, Weekly, Monthly, Yearly int
	// Within keeps the points that are at most so much older than the newest one
	// of their group. 0 is no rule.
	Within time.Duration
	// Tags keep the points that bear at least one of them.
	Tags []string

	// MinPoints is how many of the newest points of a group no rule can forget.
	// 0 means 1. By itself it is not a rule.
	MinPoints int
	// MaxShare is the share of a group's points, above 0 and up to 1, that one
	// plan may forget. 0 means 0.5; 1 is no limit.
	MaxShare float64
}

// Point is what a policy needs to know of a recovery point. Plan does not
// modify it.
type Point struct {
	// ID is unique in the list.
	ID string
	// Group is what the rules apply to separately, such as the name of an
	// application.
	Group string
	// Time is when the store saw the commit. The zero value means that nobody
	// knows: the point is kept and counts for no rule.
	Time time.Time
	// Tags are compared with Policy.Tags.
	Tags []string
	// Held says that the point must not be forgotten.
	Held bool
}

// Decision is what becomes of a point.
type Decision struct {
	Point Point
	// Keep is false for a point that is to be forgotten.
	Keep bool
	// Reasons say why the point is kept, for people: "last 3 of 7", "daily
	// 2026-11-20", "within 30d", "tag gold", "held", "time unknown", "minimum".
	// The last one stands for MinPoints and appears alone.
	Reasons []string
}

// Plan holds one decision for each point.
type Plan struct {
	// Decisions are in the order of the points.
	Decisions []Decision
}

// Forget returns the IDs of the points that are to be forgotten, in the order
// of the decisions.
func (p *Plan) Forget() []string {
	var ids []string
	for _, d := range p.Decisions {
		if !d.Keep {
			ids = append(ids, d.Point.ID)
		}
	}
	return ids
}

// Validate reports what is wrong with the policy, as an error that matches
// fs.ErrInvalid: a negative number, a share outside of 0 to 1, an empty tag, or
// no rule at all, which would forget everything.
func (p *Policy) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("retention: %w: "+format, append([]any{fs.ErrInvalid}, args...)...)
	}
	rules := len(p.Tags) > 0 || p.Within > 0
	for _, c := range p.counts() {
		if c.n < 0 {
			return bad("%s is %d", c.name, c.n)
		}
		rules = rules || c.n > 0
	}
	switch {
	case p.Within < 0:
		return bad("within is %s", p.Within)
	case p.MinPoints < 0:
		return bad("min_points is %d", p.MinPoints)
	case math.IsNaN(p.MaxShare) || p.MaxShare < 0 || p.MaxShare > 1:
		return bad("max_share is %v, not from 0 to 1", p.MaxShare)
	case slices.Contains(p.Tags, ""):
		return bad("an empty tag")
	case !rules:
		return bad("a policy without a rule forgets everything")
	}
	return nil
}

// count is a rule that is a number, by its name in JSON.
type count struct {
	name string
	n    int
}

func (p *Policy) counts() []count {
	return []count{
		{"last", p.Last},
		{"hourly", p.Hourly},
		{"daily", p.Daily},
		{"weekly", p.Weekly},
		{"monthly", p.Monthly},
		{"yearly", p.Yearly},
	}
}

// Plan decides what becomes of the points, which are in the order of their
// commits, oldest first. It fails with fs.ErrInvalid if the policy is invalid or
// an ID appears twice. If more than MaxShare of a group would be forgotten, it
// returns the plan together with an error that matches [ErrMaxShare]: such a
// plan is for showing, not for executing.
func (p *Policy) Plan(points []Point) (*Plan, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	plan := &Plan{Decisions: make([]Decision, len(points))}
	groups := map[string][]*Decision{}
	var names []string // of groups, in the order of the points
	ids := make(map[string]struct{}, len(points))
	for i, pt := range points {
		if _, twice := ids[pt.ID]; twice {
			return nil, fmt.Errorf("retention: %w: point %q is there twice", fs.ErrInvalid, pt.ID)
		}
		ids[pt.ID] = struct{}{}
		plan.Decisions[i].Point = pt
		if groups[pt.Group] == nil {
			names = append(names, pt.Group)
		}
		groups[pt.Group] = append(groups[pt.Group], &plan.Decisions[i])
	}
	var over []error
	for _, name := range names {
		over = append(over, p.group(name, groups[name]))
	}
	return plan, errors.Join(over...)
}

// group decides for the points of one group.
func (p *Policy) group(name string, all []*Decision) error {
	dated := make([]*Decision, 0, len(all)) // newest first
	for _, d := range slices.Backward(all) {
		if d.Point.Held {
			d.keep("held")
		}
		if d.Point.Time.IsZero() {
			d.keep("time unknown")
			continue
		}
		dated = append(dated, d)
	}
	slices.SortStableFunc(dated, func(a, b *Decision) int { return b.Point.Time.Compare(a.Point.Time) })
	for _, r := range p.rules() {
		r(dated)
	}
	for _, d := range dated[:min(len(dated), cmp.Or(p.MinPoints, DefaultMinPoints))] {
		if !d.Keep {
			d.keep("minimum")
		}
	}
	forget := 0
	for _, d := range all {
		if !d.Keep {
			forget++
		}
	}
	if share := cmp.Or(p.MaxShare, DefaultMaxShare); float64(forget) > share*float64(len(all)) {
		return fmt.Errorf("retention: %w: %d of the %d points of %q, more than %.4g %%", ErrMaxShare, forget, len(all), name, 100*share)
	}
	return nil
}

func (d *Decision) keep(reason string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, reason)
}

// SPDX-License-Identifier: Apache-2.0

package retention

import (
	"fmt"
	"slices"
	"time"
)

// rule keeps what it wants to of the points of a group, the newest first.
type rule func(newest []*Decision)

// rules returns the rules in the order in which reasons are given.
func (p *Policy) rules() []rule {
	return []rule{
		keepLast(p.Last),
		keepPeriods("hourly", p.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }),
		keepPeriods("daily", p.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }),
		keepPeriods("weekly", p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%04d-W%02d", year, week)
		}),
		keepPeriods("monthly", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }),
		keepPeriods("yearly", p.Yearly, func(t time.Time) string { return t.Format("2006") }),
		keepWithin(p.Within),
		keepTags(p.Tags),
	}
}

func keepLast(n int) rule {
	return func(newest []*Decision) {
		for i, d := range newest[:min(n, len(newest))] {
			d.keep(fmt.Sprintf("last %d of %d", i+1, n))
		}
	}
}

// keepPeriods keeps the newest point of each of the n newest periods that have
// one. Period names the one that a time in UTC is in.
func keepPeriods(name string, n int, period func(time.Time) string) rule {
	return func(newest []*Decision) {
		last, periods := "", 0
		for _, d := range newest {
			if periods == n {
				return
			}
			// Times descend, so that the points of a period are neighbours.
			if p := period(d.Point.Time.UTC()); p != last {
				last = p
				periods++
				d.keep(name + " " + p)
			}
		}
	}
}

func keepWithin(within time.Duration) rule {
	return func(newest []*Decision) {
		for _, d := range newest {
			// A difference that exceeds a Duration saturates, and so is not within.
			if within == 0 || newest[0].Point.Time.Sub(d.Point.Time) > within {
				return
			}
			d.keep("within " + formatDuration(within))
		}
	}
}

func keepTags(tags []string) rule {
	return func(newest []*Decision) {
		for _, d := range newest {
			for i, tag := range tags {
				if slices.Contains(d.Point.Tags, tag) && !slices.Contains(tags[:i], tag) {
					d.keep("tag " + tag)
				}
			}
		}
	}
}

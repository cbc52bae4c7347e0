// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo/retention"
)

// at returns a time of the store.
func at(t *testing.T, s string) time.Time {
	t.Helper()
	for _, layout := range []string{time.DateTime, time.DateOnly, time.RFC3339} {
		if v, err := time.Parse(layout, s); err == nil {
			return v
		}
	}
	t.Fatalf("time %q", s)
	return time.Time{}
}

// history returns points of one group, named by their times.
func history(t *testing.T, times ...string) []retention.Point {
	t.Helper()
	var out []retention.Point
	for _, s := range times {
		out = append(out, retention.Point{ID: s, Group: "shop", Time: at(t, s)})
	}
	return out
}

// reasons returns why points are kept, by ID.
func reasons(p *retention.Plan) map[string][]string {
	out := map[string][]string{}
	for _, d := range p.Decisions {
		if d.Keep {
			out[d.Point.ID] = d.Reasons
		}
	}
	return out
}

func TestRules(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy retention.Policy
		points []retention.Point
		want   map[string][]string
	}{
		"no points": {retention.Policy{Last: 1}, nil, map[string][]string{}},
		"last": {
			retention.Policy{Last: 2},
			history(t, "2026-11-18", "2026-11-19", "2026-11-20"),
			map[string][]string{"2026-11-20": {"last 1 of 2"}, "2026-11-19": {"last 2 of 2"}},
		},
		"hourly": {
			retention.Policy{Hourly: 2},
			history(t, "2026-11-20 09:59:59", "2026-11-20 10:00:00", "2026-11-20 10:59:59", "2026-11-20 14:00:00"),
			map[string][]string{"2026-11-20 14:00:00": {"hourly 2026-11-20T14"}, "2026-11-20 10:59:59": {"hourly 2026-11-20T10"}},
		},
		"daily skips days without points": {
			retention.Policy{Daily: 2},
			history(t, "2026-11-10 01:00:00", "2026-11-10 23:59:59", "2026-11-20 00:00:00", "2026-11-20 00:00:01"),
			map[string][]string{"2026-11-20 00:00:01": {"daily 2026-11-20"}, "2026-11-10 23:59:59": {"daily 2026-11-10"}},
		},
		"days are those of UTC": {
			retention.Policy{Daily: 1},
			history(t, "2026-11-20T01:00:00+02:00", "2026-11-19T22:00:00-02:00", "2026-11-20T04:00:00Z"),
			map[string][]string{"2026-11-20T04:00:00Z": {"daily 2026-11-20"}},
		},
		"weekly is ISO": {
			retention.Policy{Weekly: 2},
			history(t, "2026-12-27", "2026-12-28", "2027-01-03", "2027-01-04"),
			map[string][]string{"2027-01-04": {"weekly 2027-W01"}, "2027-01-03": {"weekly 2026-W53"}},
		},
		"monthly and yearly": {
			retention.Policy{Monthly: 2, Yearly: 2},
			history(t, "2024-05-01", "2025-05-01", "2025-12-31", "2026-01-01"),
			map[string][]string{
				"2026-01-01": {"monthly 2026-01", "yearly 2026"}, "2025-12-31": {"monthly 2025-12", "yearly 2025"},
			},
		},
		"within is counted from the newest point": {
			retention.Policy{Within: 48 * time.Hour},
			history(t, "1999-11-17", "1999-11-18", "1999-11-20"),
			map[string][]string{"1999-11-20": {"within 2d"}, "1999-11-18": {"within 2d"}},
		},
		"within more than a duration": {
			retention.Policy{Within: math.MaxInt64 - 1},
			history(t, "0001-01-02", "2300-11-20"),
			map[string][]string{"2300-11-20": {"within 106751d23h47m16.854775806s"}},
		},
		"tags": {
			retention.Policy{Tags: []string{"gold", "silver", "gold"}, MaxShare: 1},
			[]retention.Point{
				{ID: "a", Time: at(t, "2026-11-18"), Tags: []string{"gold", "silver", "lead"}},
				{ID: "b", Time: at(t, "2026-11-19"), Tags: []string{"lead", "golden"}},
				{ID: "c", Time: at(t, "2026-11-20")},
			},
			map[string][]string{"a": {"tag gold", "tag silver"}, "c": {"minimum"}},
		},
		"held": {
			retention.Policy{Last: 1},
			[]retention.Point{
				{ID: "a", Time: at(t, "2026-11-18")},
				{ID: "b", Time: at(t, "2026-11-19"), Held: true},
				{ID: "c", Time: at(t, "2026-11-20"), Held: true},
			},
			map[string][]string{"b": {"held"}, "c": {"held", "last 1 of 1"}},
		},
		"unknown times count for nothing": {
			retention.Policy{Last: 1},
			[]retention.Point{{ID: "a", Time: at(t, "2026-11-18")}, {ID: "b", Time: at(t, "2026-11-19")}, {ID: "c"}},
			map[string][]string{"b": {"last 1 of 1"}, "c": {"time unknown"}},
		},
		"minimum": {
			retention.Policy{Tags: []string{"gold"}, MinPoints: 2},
			history(t, "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"),
			map[string][]string{"2026-11-19": {"minimum"}, "2026-11-20": {"minimum"}},
		},
		"groups are separate": {
			retention.Policy{Last: 1},
			[]retention.Point{
				{ID: "a", Group: "x", Time: at(t, "2026-11-18")},
				{ID: "b", Group: "y", Time: at(t, "2026-11-17")},
				{ID: "c", Group: "x", Time: at(t, "2026-11-19")},
				{ID: "d", Time: at(t, "2026-11-16")},
			},
			map[string][]string{"b": {"last 1 of 1"}, "c": {"last 1 of 1"}, "d": {"last 1 of 1"}},
		},
		"the place in the list decides between equal times": {
			retention.Policy{Last: 1},
			[]retention.Point{{ID: "a", Time: at(t, "2026-11-18")}, {ID: "b", Time: at(t, "2026-11-18")}},
			map[string][]string{"b": {"last 1 of 1"}},
		},
		"the order of the list does not, else": {
			retention.Policy{Last: 1},
			history(t, "2026-11-20", "2026-11-19"),
			map[string][]string{"2026-11-20": {"last 1 of 1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := tc.policy.Plan(tc.points)
			if err != nil && !errors.Is(err, retention.ErrMaxShare) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, reasons(plan)); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			for i, d := range plan.Decisions {
				if d.Point.ID != tc.points[i].ID {
					t.Errorf("decision %d is about %q", i, d.Point.ID)
				}
			}
			if got := len(plan.Forget()) + len(reasons(plan)); got != len(tc.points) {
				t.Errorf("%d points, %d decided", len(tc.points), got)
			}
		})
	}
}

// TestMaxShare is counted by group: a small one must not hide in a large one.
func TestMaxShare(t *testing.T) {
	t.Parallel()
	points := func(group string, n int) (out []retention.Point) {
		for i := range n {
			out = append(out, retention.Point{ID: fmt.Sprint(group, i), Group: group, Time: at(t, "2026-11-20").Add(time.Duration(i) * time.Second)})
		}
		return out
	}
	for _, tc := range []struct {
		n      int
		share  float64
		last   int
		forget int
		over   bool
	}{
		{n: 1, last: 1, forget: 0},
		{n: 2, last: 1, forget: 1},
		{n: 3, last: 1, forget: 2, over: true},
		{n: 3, last: 2, forget: 1},
		{n: 3, last: 1, share: 1, forget: 2},
		{n: 100, last: 1, share: 1, forget: 99},
		{n: 100, last: 50, forget: 50},
		{n: 100, last: 49, forget: 51, over: true},
		{n: 100, last: 90, share: 0.1, forget: 10},
		{n: 100, last: 89, share: 0.1, forget: 11, over: true},
	} {
		p := retention.Policy{Last: tc.last, MaxShare: tc.share}
		plan, err := p.Plan(points("a", tc.n))
		if errors.Is(err, retention.ErrMaxShare) != tc.over || !tc.over && err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		if got := len(plan.Forget()); got != tc.forget {
			t.Errorf("%+v: forgets %d", tc, got)
		}
	}
	p := retention.Policy{Last: 10}
	if _, err := p.Plan(append(points("a", 10), points("b", 21)...)); !errors.Is(err, retention.ErrMaxShare) {
		t.Errorf("11 of 21 in one of two groups: %v", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]retention.Policy{
		"zero":              {},
		"minimum alone":     {MinPoints: 3},
		"share alone":       {MaxShare: 0.1},
		"negative last":     {Last: -1, Daily: 1},
		"negative yearly":   {Last: 1, Yearly: -1},
		"negative within":   {Last: 1, Within: -time.Second},
		"negative minimum":  {Last: 1, MinPoints: -1},
		"share below 0":     {Last: 1, MaxShare: -0.1},
		"share above 1":     {Last: 1, MaxShare: 1.1},
		"share not a share": {Last: 1, MaxShare: math.NaN()},
		"empty tag":         {Last: 1, Tags: []string{""}},
	} {
		if err := p.Validate(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if plan, err := p.Plan(history(t, "2026-11-20")); plan != nil || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: plan %v, %v", name, plan, err)
		}
	}
	p := retention.Policy{Last: 1}
	if plan, err := p.Plan(history(t, "2026-11-20", "2026-11-21", "2026-11-20")); plan != nil || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a point twice: plan %v, %v", plan, err)
	}
}

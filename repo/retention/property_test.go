// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo/retention"
)

// commit is what happened: the store saw a commit at its own time, and the
// writer claimed another one.
type commit struct {
	retention.Point
	claimed time.Time
}

// randomHistory returns commits in the order of the store. The writers claim
// what suits them: the distant future, the past, or the time of a good point.
func randomHistory(rng *rand.Rand) []commit {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rng.Int64N(int64(1000 * time.Hour))))
	gap := []time.Duration{time.Second, time.Minute, 20 * time.Minute, 5 * time.Hour, 30 * time.Hour, 20 * 24 * time.Hour}[rng.IntN(6)]
	var out []commit
	for i := range rng.IntN(40) {
		if rng.IntN(5) > 0 { // or in the same second
			now = now.Add(time.Duration(rng.Int64N(int64(2 * gap))))
		}
		c := commit{Point: retention.Point{ID: fmt.Sprint(i), Group: "g" + fmt.Sprint(rng.IntN(2)), Time: now, Held: rng.IntN(20) == 0}}
		if rng.IntN(10) == 0 {
			c.Tags = []string{"gold"}
		}
		if rng.IntN(30) == 0 {
			c.Time = time.Time{}
		}
		switch rng.IntN(4) {
		case 0:
			c.claimed = now
		case 1:
			c.claimed = time.Unix(rng.Int64N(1<<38), rng.Int64N(1e9))
		case 2:
			c.claimed = now.AddDate(1000, 0, 0)
		default:
			c.claimed = now.Add(-time.Duration(rng.Int64N(int64(100 * gap))))
		}
		out = append(out, c)
	}
	return out
}

// points returns what a janitor sees of the commits.
func points(h []commit) []retention.Point {
	out := make([]retention.Point, 0, len(h))
	for _, c := range h {
		out = append(out, c.Point)
	}
	return out
}

func randomPolicy(rng *rand.Rand) retention.Policy {
	n := func() int { return max(0, rng.IntN(12)-5) }
	p := retention.Policy{Last: n(), Hourly: n(), Daily: n(), Weekly: n(), Monthly: n(), Yearly: n(), MinPoints: max(0, n()-3), MaxShare: 1}
	if rng.IntN(3) == 0 {
		p.Within = time.Duration(rng.Int64N(int64(2000 * time.Hour)))
	}
	if rng.IntN(4) == 0 {
		p.Tags = []string{"gold"}
	}
	if p.Validate() != nil {
		p.Last = 1
	}
	return p
}

// wider returns a policy that keeps at least as much by each of its rules.
func wider(rng *rand.Rand, p retention.Policy) retention.Policy {
	for _, n := range []*int{&p.Last, &p.Hourly, &p.Daily, &p.Weekly, &p.Monthly, &p.Yearly, &p.MinPoints} {
		if rng.IntN(2) == 0 {
			*n += rng.IntN(4)
		}
	}
	p.MinPoints = max(p.MinPoints, 1)
	p.Within += time.Duration(rng.Int64N(int64(500 * time.Hour)))
	p.Tags = append(slices.Clip(p.Tags), "silver")
	return p
}

// kept returns the points that the policy keeps, in their order.
func kept(t *testing.T, p retention.Policy, pts []retention.Point) []retention.Point {
	t.Helper()
	plan, err := p.Plan(pts)
	if err != nil {
		t.Fatal(err)
	}
	var out []retention.Point
	for _, d := range plan.Decisions {
		if d.Keep != (len(d.Reasons) > 0) {
			t.Fatalf("%+v", d)
		}
		if d.Keep {
			out = append(out, d.Point)
		}
	}
	return out
}

func ids(pts []retention.Point) []string {
	out := []string{}
	for _, p := range pts {
		out = append(out, p.ID)
	}
	return out
}

// spec decides by the words of the manual, one point at a time.
func spec(p retention.Policy, pts []retention.Point, i int) bool {
	pt := pts[i]
	if pt.Held || pt.Time.IsZero() || slices.ContainsFunc(pt.Tags, func(s string) bool { return slices.Contains(p.Tags, s) }) {
		return true
	}
	var newer []time.Time
	for j, o := range pts {
		if o.Group == pt.Group && (o.Time.After(pt.Time) || o.Time.Equal(pt.Time) && j > i) {
			newer = append(newer, o.Time.UTC())
		}
	}
	if len(newer) < max(p.Last, p.MinPoints, 1) {
		return true
	}
	if p.Within > 0 && slices.MaxFunc(newer, time.Time.Compare).Sub(pt.Time) <= p.Within {
		return true
	}
	monday := func(t time.Time) time.Time { return t.AddDate(0, 0, -(int(t.Weekday())+6)%7).Truncate(24 * time.Hour) }
	for _, r := range []struct {
		n     int
		start func(time.Time) time.Time
	}{
		{p.Hourly, func(t time.Time) time.Time { return t.Truncate(time.Hour) }},
		{p.Daily, func(t time.Time) time.Time { return t.Truncate(24 * time.Hour) }},
		{p.Weekly, monday},
		{p.Monthly, func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }},
		{p.Yearly, func(t time.Time) time.Time { return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		periods := map[time.Time]bool{}
		for _, t := range newer {
			periods[r.start(t)] = true
		}
		if !periods[r.start(pt.Time.UTC())] && len(periods) < r.n {
			return true
		}
	}
	return false
}

// TestHistories holds the promises of the package comment against many
// histories.
func TestHistories(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 100_000
	if testing.Short() {
		n /= 20
	}
	for round := range n {
		h, p := randomHistory(rng), randomPolicy(rng)
		pts := points(h)
		keep := kept(t, p, pts)
		fail := func(what string, got any) {
			t.Helper()
			t.Fatalf("round %d: %s\npolicy  %+v\npoints  %+v\nkept    %q\ngot     %v", round, what, p, pts, ids(keep), got)
		}
		var want []string
		for i := range pts {
			if spec(p, pts, i) {
				want = append(want, pts[i].ID)
			}
		}
		if !slices.Equal(ids(keep), want) && len(keep)+len(want) > 0 {
			fail("not what the manual says", want)
		}
		if again := kept(t, p, keep); !slices.Equal(ids(again), ids(keep)) {
			fail("a second run forgets more", ids(again))
		}
		more := ids(kept(t, wider(rng, p), pts))
		for _, id := range ids(keep) {
			if !slices.Contains(more, id) {
				fail("a wider policy forgets "+id, more)
			}
		}
		if got := forged(t, rng, p, h); !slices.Equal(got, ids(keep)) {
			fail("what the writers claim matters", got)
		}
		if round%10 == 0 {
			if got := stepwise(t, p, h); !slices.Equal(got, ids(keep)) {
				fail("a run after every commit leaves other points", got)
			}
		}
	}
}

// forged decides once more, with all that a writer controls telling of the time
// that it claims: its ID, its tags, and when it can be seen.
func forged(t *testing.T, rng *rand.Rand, p retention.Policy, h []commit) []string {
	t.Helper()
	type forgery struct {
		retention.Point
		id      string
		claimed time.Time
	}
	var fs []forgery
	for _, c := range h {
		f := forgery{Point: c.Point, id: c.ID, claimed: c.claimed}
		f.ID = c.claimed.Format(time.RFC3339Nano) + " " + c.ID
		f.Tags = append(slices.Clip(f.Tags), "time="+f.ID)
		f.Time = f.Time.In(time.FixedZone("claimed", rng.IntN(86400)-43200)) // the same instant
		if c.Time.IsZero() {
			f.Time = time.Time{}
		}
		fs = append(fs, f)
	}
	// A caller may well list points by the times that they claim, as long as
	// the store's times differ.
	if distinct(h) {
		slices.SortStableFunc(fs, func(a, b forgery) int { return b.claimed.Compare(a.claimed) })
	}
	var pts []retention.Point
	real := map[string]string{}
	for _, f := range fs {
		pts = append(pts, f.Point)
		real[f.ID] = f.id
	}
	var out []string
	for _, pt := range kept(t, p, pts) {
		out = append(out, real[pt.ID])
	}
	order := ids(points(h))
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(slices.Index(order, a), slices.Index(order, b)) })
	return out
}

// distinct reports whether no two commits have the same time.
func distinct(h []commit) bool {
	seen := map[time.Time]bool{}
	for _, c := range h {
		if seen[c.Time] {
			return false
		}
		seen[c.Time] = true
	}
	return true
}

// stepwise applies the policy after every commit.
func stepwise(t *testing.T, p retention.Policy, h []commit) []string {
	t.Helper()
	var left []retention.Point
	for _, c := range h {
		left = kept(t, p, append(left, c.Point))
	}
	return ids(left)
}

// TestCaps never lets a plan pass that exceeds its caps.
func TestCaps(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for range 20_000 {
		pts, p := points(randomHistory(rng)), randomPolicy(rng)
		p.MaxShare = []float64{0, 0.1, 0.5, 0.9}[rng.IntN(4)]
		plan, err := p.Plan(pts)
		all, forget, newest := map[string]int{}, map[string]int{}, map[string]retention.Decision{}
		for _, d := range plan.Decisions {
			all[d.Point.Group]++
			if !d.Keep {
				forget[d.Point.Group]++
			}
			if n, ok := newest[d.Point.Group]; !d.Point.Time.IsZero() && (!ok || !d.Point.Time.Before(n.Point.Time)) {
				newest[d.Point.Group] = d
			}
		}
		over := false
		for g, n := range forget {
			over = over || float64(n) > cmp.Or(p.MaxShare, 0.5)*float64(all[g])
			if all[g]-n < min(all[g], max(p.MinPoints, 1)) {
				t.Fatalf("%+v leaves %d of %d points in %s", p, all[g]-n, all[g], g)
			}
		}
		for _, d := range newest {
			if !d.Keep {
				t.Fatalf("%+v forgets the newest point: %+v", p, d)
			}
		}
		if over != (err != nil) {
			t.Fatalf("%+v: %v, forgets %v of %v", p, err, forget, all)
		}
		if over {
			refused++
		}
	}
	if refused < 100 {
		t.Errorf("only %d plans were refused: the test tests nothing", refused)
	}
}

// SPDX-License-Identifier: Apache-2.0

package retention

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
)

// policyJSON is a Policy in JSON.
type policyJSON struct {
	Last      int      `json:"last,omitempty"`
	Hourly    int      `json:"hourly,omitempty"`
	Daily     int      `json:"daily,omitempty"`
	Weekly    int      `json:"weekly,omitempty"`
	Monthly   int      `json:"monthly,omitempty"`
	Yearly    int      `json:"yearly,omitempty"`
	Within    string   `json:"within,omitempty"`
	Tags      []string `json:"tags,omitempty"`
	MinPoints int      `json:"min_points,omitempty"`
	MaxShare  float64  `json:"max_share,omitempty"`
}

// MarshalJSON returns an object with the members that are not zero:
//
//	{"last": 3, "hourly": 24, "daily": 7, "weekly": 4, "monthly": 12, "yearly": 10,
//	 "within": "30d", "tags": ["gold"], "min_points": 2, "max_share": 0.5}
func (p Policy) MarshalJSON() ([]byte, error) {
	j := policyJSON{
		Last: p.Last, Hourly: p.Hourly, Daily: p.Daily, Weekly: p.Weekly, Monthly: p.Monthly, Yearly: p.Yearly,
		Tags: p.Tags, MinPoints: p.MinPoints, MaxShare: p.MaxShare,
	}
	if p.Within != 0 {
		j.Within = formatDuration(p.Within)
	}
	return json.Marshal(j)
}

// UnmarshalJSON replaces the policy by what [Policy.MarshalJSON] describes and
// validates it. A member that it does not know is an error: a misspelt rule must
// not become one that is missing.
func (p *Policy) UnmarshalJSON(b []byte) error {
	var j policyJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("retention: policy: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("retention: policy: %w: more than one value", fs.ErrInvalid)
	}
	q := Policy{
		Last: j.Last, Hourly: j.Hourly, Daily: j.Daily, Weekly: j.Weekly, Monthly: j.Monthly, Yearly: j.Yearly,
		Tags: j.Tags, MinPoints: j.MinPoints, MaxShare: j.MaxShare,
	}
	if j.Within != "" {
		var err error
		if q.Within, err = ParseDuration(j.Within); err != nil {
			return err
		}
	}
	if err := q.Validate(); err != nil {
		return err
	}
	*p = q
	return nil
}

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// ParseDuration parses what time.ParseDuration does, with weeks of seven and
// days of 24 hours allowed in front: "30d", "2w", "1w2d12h30m". The error
// matches fs.ErrInvalid. A duration is at most some 292 years.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("retention: %w: duration %q, want one such as 36h, 30d or 2w", fs.ErrInvalid, s)
	var total time.Duration
	rest := s
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"w", week}, {"d", day}} {
		number, after, ok := strings.Cut(rest, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/unit.length {
			return 0, bad
		}
		total += time.Duration(n) * unit.length
		rest = after
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total {
		return 0, bad
	}
	return total + d, nil
}

// formatDuration returns the shortest text that ParseDuration takes for d.
func formatDuration(d time.Duration) string {
	days, rest := d/day, d%day
	if days == 0 || d < 0 {
		return d.String()
	}
	s := strconv.FormatInt(int64(days), 10) + "d"
	if rest > 0 {
		s += rest.String()
	}
	return s
}

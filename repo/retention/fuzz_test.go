// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stillpoint-go/protect/repo/retention"
)

// FuzzPolicy parses what users write. What is accepted is valid, and means the
// same when it is written again.
func FuzzPolicy(f *testing.F) {
	for _, p := range []retention.Policy{
		{Last: 1},
		{Last: 3, Hourly: 24, Daily: 7, Weekly: 4, Monthly: 12, Yearly: 10, Within: 30 * 24 * time.Hour, Tags: []string{"gold"}, MinPoints: 2, MaxShare: 0.25},
		{Within: 36*time.Hour + 5*time.Millisecond},
		{Tags: []string{"a", "b"}, MaxShare: 1},
	} {
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{`{"last":1,"lst":2}`, `{"last":-1}`, `{"last":1} {}`, `{"within":"1w2d3h"}`, `{"last":1,"max_share":1e400}`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p retention.Policy
		if err := p.UnmarshalJSON(b); err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("%s is invalid: %v", b, err)
		}
		line, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again retention.Policy
		if err := json.Unmarshal(line, &again); err != nil {
			t.Fatalf("%s became %s: %v", b, line, err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s became %s (-want +got):\n%s", b, line, diff)
		}
	})
}

// FuzzDuration parses durations, and compares with what the standard library
// makes of those without weeks and days.
func FuzzDuration(f *testing.F) {
	for _, s := range []string{"30d", "2w", "1w2d12h30m", "36h", "1.5h", "", "d", "-1d", "1d-1h", "0", "106751d", "106752d", "15250w", "1d23h47m16.854775807s", "1µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := retention.ParseDuration(s)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("unexpected class of error: %v", err)
			}
			if d, err := time.ParseDuration(s); err == nil && d >= 0 {
				t.Fatalf("%q is %s, and was refused", s, d)
			}
			return
		}
		if d < 0 {
			t.Fatalf("%q is %s", s, d)
		}
		if std, err := time.ParseDuration(s); err == nil && std != d {
			t.Fatalf("%q is %s, not %s", s, d, std)
		}
	})
}

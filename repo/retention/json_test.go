// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo/retention"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	full := retention.Policy{
		Last: 3, Hourly: 24, Daily: 7, Weekly: 4, Monthly: 12, Yearly: 10, Within: 30 * 24 * time.Hour,
		Tags: []string{"gold"}, MinPoints: 2, MaxShare: 0.25,
	}
	const text = `{"last":3,"hourly":24,"daily":7,"weekly":4,"monthly":12,"yearly":10,"within":"30d","tags":["gold"],"min_points":2,"max_share":0.25}`
	b, err := json.Marshal(full)
	if err != nil || string(b) != text {
		t.Errorf("Marshal: %s, %v", b, err)
	}
	var got retention.Policy
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full, got); diff != "" {
		t.Errorf("Unmarshal (-want +got):\n%s", diff)
	}
	if b, err := json.Marshal(struct{ P retention.Policy }{retention.Policy{Daily: 7}}); err != nil || string(b) != `{"P":{"daily":7}}` {
		t.Errorf("Marshal: %s, %v", b, err)
	}
}

func TestJSONRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"last":1,"dayly":7}`, `{"last":-1}`, `{"last":1.5}`, `{"within":"soon"}`, `{"within":30}`,
		`{"last":1,"within":"-1h"}`, `{"last":1,"max_share":2}`, `{"last":1,"tags":[""]}`, `{"last":1}{"last":2}`, `{"last":1`,
	} {
		p := retention.Policy{Yearly: 1}
		if err := p.UnmarshalJSON([]byte(text)); err == nil || p.Yearly != 1 {
			t.Errorf("%s: %v, policy %+v", text, err, p)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "0d": 0, "36h": 36 * time.Hour, "30d": 30 * day, "2w": 14 * day, "1w2d12h30m": 9*day + 12*time.Hour + 30*time.Minute,
		"1d1ns": day + 1, "106751d23h47m16.854775807s": math.MaxInt64, "15250w": 15250 * 7 * day,
	} {
		if got, err := retention.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "d", "w", "-1d", "+1d", "1d-1h", "-1h", "1d2w", "1d2d", "1.5d", "1y", "30", "106752d", "106751d24h", "15251w", "99999999999d", "1d ", " 1d", "1_0d",
	} {
		if got, err := retention.ParseDuration(text); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestJSONRoundTrip gives every policy back.
func TestJSONRoundTrip(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		want := randomPolicy(rng)
		want.Within = time.Duration(rng.Int64() >> rng.IntN(63))
		want.MaxShare = rng.Float64()
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got retention.Policy
		if err := json.Unmarshal(b, &got); want.Validate() == nil && err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(want, got); diff != "" && want.Validate() == nil {
			t.Fatalf("%s (-want +got):\n%s", b, diff)
		}
	}
}

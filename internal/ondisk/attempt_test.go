// SPDX-License-Identifier: Apache-2.0

package ondisk_test

import (
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

func TestAttempt(t *testing.T) {
	a := ondisk.Attempt{Name: [16]byte{1, 0xab}, N: 0x1f}
	got, err := ondisk.ParseAttempt(strings.TrimPrefix(a.Key(), ondisk.PointPrefix))
	if err != nil || got != a {
		t.Errorf("ParseAttempt(%q) = %v, %v", a.Key(), got, err)
	}
	holder := [16]byte{7}
	got, h, err := ondisk.ParseHold(strings.TrimPrefix(a.HoldKey(holder), ondisk.HoldPrefix))
	if err != nil || got != a || h != holder {
		t.Errorf("ParseHold(%q) = %v, %x, %v", a.HoldKey(holder), got, h, err)
	}
	s := a.String()
	for _, bad := range []string{"", "-", s[1:], s + "0", strings.ToUpper(s), s[:32], s[:33], s[:32] + "-+000001f", s[:32] + "-0000000g", "zz" + s[2:], s + "-"} {
		if got, err := ondisk.ParseAttempt(bad); err == nil {
			t.Errorf("ParseAttempt(%q) = %v", bad, got)
		}
		if got, _, err := ondisk.ParseHold(bad + "-"); err == nil {
			t.Errorf("ParseHold(%q) = %v", bad, got)
		}
	}
	for _, bad := range []string{s, s + "-", s + "-00", s + "-" + strings.Repeat("0", 31) + "G", s + "x" + strings.Repeat("0", 32)} {
		if got, _, err := ondisk.ParseHold(bad); err == nil {
			t.Errorf("ParseHold(%q) = %v", bad, got)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Attempt names one attempt to commit a recovery point: the keyed hash of the
// caller's id, and a number that rises when an attempt was fenced or its point
// forgotten. At most one attempt of a name is live.
type Attempt struct {
	Name [16]byte
	N    uint32
}

// String returns the attempt as it stands in object keys.
func (a Attempt) String() string { return fmt.Sprintf("%x-%08x", a.Name, a.N) }

// attemptLen is the length of what String returns.
const attemptLen = 32 + 1 + 8

// ParseAttempt parses what String returns, and nothing else.
func ParseAttempt(s string) (Attempt, error) {
	var a Attempt
	name, n, _ := strings.Cut(s, "-")
	b, err := hex.DecodeString(name)
	num, nerr := strconv.ParseUint(n, 16, 32)
	copy(a.Name[:], b)
	a.N = uint32(num) // 32 bits, see above
	if err != nil || nerr != nil || a.String() != s {
		return Attempt{}, fmt.Errorf("%w: attempt %q", ErrMalformed, s)
	}
	return a, nil
}

// Key returns the commit key: where the attempt's point, or its fence, is.
func (a Attempt) Key() string { return PointPrefix + a.String() }

// ForgetKey returns where the mark is that the attempt's point is forgotten.
func (a Attempt) ForgetKey() string { return ForgetPrefix + a.String() }

// HoldKey returns where the mark is by which the holder keeps the point.
func (a Attempt) HoldKey(holder [16]byte) string {
	return fmt.Sprintf("%s%s-%x", HoldPrefix, a, holder)
}

// ParseHold returns the attempt and the holder of a hold's key, whose prefix
// is cut.
func ParseHold(s string) (a Attempt, holder [16]byte, err error) {
	if len(s) < attemptLen {
		return a, holder, fmt.Errorf("%w: hold %q", ErrMalformed, s)
	}
	if a, err = ParseAttempt(s[:attemptLen]); err != nil {
		return a, holder, err
	}
	b, err := hex.DecodeString(strings.TrimPrefix(s[attemptLen:], "-"))
	copy(holder[:], b)
	if err != nil || a.HoldKey(holder) != HoldPrefix+s {
		return a, holder, fmt.Errorf("%w: hold %q", ErrMalformed, s)
	}
	return a, holder, nil
}

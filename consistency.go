// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"fmt"
	"slices"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/snapshot"
)

// Consistency is what a recovery point proved to be. Higher is stronger.
type Consistency int

const (
	// None promises nothing: volumes were read while they may have changed.
	None Consistency = iota
	// CrashSingle means that each volume is as it was at one instant, but not
	// all at the same.
	CrashSingle
	// CrashGroup means that all volumes are as they were at one and the same
	// instant, as after a power failure.
	CrashGroup
	// FilesystemGroup means that in addition no write was in flight: every
	// volume was held still, and proved it, while all of them were cut.
	FilesystemGroup
	// ApplicationConsistent means that the application itself had declared its
	// data consistent, and proved that it held still while all volumes were
	// cut.
	ApplicationConsistent
)

//nolint:gochecknoglobals // a table that is only read
var consistencyNames = []string{"none", "crash-single", "crash-group", "filesystem-group", "application"}

// String returns the name of the level, such as "crash-group".
func (c Consistency) String() string {
	if c < 0 || int(c) >= len(consistencyNames) {
		return fmt.Sprintf("Consistency(%d)", int(c))
	}
	return consistencyNames[c]
}

// MarshalText implements encoding.TextMarshaler.
func (c Consistency) MarshalText() ([]byte, error) {
	if c < 0 || int(c) >= len(consistencyNames) {
		return nil, fmt.Errorf("protect: no such consistency: %d", int(c))
	}
	return []byte(consistencyNames[c]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Consistency) UnmarshalText(text []byte) error {
	i := slices.Index(consistencyNames, string(text))
	if i < 0 {
		return fmt.Errorf("protect: no such consistency: %q", text)
	}
	*c = Consistency(i)
	return nil
}

// level computes what a cut proved. It counts only members that proved their
// hold, and is as strong as the weakest volume.
func level(app *Application, rep *hooks.Report, set *snapshot.Set) Consistency {
	held := weakestHold(app, rep, set.Atomic())
	single := true // every volume shows one instant
	for _, v := range app.held() {
		l := heldLevel(app, rep, v.Name, set.Atomic())
		s, ok := set.Snapshot(v.ID)
		single = single && (l > None || ok && s.Info().PointInTime)
	}
	switch {
	case held > None:
		return held
	case set.Atomic():
		return CrashGroup
	case single:
		return CrashSingle
	default:
		return None
	}
}

// weakestHold returns what the holds prove of all volumes; atomic says whether
// these were cut at one instant.
func weakestHold(app *Application, rep *hooks.Report, atomic bool) Consistency {
	held := ApplicationConsistent
	for _, v := range app.held() {
		held = min(held, heldLevel(app, rep, v.Name, atomic))
	}
	return held
}

// heldLevel returns the strongest proven hold on a volume.
func heldLevel(app *Application, rep *hooks.Report, volume string, atomic bool) Consistency {
	best := None
	if rep.Overrun() {
		return best
	}
	for i, m := range app.Members {
		if !rep.Members[i].Proven || len(m.Volumes) > 0 && !slices.Contains(m.Volumes, volume) {
			continue
		}
		if rep.Members[i].Traits.AtomicCut && !atomic {
			continue
		}
		l := FilesystemGroup
		if rep.Members[i].Traits.Scope == hooks.Application {
			l = ApplicationConsistent
		}
		best = max(best, l)
	}
	return best
}

// cutDoubts says which proven holds the cut made worthless.
func cutDoubts(rep *hooks.Report, atomic bool) []string {
	var doubts []string
	for _, m := range rep.Members {
		if m.Proven && m.Traits.AtomicCut && !atomic {
			doubts = append(doubts, fmt.Sprintf("member %q: it freezes nothing and needs a cut at one instant, which this was not", m.Name))
		}
	}
	return doubts
}

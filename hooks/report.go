// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"fmt"
	"time"
)

// Report says what a freeze was and what it proves.
type Report struct {
	// Epoch numbers the freeze; zero if no member freezes anything.
	Epoch Epoch
	// Window is the configured longest time for the freeze.
	Window time.Duration
	// Frozen is the measured time from the begin of the first Quiesce to the
	// return of the last Thaw: the longest any member can have been frozen.
	// Zero if no member freezes anything.
	Frozen time.Duration
	// Quiesce is the part of Frozen until every member held.
	Quiesce time.Duration
	// Cut is the part of Frozen that the cut took.
	Cut time.Duration
	// Thaw is the part of Frozen that the thaws took, all together.
	Thaw time.Duration
	// Members are the members in the order of the group, also those that were
	// not reached.
	Members []MemberReport
	// Evidence is what the members want stored with the recovery point, by
	// name of the member. Members without evidence have no entry.
	Evidence map[string]Evidence
	// Unfinished is empty, or says why the intent of this freeze could not be
	// ended in the journal although every member has thawed. The next freeze
	// or Recover ends it.
	Unfinished string
}

// MemberReport is the part of one member in a Report.
type MemberReport struct {
	Name   string
	Traits Traits
	// Rank is the member's place in the order of freezing, counted from 0.
	// Members of one rank freeze at the same time.
	Rank int
	// Quiesce is how long it took to freeze.
	Quiesce time.Duration
	// Hold is the time from the return of Quiesce to the call of Thaw.
	Hold time.Duration
	// Thaw is how long it took to thaw, repetitions included.
	Thaw time.Duration
	// Proven says that the member answered, after a cut that succeeded and
	// again when it was thawed, that the freeze held without a gap.
	Proven bool
	// Lost is empty, or says why the hold is not proven.
	Lost string
	// Err is empty, or says what failed: the quiesce, or a thaw that was not
	// acknowledged.
	Err string
}

// Overrun says that the members were frozen for longer than the window.
func (r *Report) Overrun() bool { return r.Frozen > r.Window }

// Proven says that the cut happened while every member held, that every
// member confirmed it, and that the window was kept. A group without members
// proves nothing. What a proof is worth is in the Traits of the members.
func (r *Report) Proven() bool {
	return len(r.Members) > 0 && len(r.Doubts()) == 0
}

// Doubts lists, for people, why the freeze is not proven. It is empty for a
// proven freeze and for a group without members.
func (r *Report) Doubts() []string {
	var doubts []string
	for _, m := range r.Members {
		switch {
		case m.Err != "":
			doubts = append(doubts, fmt.Sprintf("member %q: %s", m.Name, m.Err))
		case m.Lost != "":
			doubts = append(doubts, fmt.Sprintf("member %q: %s", m.Name, m.Lost))
		case !m.Proven:
			doubts = append(doubts, fmt.Sprintf("member %q: no proof was asked for, since the freeze or the cut failed", m.Name))
		}
	}
	if len(r.Members) > 0 && r.Overrun() {
		doubts = append(doubts, fmt.Sprintf("frozen for %v, the window is %v", r.Frozen, r.Window))
	}
	return doubts
}

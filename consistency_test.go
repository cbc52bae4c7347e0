// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

func TestLevel(t *testing.T) {
	app := hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
	fs := hooks.Traits{Release: hooks.Session, Scope: hooks.Filesystem}
	cut := hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}
	lose := []hookstest.Fault{{Op: hookstest.Held, Kind: hookstest.Lose}}
	tests := []struct {
		name   string
		fake   snapshottest.FakeOptions
		traits hooks.Traits
		faults []hookstest.Fault
		edit   func(*protect.Application)
		want   protect.Consistency
		doubts bool
	}{
		{name: "application", traits: app, want: protect.ApplicationConsistent},
		{name: "file system", traits: fs, want: protect.FilesystemGroup},
		{name: "held, but no point in time", fake: snapshottest.FakeOptions{Torn: true, NoGroup: true}, traits: app, want: protect.ApplicationConsistent},
		{name: "lost hold, atomic cut", traits: app, faults: lose, edit: only(1), want: protect.CrashGroup},
		{name: "lost hold, single cuts", fake: snapshottest.FakeOptions{NoGroup: true}, traits: app, faults: lose, edit: only(1), want: protect.CrashSingle},
		{name: "lost hold, copies", fake: snapshottest.FakeOptions{NoGroup: true, Torn: true}, traits: app, faults: lose, edit: only(1), want: protect.None},
		{name: "one volume is not covered", fake: snapshottest.FakeOptions{NoGroup: true}, traits: app, want: protect.CrashSingle, edit: func(a *protect.Application) {
			a.Members[0].Volumes, a.Members[1].Volumes = []string{"data-0"}, []string{"data-0"}
		}},
		{name: "each covers one", traits: app, want: protect.ApplicationConsistent, edit: func(a *protect.Application) {
			a.Members[0].Volumes, a.Members[1].Volumes = []string{"data-0"}, []string{"data-1"}
		}},
		{name: "needs an atomic cut and gets it", traits: cut, want: protect.ApplicationConsistent},
		{name: "needs an atomic cut, single cuts", fake: snapshottest.FakeOptions{NoGroup: true}, traits: cut, want: protect.CrashSingle, doubts: true},
		{name: "needs an atomic cut, copies", fake: snapshottest.FakeOptions{NoGroup: true, Torn: true}, traits: cut, want: protect.None, doubts: true},
		{name: "nothing quiesced", edit: only(), want: protect.CrashGroup},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, &tt.fake)
			p := w.start(t, &process{traits: tt.traits, faults: tt.faults})
			if tt.edit != nil {
				tt.edit(&p.app)
			}
			p.app.Require = tt.want
			rp, err := p.Run(t.Context(), p.app, "one")
			if err != nil {
				t.Fatal(err)
			}
			if rp.Level != tt.want {
				t.Errorf("level %s, want %s; doubts %q", rp.Level, tt.want, rp.Doubts)
			}
			if (tt.doubts || len(tt.faults) > 0) && len(rp.Doubts) == 0 {
				t.Error("the point does not say why it is weaker")
			}
			if tt.want == protect.ApplicationConsistent {
				return
			}
			p.app.Require = tt.want + 1
			if _, err := p.Run(t.Context(), p.app, "two"); !errors.Is(err, protect.ErrConsistency) {
				t.Errorf("stronger requirement: %v", err)
			}
			if left := w.fake.Snapshots(); len(left) > 0 {
				t.Errorf("snapshots are left: %v", left)
			}
		})
	}
}

// TestOverrun thaws so slowly that the window is over, although all members
// say that they held.
func TestOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.start(t, &process{
			traits:   hooks.Traits{Release: hooks.Session, Scope: hooks.Application},
			stubborn: true,
			faults:   []hookstest.Fault{{Op: hookstest.Thaw, Kind: hookstest.Late, Delay: 10500 * time.Millisecond}},
		})
		rp, err := p.Run(t.Context(), p.app, "one")
		if err != nil {
			t.Fatal(err)
		}
		if rp.Level != protect.CrashGroup || len(rp.Doubts) == 0 || rp.Frozen <= p.app.Window {
			t.Errorf("level %s, frozen for %v, doubts %q", rp.Level, rp.Frozen, rp.Doubts)
		}
	})
}

// only keeps the members with these numbers.
func only(members ...int) func(*protect.Application) {
	return func(a *protect.Application) {
		var keep []protect.Member
		for _, i := range members {
			keep = append(keep, a.Members[i])
		}
		a.Members = keep
	}
}

func TestConsistencyText(t *testing.T) {
	for c := protect.None; c <= protect.ApplicationConsistent; c++ {
		b, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back protect.Consistency
		if err := back.UnmarshalText(b); err != nil || back != c || c.String() != string(b) {
			t.Errorf("%d: %s, %v", c, b, err)
		}
	}
	if _, err := protect.Consistency(99).MarshalText(); err == nil {
		t.Error("99 has a name")
	}
	if err := new(protect.Consistency).UnmarshalText([]byte("perfect")); err == nil {
		t.Error("perfect is a level")
	}
}

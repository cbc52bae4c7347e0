// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

func TestRehearse(t *testing.T) {
	t.Parallel()
	application := hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
	fault := func(op hookstest.Op, kind hookstest.Kind) []hookstest.Fault {
		return []hookstest.Fault{{Op: op, Kind: kind}}
	}
	tests := map[string]struct {
		traits hooks.Traits
		faults []hookstest.Fault
		edit   func(*protect.Application)
		level  protect.Consistency
		want   error  // nil: any, if text is not empty
		text   string // of the error
		frozen bool   // it came that far
	}{
		"filesystems": {level: protect.FilesystemGroup, frozen: true},
		"applications": {
			traits: application, edit: func(a *protect.Application) { a.Require = protect.ApplicationConsistent },
			level: protect.ApplicationConsistent, frozen: true,
		},
		"no members": {edit: func(a *protect.Application) { a.Members = nil }, frozen: true},
		"required and impossible": {
			edit: func(a *protect.Application) { a.Require = protect.ApplicationConsistent }, level: protect.FilesystemGroup,
			want: protect.ErrConsistency, text: "no member covers every volume", frozen: true,
		},
		"one volume is uncovered": {
			edit: func(a *protect.Application) {
				a.Require, a.Members = protect.FilesystemGroup, a.Members[:1]
				a.Members[0].Volumes = []string{"data-0"}
			},
			want: protect.ErrConsistency, frozen: true,
		},
		"a member cannot prepare": {faults: fault(hookstest.Prepare, hookstest.ErrorBefore), want: hookstest.ErrInjected, text: `"member-1"`},
		"a member cannot freeze":  {faults: fault(hookstest.Quiesce, hookstest.ErrorAfter), want: hookstest.ErrInjected, text: `"member-1"`, frozen: true},
		"a proof is missing": {
			faults: fault(hookstest.Held, hookstest.Lose), level: protect.FilesystemGroup, frozen: true, // the other member's
		},
		"unknown volume": {edit: func(a *protect.Application) { a.Volumes[0].ID = "no such volume" }, text: "no such volume"},
		"no application": {edit: func(a *protect.Application) { a.Name = "" }, text: "needs a name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			cuts := len(w.fake.Snapshots())
			p := w.start(t, &process{traits: test.traits, faults: test.faults})
			if test.edit != nil {
				test.edit(&p.app)
			}
			r, err := p.Rehearse(t.Context(), p.app)
			if fails := test.want != nil || test.text != ""; fails != (err != nil) || test.want != nil && !errors.Is(err, test.want) ||
				err != nil && !strings.Contains(err.Error(), test.text) {
				t.Fatalf("error %v, want %v %q", err, test.want, test.text)
			}
			if (r != nil) != test.frozen {
				t.Fatalf("rehearsal %+v, want one: %t", r, test.frozen)
			}
			if r != nil && (r.Level != test.level || len(r.Freeze.Members) != len(p.app.Members) || len(r.Freeze.Members) > 0 && r.Freeze.Frozen == 0) {
				t.Errorf("level %v, want %v; freeze %+v", r.Level, test.level, r.Freeze)
			}
			for i, target := range w.targets {
				if target.Freeze() != 0 {
					t.Errorf("target %d is frozen", i)
				}
			}
			if points, err := p.Points(t.Context(), "app"); err != nil || len(points) != 1 || len(w.fake.Snapshots()) != cuts {
				t.Errorf("a rehearsal left points %v, error %v, or snapshots", points, err)
			}
		})
	}
}

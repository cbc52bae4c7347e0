// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/snapshot"
)

// archiver writes a file when it thaws, as a database that hands out the log of
// its backup.
type archiver struct{ file string }

func (a archiver) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
}

func (a archiver) Quiesce(context.Context, hooks.FreezeRequest) (hooks.Hold, error) { return a, nil }
func (a archiver) Held(context.Context) error                                       { return nil }
func (a archiver) Thaw(context.Context) (hooks.Evidence, error) {
	return nil, os.WriteFile(a.file, []byte("log"), 0o600)
}

func TestAfterThaw(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	for i, dir := range w.dirs { // it writes to all of them: only one is cut that late
		name := "archiver-" + string(rune('0'+i))
		p.app.Members = append(p.app.Members, protect.Member{Name: name, Quiescer: archiver{filepath.Join(dir, "log")}, Volumes: []string{"data-0"}})
	}
	rp, err := p.Run(t.Context(), p.app, "one")
	if err != nil {
		t.Fatal(err)
	}
	for path := range content(t, p.repository, "one") {
		if strings.HasSuffix(path, "/log") && path != "data-2/log" {
			t.Errorf("%q was cut after the thaw", path)
		}
	}
	if content(t, p.repository, "one")["data-2/log"] != "log" {
		t.Error("what was written by the thaw is missing")
	}
	if rp.Level != protect.FilesystemGroup || len(rp.Doubts) > 0 { // the scripted members cover no more
		t.Errorf("level %s, doubts %q", rp.Level, rp.Doubts)
	}
}

func TestAfterThawRefused(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	tests := map[string]func(*protect.Application){
		"no volume is held": func(a *protect.Application) { a.Volumes = a.Volumes[2:] },
		"it is covered":     func(a *protect.Application) { a.Members[0].Volumes = []string{"data-2"} },
		"it is unknown":     func(a *protect.Application) { a.Volumes[2].ID = "nowhere" },
		"it is there twice": func(a *protect.Application) {
			a.Volumes = append(a.Volumes, protect.Volume{Name: "again", ID: volumeID(2), AfterThaw: true})
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			p := w.start(t, &process{repository: p.repository})
			change(&p.app)
			_, err := p.Run(t.Context(), p.app, "one")
			if e, ok := errors.AsType[*protect.Error](err); !ok || e.Phase != protect.PhasePrepare {
				t.Errorf("error %v, want one ahead of the freeze", err)
			}
			if left := w.fake.Snapshots(); len(left) > 0 {
				t.Errorf("snapshots are left: %v", left)
			}
		})
	}
}

// TestBothCuts cuts one volume twice: what it shows in the first cut is older.
func TestBothCuts(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	p.app.Volumes = []protect.Volume{{Name: "held", ID: volumeID(0)}, {Name: "after", ID: volumeID(0), AfterThaw: true}}
	p.app.Members = []protect.Member{{Name: "archiver", Quiescer: archiver{filepath.Join(w.dirs[0], "log")}}}
	s := protect.NewState("one")
	for s.Phase != protect.PhaseUpload {
		var err error
		if s, _, err = p.Step(t.Context(), p.app, s); err != nil {
			t.Fatal(err)
		}
	}
	// The snapshot that is lost is the later one.
	set, err := snapshot.NewProvider(w.fake.Provider(), nil).Open(t.Context(), snapshot.Request{ID: s.Cut.Set + ".after"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, _, err = p.Step(t.Context(), p.app, s); err != nil || s.Phase != protect.PhasePrepare {
		t.Errorf("without one of its snapshots: phase %q, %v", s.Phase, err)
	}
	if err := os.Remove(filepath.Join(w.dirs[0], "log")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), p.app, "one"); err != nil {
		t.Fatal(err)
	}
	c := content(t, p.repository, "one")
	if _, early := c["held/log"]; early || c["after/log"] != "log" {
		t.Errorf("content: %v", c)
	}
}

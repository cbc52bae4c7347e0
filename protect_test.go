// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// key is cheap to derive, since tests open many repositories.
var key = repo.Passphrase("secret").WithKDF(1, 8, 1)

// world is what outlives a process: storage, targets, journal, bucket.
type world struct {
	dirs    []string // of the volumes
	bucket  *repotest.Bucket
	fake    *snapshottest.Fake
	targets []*hookstest.Target
	journal hooks.Journal
}

// newWorld has two volumes with known content and one that is cut after the
// thaw, two targets, and a repository that holds the recovery point "earlier".
func newWorld(t *testing.T, opts *snapshottest.FakeOptions) *world {
	t.Helper()
	w := &world{
		bucket:  repotest.NewBucket(nil),
		fake:    snapshottest.NewFake(t, opts),
		targets: []*hookstest.Target{{}, {}},
		journal: hooks.NewMemJournal(),
	}
	for i := range 3 {
		dir := t.TempDir()
		w.dirs = append(w.dirs, dir)
		w.fake.AddVolume(volumeID(i), dir)
		w.write(t, "v1")
	}
	r, err := repo.Init(t.Context(), w.bucket.Bucket(), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := w.start(t, &process{repository: r})
	if _, err := p.Run(t.Context(), p.app, "earlier"); err != nil {
		t.Fatal(err)
	}
	w.write(t, "v2")
	return w
}

func volumeID(i int) snapshot.VolumeID { return snapshot.VolumeID(fmt.Sprintf("vol-%d", i)) }

// write changes the content of all volumes.
func (w *world) write(t *testing.T, version string) {
	t.Helper()
	for i, dir := range w.dirs {
		for _, name := range []string{"a", "b"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(version+name+strings.Repeat("x", i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// process is a Protector and what it alone sees.
type process struct {
	*protect.Protector
	app protect.Application

	repository *repo.Repository
	bucket     *repotest.Bucket // nil: that of the world
	hooks      hookstest.Process
	faults     []hookstest.Fault // of the second member
	stubborn   bool              // its targets do not thaw by themselves
	traits     hooks.Traits
	events     *protect.Events
}

// start starts a process in the world.
func (w *world) start(t *testing.T, p *process) *process {
	t.Helper()
	if p.repository == nil {
		b := p.bucket
		if b == nil {
			b = w.bucket
		}
		var err error
		if p.repository, err = repo.Open(t.Context(), b.Bucket(), key, &repo.Options{Attempts: 2}); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	p.Protector, err = protect.New(protect.Config{
		Repository: p.repository,
		Snapshots:  snapshot.NewProvider(w.fake.Provider(), nil),
		Journal:    p.hooks.Journal(w.journal),
		Events:     p.events,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.app = protect.Application{Name: "app", Window: 10 * time.Second, Labels: map[string]string{"tier": "gold"}}
	for i := range w.dirs {
		p.app.Volumes = append(p.app.Volumes, protect.Volume{Name: fmt.Sprintf("data-%d", i), ID: volumeID(i), AfterThaw: i == 2})
	}
	for i, target := range w.targets {
		opts := &hookstest.ScriptedOptions{Traits: p.traits, SelfThaw: !p.stubborn, Process: &p.hooks, Evidence: hooks.Evidence{"at": {byte('0' + i)}}}
		if i == 1 {
			opts.Faults = p.faults
		}
		p.app.Members = append(p.app.Members, protect.Member{Name: fmt.Sprintf("member-%d", i), Quiescer: hookstest.Scripted(target, opts)})
	}
	return p
}

// content returns the files of a recovery point.
func content(t *testing.T, r *repo.Repository, id string) map[string]string {
	t.Helper()
	p, err := r.Point(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, v := range p.Volumes {
		tree, err := r.Tree(t.Context(), p, v.Name)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range tree.Entries(t.Context(), ".") {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == repo.File {
				var b strings.Builder
				if _, err := tree.WriteTo(t.Context(), &b, e); err != nil {
					t.Fatal(err)
				}
				out[v.Name+"/"+e.Path] = b.String()
			}
		}
	}
	return out
}

func want(version string) map[string]string {
	return map[string]string{
		"data-0/a": version + "a", "data-0/b": version + "b", "data-1/a": version + "ax", "data-1/b": version + "bx",
		"data-2/a": version + "axx", "data-2/b": version + "bxx",
	}
}

func TestRun(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{traits: hooks.Traits{Release: hooks.Session, Scope: hooks.Application}})
	rp, err := p.Run(t.Context(), p.app, "one")
	if err != nil {
		t.Fatal(err)
	}
	if rp.Level != protect.ApplicationConsistent || len(rp.Doubts) > 0 || rp.Application != "app" || rp.Point.Labels["tier"] != "gold" {
		t.Errorf("point: %+v", rp)
	}
	if got := string(rp.Point.Evidence["member-1"]["at"]); got != "1" {
		t.Errorf("evidence of member-1: %q", got)
	}
	if diff := cmp.Diff(want("v2"), content(t, p.repository, "one")); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if left := w.fake.Snapshots(); len(left) > 0 {
		t.Errorf("snapshots are left: %v", left)
	}
	if n := w.fake.InUse(); n > 0 {
		t.Errorf("%d directories are still in use", n)
	}
	w.write(t, "v3")
	again, err := p.Run(t.Context(), p.app, "one")
	if err != nil || !again.Time.Equal(rp.Time) {
		t.Errorf("second run: %+v, %v", again, err)
	}
	points, err := p.Points(t.Context(), "app")
	if err != nil || len(points) != 2 || points[0].ID != "one" || points[1].ID != "earlier" {
		t.Errorf("points: %v, %v", points, err)
	}
	target := filepath.Join(t.TempDir(), "restored")
	if _, err := p.Restore(t.Context(), "one", target, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(target, "data-1", "b")); err != nil || string(got) != "v2bx" {
		t.Errorf("restored %q, %v", got, err)
	}
}

// TestStepAcrossProcesses does each step in a process of its own, from state
// that was stored as JSON, and each step twice.
func TestStepAcrossProcesses(t *testing.T) {
	w := newWorld(t, nil)
	state := protect.NewState("one")
	var phases []protect.Phase
	for range 20 {
		b, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > protect.MaxState {
			t.Fatalf("state has %d bytes", len(b))
		}
		var res protect.Result
		for range 2 {
			var stored protect.State
			if err := json.Unmarshal(b, &stored); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(state, stored); diff != "" && state.Phase != "" {
				state = stored
			}
			p := w.start(t, &process{traits: hooks.Traits{Release: hooks.Session, Scope: hooks.Application}})
			next, r, err := p.Step(t.Context(), p.app, stored)
			if err != nil {
				t.Fatalf("%s: %v", stored.Phase, err)
			}
			state, res = next, r
		}
		phases = append(phases, state.Phase)
		if res.Done {
			break
		}
	}
	wantPhases := []protect.Phase{protect.PhaseCut, protect.PhaseReady, protect.PhaseUpload, protect.PhaseRelease, protect.PhaseDone}
	if !slices.Equal(phases, wantPhases) {
		t.Errorf("phases %v, want %v", phases, wantPhases)
	}
	p := w.start(t, &process{})
	if diff := cmp.Diff(want("v2"), content(t, p.repository, "one")); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if left := w.fake.Snapshots(); len(left) > 0 {
		t.Errorf("snapshots are left: %v", left)
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	good := protect.NewState("x")
	tests := []struct {
		name  string
		state protect.State
		edit  func(*protect.Application)
	}{
		{name: "zero state", state: protect.State{}},
		{name: "future state", state: protect.State{Version: 99, ID: "x", Phase: protect.PhaseCut}},
		{name: "unknown phase", state: protect.State{Version: good.Version, ID: "x", Phase: "dance"}},
		{name: "upload without a cut", state: protect.State{Version: good.Version, ID: "x", Phase: protect.PhaseUpload}},
		{name: "no name", state: good, edit: func(a *protect.Application) { a.Name = "" }},
		{name: "no volumes", state: good, edit: func(a *protect.Application) { a.Volumes = nil }},
		{name: "two volumes of one name", state: good, edit: func(a *protect.Application) { a.Volumes[1].Name = a.Volumes[0].Name }},
		{name: "unknown volume covered", state: good, edit: func(a *protect.Application) { a.Members[0].Volumes = []string{"nope"} }},
		{name: "reserved member", state: good, edit: func(a *protect.Application) { a.Members[0].Name = "protect" }},
		{name: "window too long", state: good, edit: func(a *protect.Application) { a.Window = 2 * hooks.MaxWindow }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			app := p.app
			app.Volumes, app.Members = slices.Clone(app.Volumes), slices.Clone(app.Members)
			if tt.edit != nil {
				tt.edit(&app)
			}
			_, _, err := p.Step(t.Context(), app, tt.state)
			if pe, ok := errors.AsType[*protect.Error](err); !ok || pe.Op != "step" {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := protect.New(protect.Config{}); err == nil {
		t.Error("an empty Config was accepted")
	}
}

// TestLimits refuses a second freeze that comes too soon, and says when to come
// again.
func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.start(t, &process{})
	p.app.MinGap = time.Hour
	if _, err := p.Run(t.Context(), p.app, "first"); err != nil {
		t.Fatal(err)
	}
	_, err := p.Run(t.Context(), p.app, "second")
	e, ok := errors.AsType[*hooks.TooSoonError](err)
	if !ok || time.Until(e.Again) < 50*time.Minute || time.Until(e.Again) > time.Hour {
		t.Errorf("error %v, want when to come again", err)
	}
}

// TestEvents checks what an embedder hears of a Run whose first upload fails.
func TestEvents(t *testing.T) {
	w := newWorld(t, nil)
	var log []string
	uploads := 0
	type spanKey struct{}
	events := &protect.Events{
		PhaseBegin: func(ctx context.Context, i protect.PhaseInfo) context.Context {
			log = append(log, "begin "+string(i.Phase))
			if i.Phase == protect.PhaseUpload {
				uploads++
			}
			return context.WithValue(ctx, spanKey{}, i.Phase)
		},
		PhaseEnd: func(ctx context.Context, i protect.PhaseInfo, err error) {
			if ctx.Value(spanKey{}) != i.Phase || i.ID != "one" || i.Application != "app" {
				t.Errorf("end of %+v with the context of %v", i, ctx.Value(spanKey{}))
			}
			log = append(log, fmt.Sprintf("end %s %t", i.Phase, err == nil))
		},
		Retry: func(_ context.Context, i protect.PhaseInfo, err error, _ time.Duration) {
			log = append(log, "retry "+string(i.Phase))
		},
		Progress: func(_ context.Context, i protect.PhaseInfo, p repo.Progress) {
			log = append(log, fmt.Sprintf("progress %s %d files", i.Phase, p.Files))
		},
	}
	w.fake.SetHook(func(op snapshottest.Op) snapshottest.Fault {
		if op.Kind == snapshottest.Dir && uploads == 1 {
			return snapshottest.Fault{Before: errors.New("boom")}
		}
		return snapshottest.Fault{}
	})
	p := w.start(t, &process{events: events})
	if _, err := p.Run(t.Context(), p.app, "one"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"begin prepare", "end prepare true", "begin cut", "end cut true", "begin ready", "end ready true",
		"begin upload", "progress upload 0 files", "end upload false", "retry upload",
		"begin upload", "progress upload 6 files", "end upload true", "begin release", "end release true",
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

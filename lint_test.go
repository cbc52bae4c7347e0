// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/lint"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// described is a member that says what it freezes.
type described struct {
	hooks.Quiescer
	hooks.Recoverer
	traits hooks.Traits
	d      hooks.Description
}

func (d described) Traits() hooks.Traits        { return d.traits }
func (d described) Describe() hooks.Description { return d.d }

// TestLint passes on what the Protector knows: the journal, the snapshots and
// the volumes.
func TestLint(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("file systems are told apart on Linux only")
	}
	dir := t.TempDir()
	drv, err := reflink.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	journal, err := hooks.OpenDirJournal(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Init(t.Context(), memblob.OpenBucket(nil), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(drv, nil), Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	fs := described{d: hooks.Description{Filesystem: dir, Helper: []string{"/sys/helper"}}}
	db := described{traits: hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}}
	app := protect.Application{
		Name: "shop",
		Volumes: []protect.Volume{
			{Name: "data", ID: snapshot.VolumeID(dir)}, {Name: "other", ID: "claim"}, {Name: "dump", ID: snapshot.VolumeID(dir), AfterThaw: true},
		},
		Members: []protect.Member{{Name: "fs", Quiescer: fs, Volumes: []string{"data"}}, {Name: "db", Quiescer: db, Volumes: []string{"data"}}},
	}
	var got []lint.Rule
	for _, f := range p.Lint(app) {
		got = append(got, f.Rule)
	}
	want := []lint.Rule{lint.TornCut, lint.BrokenOrder, lint.FrozenJournal, lint.DeadSnapshot, lint.UncoveredData}
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	app.Members = nil
	if found := p.Lint(app); len(found) > 0 {
		t.Errorf("without members: %v", found)
	}
}

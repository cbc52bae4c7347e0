// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

var errStorage = errors.New("storage system says no")

// must is for steps that are not under test.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// fake returns a fake with the volumes a, b and c.
func fake(tb testing.TB, opts *snapshottest.FakeOptions) *snapshottest.Fake {
	tb.Helper()
	f := snapshottest.NewFake(tb, opts)
	for _, v := range volumes {
		dir := tb.TempDir()
		must(tb, os.WriteFile(filepath.Join(dir, "name"), []byte(v), 0o600))
		f.AddVolume(v, dir)
	}
	return f
}

var volumes = []snapshot.VolumeID{"c", "a", "b"}

func request(id string) snapshot.Request { return snapshot.Request{ID: id, Volumes: volumes} }

// left returns what the fake has, as "id/volume".
func left(f *snapshottest.Fake) (list []string) {
	for _, i := range f.Snapshots() {
		list = append(list, i.ID+"/"+string(i.Volume))
	}
	return list
}

// kinds returns the calls to the fake.
func kinds(f *snapshottest.Fake) (list []string) {
	for _, op := range f.Ops() {
		list = append(list, string(op.Kind))
	}
	return list
}

func TestTakeGroup(t *testing.T) {
	f := fake(t, nil)
	set, err := snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
	must(t, err)
	if diff := cmp.Diff([]string{"CreateGroup"}, kinds(f)); diff != "" {
		t.Errorf("calls in the freeze window (-want +got):\n%s", diff)
	}
	if !set.Atomic() || !set.PointInTime() || set.Skew() != 0 || set.ID() != "id" {
		t.Errorf("atomic %v, point-in-time %v, skew %v, id %q", set.Atomic(), set.PointInTime(), set.Skew(), set.ID())
	}
	var got []snapshot.VolumeID
	for _, s := range set.Snapshots() {
		got = append(got, s.Info().Volume)
		path, release, err := s.Dir(t.Context())
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(path, "name")); err != nil || string(b) != string(s.Info().Volume) {
			t.Errorf("%q shows %q, %v", s.Info().Volume, b, err)
		}
		must(t, release(t.Context()))
		must(t, release(t.Context()))
	}
	if diff := cmp.Diff(volumes, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if f.InUse() != 0 {
		t.Errorf("%d directories in use after release", f.InUse())
	}
	must(t, set.Release(t.Context()))
	must(t, set.Release(t.Context()))
	if l := left(f); l != nil {
		t.Errorf("left after Release: %v", l)
	}
}

// TestTakeSingle cuts one by one, each cut taking a second of the fake clock.
func TestTakeSingle(t *testing.T) {
	for _, tc := range []struct {
		name        string
		opts        *snapshottest.FakeOptions
		concurrency int
		vols        []snapshot.VolumeID
		apart       bool
		atomic, pit bool
		skew        time.Duration
	}{
		{name: "no groups", opts: &snapshottest.FakeOptions{NoGroup: true}, vols: volumes, pit: true, skew: time.Second},
		{name: "one at a time", opts: &snapshottest.FakeOptions{NoGroup: true}, vols: volumes, concurrency: 1, pit: true, skew: 3 * time.Second},
		{name: "group unsupported", vols: append([]snapshot.VolumeID{"apart"}, volumes...), apart: true, pit: true, skew: time.Second},
		{name: "one volume", opts: &snapshottest.FakeOptions{NoGroup: true}, vols: volumes[:1], atomic: true, pit: true},
		{name: "one volume, group", vols: volumes[:1], atomic: true, pit: true},
		{name: "one torn", opts: &snapshottest.FakeOptions{Torn: true}, vols: volumes[:1], skew: time.Second},
		{name: "torn", opts: &snapshottest.FakeOptions{Torn: true, NoGroup: true}, vols: volumes, skew: time.Second},
		{name: "torn group", opts: &snapshottest.FakeOptions{Torn: true}, vols: volumes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := fake(t, tc.opts)
				if tc.apart {
					f.AddVolumeApart("apart", t.TempDir())
				}
				f.SetHook(func(op snapshottest.Op) snapshottest.Fault {
					if op.Kind == snapshottest.Create {
						time.Sleep(time.Second)
					}
					return snapshottest.Fault{}
				})
				p := snapshot.NewProvider(f.Provider(), &snapshot.Options{Concurrency: tc.concurrency})
				set, err := p.Take(t.Context(), snapshot.Request{ID: "id", Volumes: tc.vols})
				must(t, err)
				if set.Atomic() != tc.atomic || set.PointInTime() != tc.pit || set.Skew() != tc.skew {
					t.Errorf("atomic %v, point-in-time %v, skew %v; want %v, %v, %v", set.Atomic(), set.PointInTime(), set.Skew(), tc.atomic, tc.pit, tc.skew)
				}
				if len(set.Snapshots()) != len(tc.vols) || len(f.Snapshots()) != len(tc.vols) {
					t.Errorf("%d snapshots, %d at the driver, want %d", len(set.Snapshots()), len(f.Snapshots()), len(tc.vols))
				}
			})
		})
	}
}

func TestValidation(t *testing.T) {
	f := fake(t, nil)
	p := snapshot.NewProvider(f.Provider(), nil)
	many := make([]snapshot.VolumeID, 1025)
	for i := range many {
		many[i] = snapshot.VolumeID(fmt.Sprint(i))
	}
	for _, tc := range []struct {
		id   string
		vols []snapshot.VolumeID
		ok   bool
	}{
		{"a", volumes, true},
		{"0.-..", volumes, true},
		{strings.Repeat("x", 200), volumes, true},
		{strings.Repeat("x", 201), volumes, false},
		{"", volumes, false},
		{".a", volumes, false},
		{"-a", volumes, false},
		{"A", volumes, false},
		{"a/b", volumes, false},
		{"a_b", volumes, false},
		{"a\x00", volumes, false},
		{"ok", nil, false},
		{"ok", []snapshot.VolumeID{"a", "b", "a"}, false},
		{"ok", []snapshot.VolumeID{""}, false},
		{"ok", many, false},
	} {
		set, err := p.Take(t.Context(), snapshot.Request{ID: tc.id, Volumes: tc.vols})
		if tc.ok != (err == nil) || !tc.ok && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Take(%.20q, %d volumes): %v", tc.id, len(tc.vols), err)
		}
		if set != nil {
			must(t, set.Release(t.Context()))
		}
	}
	if err := p.Check(t.Context(), nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Check of nothing: %v", err)
	}
	if err := p.Sweep(t.Context(), ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Sweep of everything: %v", err)
	}
	if _, err := p.Find(t.Context(), "A"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Find of an impossible prefix: %v", err)
	}
	if _, err := p.Open(t.Context(), snapshot.Request{ID: "."}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Open of an impossible id: %v", err)
	}
}

func TestCheck(t *testing.T) {
	f := fake(t, nil)
	p := snapshot.NewProvider(f.Provider(), nil)
	must(t, p.Check(t.Context(), volumes))
	err := p.Check(t.Context(), []snapshot.VolumeID{"a", "x y", "z\n"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"x y"`) || !strings.Contains(err.Error(), `"z\n"`) {
		t.Errorf("Check: %v", err)
	}
}

func TestFindOpenSweep(t *testing.T) {
	f := fake(t, nil)
	p := snapshot.NewProvider(f.Provider(), nil)
	for _, id := range []string{"app-2", "app-1", "app-10", "other"} {
		_, err := p.Take(t.Context(), request(id))
		must(t, err)
	}
	f.SetHook(func(op snapshottest.Op) snapshottest.Fault {
		return snapshottest.Fault{Partial: op.Kind == snapshottest.Create, Kill: op.Kind == snapshottest.Create}
	})
	_, err := p.Take(t.Context(), snapshot.Request{ID: "app-3", Volumes: volumes[:1]})
	if !errors.Is(err, snapshottest.ErrKilled) {
		t.Fatalf("Take: %v", err)
	}
	f.Revive()
	f.SetHook(nil)

	// The next process.
	p = snapshot.NewProvider(f.Provider(), nil)
	sets, err := p.Find(t.Context(), "app-")
	must(t, err)
	var got []string
	for _, s := range sets {
		var vols []string
		for _, m := range s.Snapshots() {
			vols = append(vols, string(m.Info().Volume))
		}
		got = append(got, s.ID()+" "+strings.Join(vols, ","))
		if s.Atomic() || s.Skew() != 0 {
			t.Errorf("found set %q claims to know how it was cut", s.ID())
		}
		if ready, err := s.Ready(t.Context()); ready != (s.ID() != "app-3") || !ready && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("set %q is ready: %v, %v", s.ID(), ready, err)
		}
	}
	if diff := cmp.Diff([]string{"app-1 a,b,c", "app-10 a,b,c", "app-2 a,b,c", "app-3 c"}, got); diff != "" {
		t.Errorf("Find (-want +got):\n%s", diff)
	}

	set, err := p.Open(t.Context(), request("app-1"))
	must(t, err)
	if s := set.Snapshots(); len(s) != 3 || s[0].Info().Volume != volumes[0] || s[0].Info().ID != "app-1" {
		t.Errorf("Open returned the set in another order")
	}
	must(t, set.WaitReady(t.Context()))
	for _, req := range []snapshot.Request{{ID: "app"}, request("app-3"), request("nothing")} {
		if _, err := p.Open(t.Context(), req); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v", req.ID, err)
		}
	}
	if set, err := p.Open(t.Context(), snapshot.Request{ID: "app-3"}); err != nil || len(set.Snapshots()) != 1 {
		t.Errorf("Open of a partial set by its id: %v", err)
	}

	must(t, p.Sweep(t.Context(), "app-"))
	if diff := cmp.Diff([]string{"other/a", "other/b", "other/c"}, left(f)); diff != "" {
		t.Errorf("left after Sweep (-want +got):\n%s", diff)
	}
}

var waits = []struct {
	name  string
	fault func(op snapshottest.Op) snapshottest.Fault
	want  error
	took  func(time.Duration) bool
}{
	{
		name:  "slow",
		fault: func(snapshottest.Op) snapshottest.Fault { return snapshottest.Fault{NotReady: 20} },
		took:  func(d time.Duration) bool { return d > 20*time.Second && d < 2*time.Minute },
	},
	{
		name:  "never",
		fault: func(snapshottest.Op) snapshottest.Fault { return snapshottest.Fault{NotReady: 1 << 30} },
		want:  snapshot.ErrNotReady,
		took:  func(d time.Duration) bool { return d == 10*time.Minute },
	},
	{
		name: "errors that pass",
		fault: func(op snapshottest.Op) (f snapshottest.Fault) {
			if op.Kind == snapshottest.Ready && op.Index < 20 {
				f.Before = errStorage
			}
			return f
		},
		took: func(d time.Duration) bool { return d < time.Minute },
	},
	{
		name: "errors that stay",
		fault: func(op snapshottest.Op) (f snapshottest.Fault) {
			if op.Kind == snapshottest.Ready {
				f.Before = errStorage
			}
			return f
		},
		want: errStorage,
		took: func(d time.Duration) bool { return d == 10*time.Minute },
	},
	{
		name: "gone",
		fault: func(op snapshottest.Op) (f snapshottest.Fault) {
			if op.Kind == snapshottest.Ready && op.Volume == "a" {
				f.Before = fs.ErrNotExist
			}
			return f
		},
		want: fs.ErrNotExist,
		took: func(d time.Duration) bool { return d == 0 },
	},
	{
		name: "hangs",
		fault: func(op snapshottest.Op) snapshottest.Fault {
			return snapshottest.Fault{Hang: op.Kind == snapshottest.Ready && op.Volume == "a"}
		},
		want: snapshot.ErrNotReady,
		took: func(d time.Duration) bool { return d == 10*time.Minute },
	},
}

func TestWaitReady(t *testing.T) {
	for _, tc := range waits {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := fake(t, nil)
				f.SetHook(tc.fault)
				set, err := snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
				must(t, err)
				start := time.Now()
				err = set.WaitReady(t.Context())
				if !errors.Is(err, tc.want) {
					t.Errorf("WaitReady: %v, want %v", err, tc.want)
				}
				if d := time.Since(start); !tc.took(d) {
					t.Errorf("WaitReady took %v", d)
				}
			})
		})
	}
}

func TestWaitReadyCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake(t, nil)
		f.SetHook(func(snapshottest.Op) snapshottest.Fault { return snapshottest.Fault{NotReady: 1 << 30} })
		set, err := snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = set.WaitReady(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, snapshot.ErrNotReady) {
			t.Errorf("WaitReady: %v", err)
		}
	})
}

func TestDirUnsupported(t *testing.T) {
	f := fake(t, &snapshottest.FakeOptions{NoDir: true})
	set, err := snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
	must(t, err)
	if _, _, err := set.Snapshots()[0].Dir(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Dir: %v", err)
	}
}

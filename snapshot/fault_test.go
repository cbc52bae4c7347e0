// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

var faults = map[string]snapshottest.Fault{
	"before":      {Before: errStorage},
	"denied":      {Before: fs.ErrPermission},
	"lost reply":  {After: errStorage},
	"partial":     {Partial: true, After: errStorage},
	"hang":        {Hang: true},
	"late":        {Hang: true, After: errStorage},
	"kill":        {Kill: true},
	"kill, lost":  {Kill: true, After: errStorage},
	"kill on way": {Kill: true, Partial: true},
}

// TestFaultSweep fails every call of taking, awaiting, reading and releasing a
// set, in every way, and checks the world after each: a failed Take leaves
// nothing that Find does not show, a clean failure leaves nothing at all, the
// snapshots of others are never touched, and a sweep by the next process
// always ends with nothing.
func TestFaultSweep(t *testing.T) {
	runs := 0
	for _, opts := range []*snapshottest.FakeOptions{nil, {NoGroup: true}} {
		for name, fault := range faults {
			for index := 0; ; index++ {
				hit := false
				t.Run(fmt.Sprintf("%v/%s/%d", opts != nil, name, index), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { hit = faultRun(t, opts, fault, index) })
				})
				runs++
				if !hit || t.Failed() {
					break
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

// faultRun runs the scenario with a fault at one call, and reports whether it
// got that far.
func faultRun(t *testing.T, opts *snapshottest.FakeOptions, fault snapshottest.Fault, index int) (hit bool) {
	f := fake(t, opts)
	// Somebody else's, with the id that sorts next to ours and with ours.
	other := snapshot.NewProvider(f.Provider(), nil)
	_, err := other.Take(t.Context(), request("app-10"))
	must(t, err)
	f.AddVolume("foreign", t.TempDir())
	_, err = f.Provider().Create(t.Context(), "foreign", "app-1")
	must(t, err)
	before := len(f.Ops())
	f.SetHook(func(op snapshottest.Op) snapshottest.Fault {
		if op.Index == before+index {
			hit = true
			return fault
		}
		return snapshottest.Fault{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	err = scenario(ctx, f)
	if d := time.Since(start); d > 2*time.Minute {
		t.Errorf("the scenario took %v", d)
	}
	f.SetHook(nil)
	f.Revive()
	ours := 0
	for _, i := range f.Snapshots() {
		if i.ID == "app-1" && i.Volume != "foreign" {
			ours++
		}
	}
	if err == nil && ours > 0 {
		t.Errorf("left after success: %v", left(f))
	}
	passes := !fault.Kill && !fault.Hang && !errors.Is(fault.Before, fs.ErrPermission)
	if hit && passes && ours > 0 {
		t.Errorf("left after one error that passes (%v): %v", err, left(f))
	}
	next := snapshot.NewProvider(f.Provider(), nil)
	sets, err := next.Find(t.Context(), "app-1")
	must(t, err)
	found := 0
	for _, s := range sets {
		found += len(s.Snapshots())
	}
	if found != len(f.Snapshots()) {
		t.Errorf("Find shows %d of %d", found, len(f.Snapshots()))
	}
	if len(f.Snapshots())-ours != 4 {
		t.Errorf("somebody else's snapshots were touched: %v", left(f))
	}
	must(t, next.Sweep(t.Context(), "app-1"))
	if l := left(f); l != nil {
		t.Errorf("left after Sweep: %v", l)
	}
	return hit
}

// scenario is the life of a set. It releases it by itself if Take succeeded.
func scenario(ctx context.Context, f *snapshottest.Fake) (err error) {
	p := snapshot.NewProvider(f.Provider(), nil)
	if err := p.Check(ctx, volumes); err != nil {
		return err
	}
	set, err := p.Take(ctx, request("app-1"))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, set.Release(ctx))
	}()
	if err := set.WaitReady(ctx); err != nil {
		return err
	}
	for _, s := range set.Snapshots() {
		_, release, err := s.Dir(ctx)
		if err != nil {
			return err
		}
		if err := release(ctx); err != nil {
			return err
		}
	}
	return nil
}

// TestTaken: a taken id fails the cut, and what had it stays.
func TestTaken(t *testing.T) {
	for _, opts := range []*snapshottest.FakeOptions{nil, {NoGroup: true}} {
		f := fake(t, opts)
		_, err := f.Provider().Create(t.Context(), "a", "id")
		must(t, err)
		_, err = snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "id") {
			t.Errorf("Take: %v", err)
		}
		if l := left(f); len(l) != 1 || l[0] != "id/a" {
			t.Errorf("left: %v", l)
		}
	}
}

// TestCleanupIsBounded: the application is frozen while Take cleans up.
func TestCleanupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake(t, &snapshottest.FakeOptions{NoGroup: true})
		f.SetHook(func(op snapshottest.Op) snapshottest.Fault {
			switch {
			case op.Kind == snapshottest.Create && op.Volume == "b":
				return snapshottest.Fault{Before: errStorage}
			case op.Kind == snapshottest.Delete:
				return snapshottest.Fault{Hang: true}
			}
			return snapshottest.Fault{}
		})
		start := time.Now()
		p := snapshot.NewProvider(f.Provider(), &snapshot.Options{Concurrency: 1})
		_, err := p.Take(t.Context(), request("id"))
		if !errors.Is(err, errStorage) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Take: %v, want its error and that of the cleanup", err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("Take took %v", d)
		}
		if l := left(f); len(l) != 2 {
			t.Errorf("left: %v", l)
		}
	})
}

// TestCancelled: the snapshots of a cancelled cut are removed all the same.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake(t, &snapshottest.FakeOptions{NoGroup: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.SetHook(func(op snapshottest.Op) snapshottest.Fault {
			return snapshottest.Fault{Hang: op.Kind == snapshottest.Create && op.Volume == "b"}
		})
		_, err := snapshot.NewProvider(f.Provider(), nil).Take(ctx, request("id"))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Take: %v", err)
		}
		if l := left(f); l != nil {
			t.Errorf("left: %v", l)
		}
		calls := len(f.Ops())
		if _, err := snapshot.NewProvider(f.Provider(), nil).Take(ctx, request("id2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Take with a context that is done: %v", err)
		}
		if len(f.Ops()) != calls {
			t.Error("Take with a context that is done called the driver")
		}
	})
}

// TestReleaseGoesOn: one member that cannot be deleted does not keep others.
func TestReleaseGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake(t, nil)
		set, err := snapshot.NewProvider(f.Provider(), nil).Take(t.Context(), request("id"))
		must(t, err)
		f.SetHook(func(op snapshottest.Op) (fault snapshottest.Fault) {
			if op.Kind == snapshottest.Delete && op.Volume == "a" {
				fault.Before = errStorage
			}
			return fault
		})
		err = set.Release(t.Context())
		if !errors.Is(err, errStorage) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("Release: %v", err)
		}
		if l := left(f); len(l) != 1 || l[0] != "id/a" {
			t.Errorf("left: %v", l)
		}
		f.SetHook(nil)
		must(t, set.Release(t.Context()))
		if l := left(f); l != nil {
			t.Errorf("left: %v", l)
		}
	})
}

// wrong is a driver that breaks its contract.
type wrong struct {
	driver.Provider
	group func([]driver.Snapshot) []driver.Snapshot
}

func (w wrong) CreateGroup(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
	s, err := w.Provider.(driver.GroupCreator).CreateGroup(ctx, vols, id)
	return w.group(s), err
}

// TestWrongDriver: what the driver returns is not believed.
func TestWrongDriver(t *testing.T) {
	for name, group := range map[string]func([]driver.Snapshot) []driver.Snapshot{
		"fewer":   func(s []driver.Snapshot) []driver.Snapshot { return s[1:] },
		"nil":     func(s []driver.Snapshot) []driver.Snapshot { return []driver.Snapshot{s[0], nil, s[2]} },
		"swapped": func(s []driver.Snapshot) []driver.Snapshot { return []driver.Snapshot{s[1], s[0], s[2]} },
		"none":    func([]driver.Snapshot) []driver.Snapshot { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			f := fake(t, nil)
			_, err := snapshot.NewProvider(wrong{f.Provider(), group}, nil).Take(t.Context(), request("id"))
			if err == nil {
				t.Error("Take succeeds")
			}
			if l := left(f); l != nil {
				t.Errorf("left: %v", l)
			}
		})
	}
}

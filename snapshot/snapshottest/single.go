// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

func testInfo(s *suite) {
	info := s.h.Provider().Info()
	if info.Name == "" {
		s.Error("Info has no name")
	}
	if again := s.h.Provider().Info(); again != info {
		s.Errorf("Info is not constant: %+v, then %+v", info, again)
	}
}

func testCheck(s *suite) {
	vol := s.h.Volume(s.T)
	s.must("Check", s.h.Provider().Check(s.Context(), vol.ID))
	s.is("Check of a missing volume", s.h.Provider().Check(s.Context(), s.h.Missing), fs.ErrNotExist)
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	s.is("Check with a cancelled context", s.h.Provider().Check(ctx, vol.ID), context.Canceled)
}

func testCreateListDelete(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	sn, err := s.h.Provider().Create(s.Context(), vol.ID, id)
	s.must("Create", err)
	info := sn.Info()
	if info.ID != id || info.Volume != vol.ID {
		s.Errorf("Create returned %q of %q, want %q of %q", info.ID, info.Volume, id, vol.ID)
	}
	if info.Created.IsZero() || info.Method == "" {
		s.Errorf("Create returned no time or method: %+v", info)
	}
	if s.h.Provider().Info().PointInTime && !info.PointInTime {
		s.Error("the provider promises point-in-time snapshots, and made another")
	}
	s.waitReady(sn)
	found := s.found(id, vol)
	if got := found.Info(); !got.Created.Equal(info.Created) || got.Method != info.Method || got.PointInTime != info.PointInTime {
		s.Errorf("List shows %+v, Create returned %+v", got, info)
	}
	s.waitReady(found)
	s.must("Delete of a listed snapshot", found.Delete(s.Context()))
	s.nothing("after Delete", id)
}

func testCreateTaken(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	s.write(vol, "a", "one")
	first := s.create(vol, id)
	s.write(vol, "a", "two")
	_, err := s.h.Provider().Create(s.Context(), vol.ID, id)
	s.is("Create with a taken id", err, fs.ErrExist)
	s.waitReady(first)
	s.shows(vol, first, map[string]string{"a": "one"})
}

func testCreateMissing(s *suite) {
	id := s.id()
	_, err := s.h.Provider().Create(s.Context(), s.h.Missing, id)
	s.is("Create of a missing volume", err, fs.ErrNotExist)
	s.nothing("after a failed Create", id)
}

func testCreateCancelled(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.h.Provider().Create(ctx, vol.ID, id)
	s.is("Create with a cancelled context", err, context.Canceled)
	// Nothing that List shows would be fine too, and is for Delete.
	for _, sn := range s.find(id) {
		s.must("Delete of a partial snapshot", sn.Delete(s.Context()))
	}
	s.nothing("after Delete", id)
}

// testCreateInterrupted cancels a Create on its way. Whatever it leaves, List
// shows, and Delete removes.
func testCreateInterrupted(s *suite) {
	vol := s.h.Volume(s.T)
	for i := range 50 {
		s.write(vol, fmt.Sprintf("%d/%d", i%5, i), strings.Repeat("x", 1000))
	}
	for after := time.Duration(0); after < 20*time.Millisecond; after = 2*after + 50*time.Microsecond {
		id := s.id()
		ctx, cancel := context.WithCancel(s.Context())
		timer := time.AfterFunc(after, cancel)
		sn, err := s.h.Provider().Create(ctx, vol.ID, id)
		timer.Stop()
		cancel()
		switch {
		case err == nil:
			s.waitReady(sn)
		case !errors.Is(err, context.Canceled):
			s.Errorf("Create with a context cancelled on the way: %v", err)
		}
		for _, left := range s.find(id) {
			s.must("Delete", left.Delete(s.Context()))
		}
		s.nothing("after Delete", id)
	}
}

func testCreateRace(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	const n = 8
	errs := make([]error, n)
	snaps := make([]driver.Snapshot, n)
	var wg sync.WaitGroup
	for i := range n {
		p := s.h.Provider()
		wg.Go(func() { snaps[i], errs[i] = p.Create(s.Context(), vol.ID, id) })
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		if err != nil {
			s.is("Create that lost the race", err, fs.ErrExist)
			continue
		}
		if won >= 0 {
			s.Error("two Creates of one id succeeded")
		}
		won = i
	}
	if won < 0 {
		s.Fatal("no Create of a new id succeeded")
	}
	s.waitReady(snaps[won])
	if len(s.find(id)) != 1 {
		s.Error("List does not show the one snapshot")
	}
}

func testCreateManyVolumes(s *suite) {
	id := s.id()
	var vols []Volume
	for range 4 {
		vols = append(vols, s.h.Volume(s.T))
	}
	errs := make([]error, len(vols))
	var wg sync.WaitGroup
	p := s.h.Provider()
	for i, vol := range vols {
		wg.Go(func() { _, errs[i] = p.Create(s.Context(), vol.ID, id) })
	}
	wg.Wait()
	s.must("Create of several volumes with one id", errors.Join(errs...))
	found := s.find(id)
	if len(found) != len(vols) {
		s.Fatalf("List shows %d snapshots, want %d", len(found), len(vols))
	}
	s.must("Delete", s.found(id, vols[0]).Delete(s.Context()))
	left := s.find(id)
	if left[vols[0].ID] != nil || len(left) != len(vols)-1 {
		s.Errorf("after Delete of one of %d, List shows %d", len(vols), len(left))
	}
	for _, sn := range left {
		s.waitReady(sn)
	}
}

func testIDs(s *suite) {
	vol, base := s.h.Volume(s.T), s.id()
	for _, id := range []string{
		base + ".", base + "-", base + "..x", base + ".tmp", base + "--",
		base + strings.Repeat("y", 200-len(base)),
	} {
		sn := s.create(vol, id)
		if got := s.find(id); len(got) != 1 {
			s.Errorf("List shows %d snapshots of id %q, want 1", len(got), id)
		}
		s.must("Delete", sn.Delete(s.Context()))
		s.nothing("after Delete", id)
	}
}

func testListPrefix(s *suite) {
	vol, base := s.h.Volume(s.T), s.id()
	for _, id := range []string{base + "-a-1", base + "-a-2", base + "-b-1"} {
		s.create(vol, id)
	}
	for prefix, want := range map[string]int{
		base: 3, base + "-a": 2, base + "-a-": 2, base + "-b-1": 1, base + "-b-11": 0, base + "-c": 0,
	} {
		list, err := s.h.Provider().List(s.Context(), prefix)
		s.must("List", err)
		if len(list) != want {
			s.Errorf("List(%q) shows %d snapshots, want %d", prefix, len(list), want)
		}
		for _, sn := range list {
			if id := sn.Info().ID; !strings.HasPrefix(id, prefix) {
				s.Errorf("List(%q) shows %q", prefix, id)
			}
		}
	}
	all, err := s.h.Provider().List(s.Context(), "")
	s.must("List", err)
	if len(all) < 3 {
		s.Errorf("List without a prefix shows %d snapshots, want 3 or more", len(all))
	}
}

func testListCancelled(s *suite) {
	s.create(s.h.Volume(s.T), s.id())
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.h.Provider().List(ctx, "")
	s.is("List with a cancelled context", err, context.Canceled)
}

func testDeleteTwice(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	sn := s.create(vol, id)
	found := s.found(id, vol)
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	s.is("Delete with a cancelled context", sn.Delete(ctx), context.Canceled)
	s.must("Delete", sn.Delete(s.Context()))
	s.must("Delete again", sn.Delete(s.Context()))
	s.must("Delete of what another handle deleted", found.Delete(s.Context()))
	s.nothing("after Delete", id)
}

func testDeleteRace(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	s.create(vol, id)
	var handles []driver.Snapshot
	for range 4 {
		handles = append(handles, s.found(id, vol))
	}
	errs := make([]error, len(handles))
	var wg sync.WaitGroup
	for i, sn := range handles {
		wg.Go(func() { errs[i] = sn.Delete(s.Context()) })
	}
	wg.Wait()
	s.must("Delete, several at once", errors.Join(errs...))
	s.nothing("after Delete", id)
}

func testGone(s *suite) {
	sn := s.create(s.h.Volume(s.T), s.id())
	s.must("Delete", sn.Delete(s.Context()))
	_, err := sn.Ready(s.Context())
	s.is("Ready of a deleted snapshot", err, fs.ErrNotExist)
	if d, ok := sn.(driver.DirReader); ok {
		_, _, err := d.Dir(s.Context())
		s.is("Dir of a deleted snapshot", err, fs.ErrNotExist)
	}
}

func testContent(s *suite) {
	vol, id := s.h.Volume(s.T), s.id()
	s.needContent(vol)
	want := map[string]string{
		"empty": "", "a": "one", "d/e/f": strings.Repeat("0123456789", 100_000), "d/g": "three",
	}
	for name, data := range want {
		s.write(vol, name, data)
	}
	sn := s.create(vol, id)
	s.write(vol, "a", "other")
	s.write(vol, "d/e/f", "short")
	s.write(vol, "later", "x")
	s.must("remove", os.Remove(filepath.Join(vol.Dir, "d", "g")))
	s.shows(vol, sn, want)
	// Again, and as somebody else sees it.
	s.shows(vol, s.found(id, vol), want)
}

// testContentAfterDeletion: an older snapshot does not need a newer one, nor
// the other way round.
func testContentAfterDeletion(s *suite) {
	vol := s.h.Volume(s.T)
	s.needContent(vol)
	s.write(vol, "a", "one")
	first := s.create(vol, s.id())
	s.write(vol, "a", "two")
	second := s.create(vol, s.id())
	s.write(vol, "a", "three")
	third := s.create(vol, s.id())
	s.must("Delete", second.Delete(s.Context()))
	s.shows(vol, first, map[string]string{"a": "one"})
	s.must("Delete", first.Delete(s.Context()))
	s.shows(vol, third, map[string]string{"a": "three"})
}

// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"errors"
	"io/fs"
	"sync"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// group returns n volumes that can be cut together.
func (s *suite) group(n int) (driver.GroupCreator, []Volume) {
	s.Helper()
	g, ok := s.h.Provider().(driver.GroupCreator)
	if !ok {
		s.Skip("the provider is no driver.GroupCreator")
	}
	if s.h.Group == nil {
		s.Skip("the harness has no group of volumes")
	}
	return g, s.h.Group(s.T, n)
}

func ids(vols []Volume) []driver.VolumeID {
	list := make([]driver.VolumeID, len(vols))
	for i, v := range vols {
		list[i] = v.ID
	}
	return list
}

// createGroup cuts vols and waits until all are ready.
func (s *suite) createGroup(g driver.GroupCreator, vols []Volume, id string) []driver.Snapshot {
	s.Helper()
	snaps, err := g.CreateGroup(s.Context(), ids(vols), id)
	s.must("CreateGroup", err)
	if len(snaps) != len(vols) {
		s.Fatalf("CreateGroup returned %d snapshots of %d volumes", len(snaps), len(vols))
	}
	for i, sn := range snaps {
		if info := sn.Info(); info.ID != id || info.Volume != vols[i].ID {
			s.Errorf("member %d is %q of %q, want %q of %q", i, info.ID, info.Volume, id, vols[i].ID)
		}
		if !sn.Info().PointInTime {
			s.Errorf("member %d of a group cut is not point-in-time", i)
		}
		s.waitReady(sn)
	}
	return snaps
}

func testGroup(s *suite) {
	g, vols := s.group(3)
	s.needContent(vols[0])
	id := s.id()
	for i, v := range vols {
		s.write(v, "name", string(rune('a'+i)))
	}
	snaps := s.createGroup(g, vols, id)
	for _, v := range vols {
		s.write(v, "name", "later")
	}
	if n := len(s.find(id)); n != len(vols) {
		s.Fatalf("List shows %d members, want %d", n, len(vols))
	}
	for i, v := range vols {
		want := map[string]string{"name": string(rune('a' + i))}
		s.shows(v, snaps[i], want)
		s.shows(v, s.found(id, v), want)
	}
}

// testGroupMembersApart: a member can be deleted without harm to the others.
func testGroupMembersApart(s *suite) {
	g, vols := s.group(3)
	id := s.id()
	for _, v := range vols {
		s.write(v, "a", string(v.ID))
	}
	s.createGroup(g, vols, id)
	for i, v := range vols {
		for _, w := range vols[i:] {
			s.shows(w, s.found(id, w), map[string]string{"a": string(w.ID)})
		}
		s.must("Delete of a member", s.found(id, v).Delete(s.Context()))
		if left := len(s.find(id)); left != len(vols)-i-1 {
			s.Fatalf("after Delete of %d of %d members List shows %d", i+1, len(vols), left)
		}
	}
}

func testGroupTaken(s *suite) {
	g, vols := s.group(3)
	id := s.id()
	s.create(vols[2], id)
	_, err := g.CreateGroup(s.Context(), ids(vols), id)
	s.is("CreateGroup with an id taken for one volume", err, fs.ErrExist)
	s.waitReady(s.found(id, vols[2]))
	for vol, sn := range s.find(id) {
		s.must("Delete of "+string(vol), sn.Delete(s.Context()))
	}
	s.nothing("after Delete", id)
}

func testGroupMissing(s *suite) {
	g, vols := s.group(2)
	id := s.id()
	_, err := g.CreateGroup(s.Context(), append(ids(vols), s.h.Missing), id)
	s.is("CreateGroup with a missing volume", err, fs.ErrNotExist)
	for _, sn := range s.find(id) {
		s.must("Delete of a partial snapshot", sn.Delete(s.Context()))
	}
	s.nothing("after Delete", id)
}

func testGroupUnsupported(s *suite) {
	g, ok := s.h.Provider().(driver.GroupCreator)
	if !ok || s.h.Apart == nil {
		s.Skip("the harness has no volumes that cannot be grouped")
	}
	id, vols := s.id(), s.h.Apart(s.T)
	_, err := g.CreateGroup(s.Context(), ids(vols), id)
	s.is("CreateGroup of volumes that cannot be cut together", err, errors.ErrUnsupported)
	s.nothing("after errors.ErrUnsupported", id)
	for _, v := range vols {
		s.create(v, id)
	}
}

func testGroupDeleteRace(s *suite) {
	g, vols := s.group(4)
	id := s.id()
	snaps := s.createGroup(g, vols, id)
	errs := make([]error, len(snaps))
	var wg sync.WaitGroup
	for i, sn := range snaps {
		wg.Go(func() { errs[i] = sn.Delete(s.Context()) })
	}
	wg.Wait()
	s.must("Delete of all members at once", errors.Join(errs...))
	s.nothing("after Delete", id)
}

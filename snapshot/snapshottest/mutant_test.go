// SPDX-License-Identifier: Apache-2.0

package snapshottest_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/snapshottest"
)

// mutants are drivers with one mistake each, and the subtest that has to find
// it.
var mutants = map[string]struct {
	caught string
	mutate func(*mutant)
}{
	"adopts a taken id": {"CreateTaken", func(m *mutant) {
		m.create = func(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
			s, err := m.Provider.Create(ctx, vol, id)
			if errors.Is(err, fs.ErrExist) {
				return m.one(ctx, vol, id)
			}
			return s, err
		}
	}},
	"replaces a taken id": {"CreateTaken", func(m *mutant) {
		m.create = func(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
			if s, err := m.one(ctx, vol, id); err == nil {
				_ = s.Delete(ctx)
			}
			return m.Provider.Create(ctx, vol, id)
		}
	}},
	"unnamed error for a missing volume": {"CreateMissing", func(m *mutant) {
		m.create = func(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
			s, err := m.Provider.Create(ctx, vol, id)
			if errors.Is(err, fs.ErrNotExist) {
				err = errors.New("no such thing")
			}
			return s, err
		}
	}},
	"ignores the context": {"CreateCancelled", func(m *mutant) {
		m.create = func(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
			return m.Provider.Create(context.WithoutCancel(ctx), vol, id)
		}
	}},
	"lists everything": {"ListPrefix", func(m *mutant) {
		m.list = func(ctx context.Context, _ string) ([]driver.Snapshot, error) { return m.Provider.List(ctx, "") }
	}},
	"lists exact ids": {"ListPrefix", func(m *mutant) {
		m.list = func(ctx context.Context, prefix string) (exact []driver.Snapshot, err error) {
			all, err := m.Provider.List(ctx, prefix)
			for _, s := range all {
				if s.Info().ID == prefix {
					exact = append(exact, s)
				}
			}
			return exact, err
		}
	}},
	"forgets the rest of its ids": {"CreateManyVolumes", func(m *mutant) {
		m.delete = func(ctx context.Context, s driver.Snapshot) error {
			all, err := m.Provider.List(ctx, s.Info().ID)
			for _, other := range all {
				err = errors.Join(err, other.Delete(ctx))
			}
			return err
		}
	}},
	"deletes nothing": {"CreateListDelete", func(m *mutant) {
		m.delete = func(context.Context, driver.Snapshot) error { return nil }
	}},
	"fails to delete twice": {"DeleteTwice", func(m *mutant) {
		m.delete = func(ctx context.Context, s driver.Snapshot) error {
			if _, err := m.one(ctx, s.Info().Volume, s.Info().ID); err != nil {
				return err
			}
			return s.Delete(ctx)
		}
	}},
	"shows the live volume": {"Content", func(m *mutant) {
		m.dir = func(s driver.Snapshot, _ string) string { return m.dirs[s.Info().Volume] }
	}},
	"shows an old state for ever": {"ContentAfterDeletion", func(m *mutant) {
		first := make(map[driver.VolumeID]string)
		m.dir = func(s driver.Snapshot, path string) string {
			if first[s.Info().Volume] == "" {
				first[s.Info().Volume] = path
			}
			return first[s.Info().Volume]
		}
	}},
	"groups in any order": {"Group", func(m *mutant) {
		m.group = func(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
			s, err := m.Provider.(driver.GroupCreator).CreateGroup(ctx, vols, id)
			if err == nil {
				s[0], s[1] = s[1], s[0]
			}
			return s, err
		}
	}},
	"leaves half a group": {"GroupUnsupported", func(m *mutant) {
		m.group = func(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
			s, err := m.Provider.(driver.GroupCreator).CreateGroup(ctx, vols, id)
			if err != nil {
				_, _ = m.Provider.Create(ctx, vols[0], id)
			}
			return s, err
		}
	}},
	"cuts what cannot be grouped": {"GroupUnsupported", func(m *mutant) {
		m.group = func(ctx context.Context, vols []driver.VolumeID, id string) (all []driver.Snapshot, err error) {
			for _, v := range vols {
				s, err := m.Provider.Create(ctx, v, id)
				if err != nil {
					return nil, err
				}
				all = append(all, s)
			}
			return all, nil
		}
	}},
}

const mutantVar = "SNAPSHOTTEST_MUTANT"

// TestMutant runs the suite on the mutant that the environment names.
func TestMutant(t *testing.T) {
	m, ok := mutants[os.Getenv(mutantVar)]
	if !ok {
		t.Skip("it is run by TestSuiteCatchesMutants")
	}
	snapshottest.Run(t, func(t *testing.T) snapshottest.Harness {
		h := fakeHarness(t, nil)
		wrapped := &mutant{Provider: h.Provider(), dirs: make(map[driver.VolumeID]string)}
		m.mutate(wrapped)
		h.Provider = func() driver.Provider { return wrapped }
		volume := h.Volume
		h.Volume = func(t *testing.T) snapshottest.Volume {
			v := volume(t)
			wrapped.dirs[v.ID] = v.Dir
			return v
		}
		return h
	})
}

// TestSuiteCatchesMutants proves that the suite can fail, clause by clause.
func TestSuiteCatchesMutants(t *testing.T) {
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			self, err := filepath.Abs(os.Args[0])
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestMutant$/^"+m.caught+"$", "-test.v")
			cmd.Env = append(os.Environ(), mutantVar+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestMutant/"+m.caught+" ") {
				t.Errorf("%s does not catch it: %v\n%s", m.caught, err, out)
			}
		})
	}
}

// mutant is a driver of which parts are replaced.
type mutant struct {
	driver.Provider
	dirs   map[driver.VolumeID]string
	create func(context.Context, driver.VolumeID, string) (driver.Snapshot, error)
	group  func(context.Context, []driver.VolumeID, string) ([]driver.Snapshot, error)
	list   func(context.Context, string) ([]driver.Snapshot, error)
	delete func(context.Context, driver.Snapshot) error
	dir    func(driver.Snapshot, string) string
}

// one returns the unchanged snapshot of vol with id.
func (m *mutant) one(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	all, err := m.Provider.List(ctx, id)
	for _, s := range all {
		if i := s.Info(); i.ID == id && i.Volume == vol {
			return s, nil
		}
	}
	return nil, errors.Join(err, fs.ErrNotExist)
}

func (m *mutant) wrap(all []driver.Snapshot) []driver.Snapshot {
	wrapped := make([]driver.Snapshot, len(all))
	for i, s := range all {
		wrapped[i] = mutantSnapshot{s, m}
	}
	return wrapped
}

func (m *mutant) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	create := m.Provider.Create
	if m.create != nil {
		create = m.create
	}
	s, err := create(ctx, vol, id)
	if err != nil {
		return nil, err
	}
	return mutantSnapshot{s, m}, nil
}

func (m *mutant) CreateGroup(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
	group := m.Provider.(driver.GroupCreator).CreateGroup
	if m.group != nil {
		group = m.group
	}
	all, err := group(ctx, vols, id)
	return m.wrap(all), err
}

func (m *mutant) List(ctx context.Context, prefix string) ([]driver.Snapshot, error) {
	list := m.Provider.List
	if m.list != nil {
		list = m.list
	}
	all, err := list(ctx, prefix)
	return m.wrap(all), err
}

type mutantSnapshot struct {
	driver.Snapshot
	m *mutant
}

func (s mutantSnapshot) Delete(ctx context.Context) error {
	if s.m.delete != nil {
		return s.m.delete(ctx, s.Snapshot)
	}
	return s.Snapshot.Delete(ctx)
}

func (s mutantSnapshot) Dir(ctx context.Context) (string, func(context.Context) error, error) {
	path, release, err := s.Snapshot.(driver.DirReader).Dir(ctx)
	if err == nil && s.m.dir != nil {
		path = s.m.dir(s.Snapshot, path)
	}
	return path, release, err
}

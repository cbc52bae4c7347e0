// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

const (
	dataName = "data"
	metaName = "meta.json"
)

// meta is what the claim's folder does not say by its name. It is written
// when the cut is made; without it the snapshot is partial.
type meta struct {
	Version int       `json:"version"`
	Volume  string    `json:"volume"` // for people; the folder's name decides
	Created time.Time `json:"created"`
	Method  string    `json:"method"`
	Files   int64     `json:"files"`
	Bytes   int64     `json:"bytes"`
	// Skipped counts the sockets, FIFOs and devices that were left out.
	Skipped int64 `json:"skipped"`
	// Boot is the run of the machine in whose page cache the data may still
	// be; empty once it is on disk.
	Boot string `json:"boot,omitempty"`
}

const metaVersion = 1

func readMeta(claim string) (*meta, error) {
	b, err := os.ReadFile(filepath.Join(claim, metaName))
	if err != nil {
		return nil, err
	}
	m := &meta{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, err
	}
	if m.Version != metaVersion {
		return nil, fmt.Errorf("metadata of version %d, want %d", m.Version, metaVersion)
	}
	return m, nil
}

// write replaces the metadata in one step, durably if sync is set.
func (m *meta) write(claim string, sync bool) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(claim, "meta-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(claim, metaName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if sync {
		return syncDir(claim)
	}
	return nil
}

// snap is a snapshot, complete or not.
type snap struct {
	store *snapdir.Store
	claim snapdir.Claim

	mu   sync.Mutex
	meta *meta // nil: partial
}

var (
	_ driver.Snapshot  = (*snap)(nil)
	_ driver.DirReader = (*snap)(nil)
)

// create fills the claim.
func (s *snap) create(ctx context.Context, opts Options, src *sources) error {
	boot := bootID()
	m := &meta{Version: metaVersion, Volume: s.claim.Volume, Created: time.Now().UTC(), Boot: boot}
	c := &cloner{opts: opts, skip: s.store.Dir(), sources: src}
	if err := c.tree(ctx, s.claim.Volume, filepath.Join(s.claim.Path, dataName)); err != nil {
		return err
	}
	m.Method, m.Files, m.Bytes, m.Skipped = c.method(), c.files.Load(), c.bytes.Load(), c.skipped.Load()
	if boot == "" {
		// Nothing would tell Ready whether the machine restarted.
		if err := syncFS(s.claim.Path); err != nil {
			return err
		}
	}
	if err := m.write(s.claim.Path, boot == ""); err != nil {
		return err
	}
	s.meta = m
	return nil
}

// Info implements driver.Snapshot.
func (s *snap) Info() driver.SnapshotInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := driver.SnapshotInfo{ID: s.claim.ID, Volume: driver.VolumeID(s.claim.Volume)}
	if s.meta != nil {
		info.Created, info.Method = s.meta.Created, s.meta.Method
	}
	return info
}

// Ready implements driver.Snapshot.
func (s *snap) Ready(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m, err := s.usable()
	if err != nil {
		return false, err
	}
	if m.Boot == "" {
		return true, nil
	}
	if err := syncFS(s.claim.Path); err != nil {
		return false, fmt.Errorf("reflink: flush: %w", err)
	}
	m.Boot = ""
	if err := m.write(s.claim.Path, true); err != nil {
		return false, fmt.Errorf("reflink: %w", err)
	}
	s.meta = m
	return true, nil
}

// usable returns the metadata as it is now, of a snapshot that is whole.
func (s *snap) usable() (*meta, error) {
	m, err := readMeta(s.claim.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reflink: the snapshot is gone or partial: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("reflink: %w", err)
	}
	if m.Boot == "" {
		return m, nil
	}
	if m.Boot != bootID() {
		return nil, fmt.Errorf("reflink: the machine restarted before the snapshot was on disk, it is partial: %w", fs.ErrNotExist)
	}
	return m, nil
}

// Delete implements driver.Snapshot.
func (s *snap) Delete(ctx context.Context) error {
	root, err := os.OpenRoot(s.claim.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reflink: %w", err)
	}
	defer root.Close()
	// The metadata goes first, so that nobody takes the rest for the whole.
	// The folder goes last, so that List shows it until then.
	for _, name := range []string{metaName, dataName} {
		if err := snapdir.RemoveAll(ctx, root, name); err != nil {
			return fmt.Errorf("reflink: %w", err)
		}
	}
	// What a killed process wrote besides.
	rest, err := os.ReadDir(s.claim.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reflink: %w", err)
	}
	for _, e := range rest {
		if err := snapdir.RemoveAll(ctx, root, e.Name()); err != nil {
			return fmt.Errorf("reflink: %w", err)
		}
	}
	root.Close() // Windows removes no open directory
	if err := s.store.Remove(s.claim); err != nil {
		return fmt.Errorf("reflink: %w", err)
	}
	return nil
}

// Dir implements driver.DirReader.
func (s *snap) Dir(ctx context.Context) (string, func(context.Context) error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	if _, err := s.usable(); err != nil {
		return "", nil, err
	}
	path := filepath.Join(s.claim.Path, dataName)
	return path, func(context.Context) error { return nil }, nil
}

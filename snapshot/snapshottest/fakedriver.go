// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/stillpoint-go/protect/snapshot/driver"
)

// provider is a Fake's driver.
type provider struct{ f *Fake }

// groupProvider is one that can cut groups.
type groupProvider struct{ provider }

var _ driver.GroupCreator = groupProvider{}

// Info implements driver.Provider.
func (p provider) Info() driver.Info {
	return driver.Info{Name: "fake", PointInTime: !p.f.opts.Torn}
}

// Check implements driver.Provider.
func (p provider) Check(ctx context.Context, vol driver.VolumeID) error {
	return p.f.call(ctx, Op{Kind: Check, Volume: vol}, func(Fault) error {
		if _, ok := p.f.vols[vol]; !ok {
			return fmt.Errorf("snapshottest: volume %q: %w", vol, fs.ErrNotExist)
		}
		return nil
	})
}

// Create implements driver.Provider.
func (p provider) Create(ctx context.Context, vol driver.VolumeID, id string) (driver.Snapshot, error) {
	snaps, err := p.create(ctx, Op{Kind: Create, Volume: vol, ID: id}, []driver.VolumeID{vol})
	if err != nil {
		return nil, err
	}
	return snaps[0], nil
}

// CreateGroup implements driver.GroupCreator.
func (p groupProvider) CreateGroup(ctx context.Context, vols []driver.VolumeID, id string) ([]driver.Snapshot, error) {
	return p.create(ctx, Op{Kind: CreateGroup, Volume: vols[0], ID: id}, vols)
}

func (p provider) create(ctx context.Context, op Op, vols []driver.VolumeID) ([]driver.Snapshot, error) {
	var snaps []driver.Snapshot
	err := p.f.call(ctx, op, func(fault Fault) error {
		for _, vol := range vols {
			if op.Kind == CreateGroup && p.f.apart[vol] {
				return fmt.Errorf("snapshottest: %q in a group: %w", vol, errors.ErrUnsupported)
			}
		}
		made, err := p.f.create(vols, op.ID, fault)
		for _, c := range made {
			snaps = append(snaps, p.handle(key{c.info.Volume, op.ID}, c.info))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return snaps, nil
}

// List implements driver.Provider.
func (p provider) List(ctx context.Context, prefix string) ([]driver.Snapshot, error) {
	var snaps []driver.Snapshot
	err := p.f.call(ctx, Op{Kind: List, ID: prefix}, func(Fault) error {
		for _, k := range p.f.list() {
			if strings.HasPrefix(k.id, prefix) {
				snaps = append(snaps, p.handle(k, p.f.snaps[k].info))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return snaps, nil
}

func (p provider) handle(k key, info driver.SnapshotInfo) driver.Snapshot {
	h := handle{f: p.f, key: k, info: info}
	if p.f.opts.NoDir {
		return h
	}
	return dirHandle{h}
}

// handle is a snapshot as a driver gives it out.
type handle struct {
	f    *Fake
	key  key
	info driver.SnapshotInfo
}

// dirHandle is one that can be read.
type dirHandle struct{ handle }

var _ driver.DirReader = dirHandle{}

// Info implements driver.Snapshot.
func (h handle) Info() driver.SnapshotInfo { return h.info }

func (h handle) op(kind Kind) Op { return Op{Kind: kind, Volume: h.key.volume, ID: h.key.id} }

// whole returns the snapshot unless it is gone or partial.
func (h handle) whole() (*copied, error) {
	c, ok := h.f.snaps[h.key]
	if !ok || c.partial {
		return nil, fmt.Errorf("snapshottest: snapshot %q of %q: %w", h.key.id, h.key.volume, fs.ErrNotExist)
	}
	return c, nil
}

// Ready implements driver.Snapshot.
func (h handle) Ready(ctx context.Context) (ready bool, err error) {
	err = h.f.call(ctx, h.op(Ready), func(Fault) error {
		c, err := h.whole()
		if err != nil {
			return err
		}
		ready = c.notReady == 0
		if !ready {
			c.notReady--
		}
		return nil
	})
	return ready && err == nil, err
}

// Delete implements driver.Snapshot.
func (h handle) Delete(ctx context.Context) error {
	return h.f.call(ctx, h.op(Delete), func(Fault) error {
		c, ok := h.f.snaps[h.key]
		if !ok {
			return nil
		}
		delete(h.f.snaps, h.key)
		return os.RemoveAll(c.dir)
	})
}

// Dir implements driver.DirReader.
func (h dirHandle) Dir(ctx context.Context) (path string, release func(context.Context) error, err error) {
	err = h.f.call(ctx, h.op(Dir), func(Fault) error {
		c, err := h.whole()
		if err != nil {
			return err
		}
		path = c.dir
		h.f.dirs++
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	return path, func(ctx context.Context) error {
		return h.f.call(ctx, h.op(Release), func(Fault) error {
			h.f.dirs--
			return nil
		})
	}, nil
}

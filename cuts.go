// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"errors"
	"fmt"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/snapshot"
)

// A recovery point is cut in two: what the members hold, and, once they have
// thawed, the volumes that are complete only then. The identifiers of both
// sets begin alike, so that they are found and removed together.

// request is for the set that is cut while the members hold.
func (c *Cut) request(app *Application) snapshot.Request {
	return snapshot.Request{ID: c.Set, Volumes: volumeIDs(app.held())}
}

// requestAfterThaw is for the other one, which may have no volumes.
func (c *Cut) requestAfterThaw(app *Application) snapshot.Request {
	return snapshot.Request{ID: c.Set + ".after", Volumes: volumeIDs(app.volumes(true))}
}

func volumeIDs(vols []Volume) []snapshot.VolumeID {
	ids := make([]snapshot.VolumeID, 0, len(vols))
	for _, v := range vols {
		ids = append(ids, v.ID)
	}
	return ids
}

// checkVolumes reports why volumes cannot be cut.
func (p *Protector) checkVolumes(ctx context.Context, app *Application) error {
	err := p.cfg.Snapshots.Check(ctx, volumeIDs(app.held()))
	if after := app.volumes(true); len(after) > 0 {
		err = errors.Join(err, p.cfg.Snapshots.Check(ctx, volumeIDs(after)))
	}
	return err
}

// cutAfterThaw cuts the volumes that are complete now. Nobody waits for it, but
// it takes no longer than a freeze might.
func (p *Protector) cutAfterThaw(ctx context.Context, app *Application, c *Cut) error {
	req := c.requestAfterThaw(app)
	if len(req.Volumes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hooks.MaxWindow)
	defer cancel()
	if _, err := p.cfg.Snapshots.Take(ctx, req); err != nil {
		return fmt.Errorf("cut after the thaw: %w", err)
	}
	return nil
}

// cutSets are the sets of one point.
type cutSets struct{ held, after *snapshot.Set } // after is nil without volumes for it

// open opens what was cut.
func (p *Protector) open(ctx context.Context, app *Application, c *Cut) (sets cutSets, err error) {
	if sets.held, err = p.cfg.Snapshots.Open(ctx, c.request(app)); err != nil {
		return cutSets{}, err
	}
	if req := c.requestAfterThaw(app); len(req.Volumes) > 0 {
		sets.after, err = p.cfg.Snapshots.Open(ctx, req)
	}
	return sets, err
}

// ready reports whether all of it can be read.
func (s cutSets) ready(ctx context.Context) (bool, error) {
	ok, err := s.held.Ready(ctx)
	if !ok || err != nil || s.after == nil {
		return ok, err
	}
	return s.after.Ready(ctx)
}

// of returns the set that a volume was cut in.
func (s cutSets) of(v Volume) *snapshot.Set {
	if v.AfterThaw {
		return s.after
	}
	return s.held
}

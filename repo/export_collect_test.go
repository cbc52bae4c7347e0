// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Converged returns what a collection that rewrites every pack which is not
// fully used would still find to do.
func (r *Repository) Converged(ctx context.Context) error {
	c := &collector{r: r, o: (&CollectOptions{StaleAfter: -1, Repack: 1, DryRun: true}).withDefaults(), rep: &CollectReport{}}
	var err error
	if c.world, err = r.survey(ctx, 0); err != nil {
		return err
	}
	c.now = c.world.newest
	condemned, err := r.readCondemned(ctx)
	if err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.mark(ctx); err != nil {
		return err
	}
	c.plan(condemned)
	var todo []error
	for _, i := range c.rep.Items {
		todo = append(todo, fmt.Errorf("%s %s: %s", i.Action, i.Object, i.Reason))
	}
	left := func(what string, keys int) {
		if keys > 0 {
			todo = append(todo, fmt.Errorf("%d %s are left", keys, what))
		}
	}
	for ref := range c.world.packs {
		if condemned.Has(ref) {
			todo = append(todo, fmt.Errorf("%s is condemned", ref.Key()))
		}
	}
	left("sessions", len(c.world.lists[ondisk.SessionPrefix]))
	left("forget marks", len(c.world.lists[ondisk.ForgetPrefix]))
	left("journals", len(c.world.lists[ondisk.ResumePrefix]))
	left("commit keys of points that are not live", len(c.world.lists[ondisk.PointPrefix])-c.rep.Points)
	for _, refs := range c.cat.packs {
		gone := 0
		for _, ref := range refs {
			if _, ok := c.world.packs[ref]; !ok {
				gone++
			}
		}
		if gone == len(refs) {
			left("dead index segments", 1)
		}
	}
	return errors.Join(todo...)
}

// Condemn condemns all packs of the point's session.
func (r *Repository) Condemn(ctx context.Context, p *Point, damaged bool) error {
	reason := ondisk.Garbage
	if damaged {
		reason = ondisk.Damaged
	}
	packs, err := r.listPacks(ctx)
	if err != nil {
		return err
	}
	var refs []ondisk.PackRef
	for ref := range packs {
		if ref.Session == p.session {
			refs = append(refs, ref)
		}
	}
	return r.condemn(ctx, reason, refs...)
}

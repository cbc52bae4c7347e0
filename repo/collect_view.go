// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// rootView is what has to be kept, as of one moment: the live points, and those
// that sessions at work have pinned.
type rootView struct {
	*rootSet
	sessions []*session
	open     []*session // those that may still commit
}

// look reads a view. The order counts: what is dead, then sessions, then points
// and what became of those sessions, and what is dead again. A session that is not listed either begins
// later, and then it drops a parent that is dead by then; or it has committed,
// and then its point is listed. Only if a point died meanwhile, the listing of
// points may have missed the session's point and the parent's as well.
func (r *Repository) look(ctx context.Context) (*rootView, error) {
	for range maxRounds {
		dead, err := r.readClosed(ctx)
		if err != nil {
			return nil, err
		}
		sessions, err := r.listSessions(ctx)
		if err != nil {
			return nil, err
		}
		roots, err := r.readRoots(ctx, "")
		if err != nil {
			return nil, err
		}
		v := &rootView{rootSet: roots, sessions: sessions}
		if v.open, err = r.unresolved(ctx, sessions, roots); err != nil {
			return nil, err
		}
		if roots.closed, err = r.readClosed(ctx); err != nil {
			return nil, err
		}
		if dead.Covers(roots.closed) {
			return v, nil
		}
	}
	return nil, errors.New("points are forgotten faster than they can be read")
}

// unresolved returns the sessions that may still commit. Points and fences that
// it comes across are added to the roots: the listing may have missed them.
func (r *Repository) unresolved(ctx context.Context, sessions []*session, roots *rootSet) ([]*session, error) {
	found := make([]*Point, len(sessions))
	open := make([]bool, len(sessions))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, s := range sessions {
		if roots.resolved(s.at) {
			continue
		}
		g.Go(func() (err error) {
			if found[i], err = r.fetchPoint(gctx, s.at); errors.Is(err, fs.ErrNotExist) {
				open[i], err = true, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []*session
	for i, s := range sessions {
		switch {
		case open[i]:
			out = append(out, s)
		case found[i] != nil:
			roots.points[s.at] = found[i]
		case !roots.resolved(s.at):
			roots.fences[s.at] = true
		}
	}
	return out, nil
}

// resolved reports whether it is settled what became of the attempt.
func (s *rootSet) resolved(a attempt) bool {
	return s.points[a] != nil || s.fences[a] || s.closed.Has(a)
}

// pins iterates over the points that are kept for sessions alone: they are dead
// already, but were not when the session began. Chunks may be missing, since
// there are sessions that will find out that they came too late.
func (v *rootView) pins() map[attempt]*Point {
	pins := map[attempt]*Point{}
	for _, s := range v.open {
		for _, a := range s.parents {
			if p := v.points[a]; p != nil && !v.alive(a) {
				pins[a] = p
			}
		}
	}
	return pins
}

// settle closes what was asked to be forgotten and gives up sessions that have
// died, so that this run sees what they leave behind. It ends with a view.
func (c *collector) settle(ctx context.Context) error {
	if err := c.closeForgotten(ctx); err != nil {
		return err
	}
	var err error
	if c.view, err = c.r.look(ctx); err != nil {
		return err
	}
	fenced, err := c.fence(ctx, c.view.open)
	if err != nil {
		return err
	}
	switch {
	case c.o.DryRun: // as if they were
		c.view.open = slices.DeleteFunc(c.view.open, func(s *session) bool { return fenced[s] })
	case len(fenced) > 0:
		if c.view, err = c.r.look(ctx); err != nil {
			return err
		}
	}
	c.rep.Open = len(c.view.open)
	for range c.view.live() {
		c.rep.Points++
	}
	return c.endResolved(ctx, c.view)
}

// closeForgotten closes the points that nobody holds and whose forgetting was
// begun but not completed, or was put off by a hold. Who holds is looked up
// after the mark that says to forget was seen: so a hold is seen as well, or
// its holder sees the mark.
func (c *collector) closeForgotten(ctx context.Context) error {
	closed, err := c.r.readClosed(ctx)
	if err != nil {
		return err
	}
	var gone []attempt
	for _, o := range c.world.lists[ondisk.ForgetPrefix] {
		a, err := ondisk.ParseAttempt(strings.TrimPrefix(o.Key, ondisk.ForgetPrefix))
		if err != nil || closed.Has(a) {
			continue // not ours, or done
		}
		held := false
		for o, err := range c.r.store.List(ctx, ondisk.HoldPrefix+a.String()) {
			if err != nil {
				return err
			}
			held = true
			if !c.world.has(ondisk.HoldPrefix, o.Key) {
				c.later = true // with its end, all may be as it was when this run began
			}
		}
		if held {
			c.note(a.Key(), "keep", "it is to be forgotten, but held", 0)
			continue
		}
		c.note(a.Key(), "close", "its forgetting was not completed", 0)
		gone = append(gone, a)
	}
	if len(gone) == 0 || c.o.DryRun {
		return nil
	}
	c.changed = true
	if err := c.r.putSet(ctx, ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(gone...).Encode()); err != nil && !c.full(err) {
		return err
	}
	return nil
}

// fence gives up those of the sessions that seem to be dead. One that is not
// will not commit, and start again.
func (c *collector) fence(ctx context.Context, open []*session) (map[*session]bool, error) {
	stale := func(s *session) bool {
		last := s.object.ModTime
		if t := c.world.activity[s.id]; t.After(last) {
			last = t
		}
		return c.old(last)
	}
	fenced := map[*session]bool{}
	if len(open) > 0 {
		if err := c.clock(ctx); err != nil {
			return nil, err
		}
	}
	for _, s := range open {
		if !stale(s) {
			continue
		}
		c.note(s.object.Key, "fence", fmt.Sprintf("it has stored nothing for %v", c.o.StaleAfter), 0)
		fenced[s] = true
		if c.o.DryRun {
			continue
		}
		c.changed = true
		_, err := c.r.putFence(ctx, s.at, "the session has stored nothing for a long time")
		if c.full(err) {
			continue // it stays open
		}
		if err != nil {
			return nil, err
		}
		c.rep.Fenced++
	}
	return fenced, nil
}

// endResolved removes the records of sessions that are over.
func (c *collector) endResolved(ctx context.Context, v *rootView) error {
	if c.o.DryRun {
		return nil
	}
	open := map[*session]bool{}
	for _, s := range v.open {
		open[s] = true
	}
	var over []string
	for _, s := range v.sessions {
		if !open[s] {
			over = append(over, s.object.Key)
		}
	}
	return c.remove(ctx, over)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// tidy removes what nobody asks for any more and merges what has become many.
func (c *collector) tidy(ctx context.Context, ripe map[string]*ondisk.PackSet) error {
	steps := []func(context.Context) error{
		c.fold,
		c.mergeClosed,
		func(ctx context.Context) error { return c.mergeCondemned(ctx, ripe) },
		c.tidyIndex,
		c.tidyLeftovers,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fold takes commit keys away that mean nothing any more. That an attempt is
// closed says all that there is to say: so fences are closed, and then what is
// under the keys of closed attempts is deleted, and the marks that concern
// them. The record of a point that a session has pinned stays, for it tells
// what to keep for the session. Sessions are listed after the attempts were
// closed: one that is not listed begins later and drops such a parent.
//
// Nothing is folded unless all that the sessions of the view need is in packs
// that stay: another collector that has read less than this one may be about to
// delete the others.
func (c *collector) fold(ctx context.Context) error {
	if !c.rescued {
		return nil
	}
	closed := c.view.closed // not what was closed later: that was live when chunks were marked
	var fences []attempt
	for a := range c.view.fences {
		if !closed.Has(a) {
			fences = append(fences, a)
			c.note(a.Key(), "close", "a fence whose session is over", 0)
		}
	}
	if len(fences) > 0 {
		c.changed = true
		set := ondisk.NewAttemptSet(fences...)
		if err := c.r.putSet(ctx, ondisk.ClosedPrefix, 0, set.Encode()); err != nil {
			return err
		}
		closed = ondisk.UnionAttempts(closed, set)
	}
	sessions, err := c.r.listSessions(ctx)
	if err != nil {
		return err
	}
	pinned := map[attempt]bool{}
	for _, s := range sessions {
		for _, a := range s.parents {
			pinned[a] = true
		}
	}
	over := func(prefix string) []string {
		var keys []string
		for _, o := range c.world.lists[prefix] {
			a, err := parseAttemptKey(prefix, o.Key)
			if err == nil && closed.Has(a) && !pinned[a] {
				keys = append(keys, o.Key)
			}
		}
		return keys
	}
	points := over(ondisk.PointPrefix)
	for a := range c.view.fences {
		if !pinned[a] {
			points = append(points, a.Key())
		}
	}
	if err := c.remove(ctx, points); err != nil {
		return err
	}
	return c.remove(ctx, slices.Concat(over(ondisk.ForgetPrefix), over(ondisk.HoldPrefix)))
}

// parseAttemptKey returns the attempt that an object concerns.
func parseAttemptKey(prefix, key string) (attempt, error) {
	rest := strings.TrimPrefix(key, prefix)
	if prefix == ondisk.HoldPrefix {
		a, _, err := ondisk.ParseHold(rest)
		return a, err
	}
	return ondisk.ParseAttempt(rest)
}

func (c *collector) mergeClosed(ctx context.Context) error {
	parts, err := c.r.listClosed(ctx)
	if err != nil {
		return err
	}
	m := &merger[*ondisk.AttemptSet]{
		prefix: ondisk.ClosedPrefix, parts: parts, union: ondisk.UnionAttempts,
		covers: (*ondisk.AttemptSet).Covers, encode: (*ondisk.AttemptSet).Encode,
	}
	return m.run(ctx, c)
}

// mergeCondemned merges marks that are ripe, so that those of higher levels are
// ripe for ever.
func (c *collector) mergeCondemned(ctx context.Context, ripe map[string]*ondisk.PackSet) error {
	m := &merger[*ondisk.PackSet]{
		prefix: ondisk.CondemnPrefix, parts: ripe, union: ondisk.UnionPacks,
		covers: (*ondisk.PackSet).Covers, encode: (*ondisk.PackSet).Encode,
	}
	return m.run(ctx, c)
}

// fanIn is how many small objects of a level there may be. More are merged, and
// the result is of the next level: so that each element is written again only
// as often as the number of objects has logarithms.
const fanIn = 8

// merger keeps the objects of a set few.
type merger[T any] struct {
	prefix string
	parts  map[string]T // by key
	union  func(...T) T
	covers func(T, T) bool
	encode func(T) [][]byte
}

// run deletes objects whose content is in those of higher levels, and merges
// those of a level that are many. Nothing is deleted before what has its content
// is stored, at a higher level: so a reader that finds an object gone finds its
// successor in a new listing, and of two that merge the same, both are right.
func (m *merger[T]) run(ctx context.Context, c *collector) error {
	levels := make([][]string, maxLevel+1)
	for key := range m.parts {
		if level, _, ok := parseSetKey(m.prefix, key); ok {
			levels[level] = append(levels[level], key)
		}
	}
	above := m.union()
	var covered []string
	for level := maxLevel; level >= 0; level-- {
		keys := levels[level]
		levels[level] = slices.DeleteFunc(keys, func(key string) bool {
			if !m.covers(above, m.parts[key]) {
				return false
			}
			covered = append(covered, key)
			return true
		})
		for _, key := range levels[level] {
			above = m.union(above, m.parts[key])
		}
	}
	if err := c.remove(ctx, covered); err != nil {
		return err
	}
	for level, keys := range levels[:maxLevel] {
		if err := m.merge(ctx, c, level, keys); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger[T]) merge(ctx context.Context, c *collector, level int, keys []string) error {
	var small []string
	var sets []T
	for _, key := range keys {
		if e := m.encode(m.parts[key]); len(e) == 1 && len(e[0]) < ondisk.MaxSet/2 {
			small = append(small, key)
			sets = append(sets, m.parts[key])
		}
	}
	if len(small) <= fanIn {
		return nil
	}
	c.changed = true
	if err := c.r.putSet(ctx, m.prefix, level+1, m.encode(m.union(sets...))); err != nil {
		return err
	}
	return c.remove(ctx, small)
}

// tidyIndex makes the index forget packs that are gone for good: condemned, and
// not there any more. What is there is listed after the segments were read.
func (c *collector) tidyIndex(ctx context.Context) error {
	condemned, err := c.r.readCondemned(ctx)
	if err != nil {
		return err
	}
	packs, err := c.r.listPacks(ctx)
	if err != nil {
		return err
	}
	gone := func(ref ondisk.PackRef) bool {
		_, there := packs[ref]
		return !there && condemned.Has(ref)
	}
	for range maxViews {
		put, obsolete, err := c.r.compactWithout(ctx, c.cat, gone)
		c.changed = c.changed || put
		if errors.Is(err, index.ErrDamaged) {
			c.cat.failed(err)
		}
		if c.renew() {
			continue
		}
		if err != nil {
			return err
		}
		return c.remove(ctx, obsolete)
	}
	return errBusy
}

// tidyLeftovers deletes the journals of sessions that are over, what collectors
// and the test of Init left when they died, and what a mark waited for that is
// merged by now.
func (c *collector) tidyLeftovers(ctx context.Context) error {
	open := map[[16]byte]bool{}
	for _, s := range c.view.open {
		open[s.id] = true
	}
	var keys []string
	for _, o := range c.world.lists[ondisk.ResumePrefix] {
		if sid, ok := sessionOf(ondisk.ResumePrefix, o.Key); ok && !open[sid] {
			keys = append(keys, o.Key)
		}
	}
	for _, o := range c.world.lists[probePrefix] {
		if c.old(o.ModTime) {
			keys = append(keys, o.Key)
		}
	}
	marks := map[string]bool{}
	parts, err := c.r.listCondemned(ctx) // after what waits for them was listed
	if err != nil {
		return err
	}
	for key := range parts {
		if _, id, ok := parseSetKey(ondisk.CondemnPrefix, key); ok {
			marks[fmt.Sprintf("%s%x", waitLedger, id)] = true
		}
	}
	for _, o := range c.world.lists[ondisk.LedgerPrefix] {
		if strings.HasPrefix(o.Key, clockLedger) && c.old(o.ModTime) ||
			strings.HasPrefix(o.Key, waitLedger) && !marks[o.Key] {
			keys = append(keys, o.Key)
		}
	}
	return c.remove(ctx, keys)
}

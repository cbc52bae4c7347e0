// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// waitRecord is what a run leaves that could not delete at once: the sessions
// that may have begun before the mark was there. Later ones saw it.
type waitRecord struct {
	Version  int      `json:"version"`
	Sessions []string `json:"sessions"`
}

// ripe returns the marks whose packs may be deleted if nothing that is live
// needs them: all sessions are over that may not have seen the mark. The marks
// are read before the sessions are listed, and only these count.
func (c *collector) ripe(ctx context.Context) (map[string]*ondisk.PackSet, error) {
	marks, err := c.r.listCondemned(ctx)
	if err != nil {
		return nil, err
	}
	sessions, err := c.r.listSessions(ctx)
	if err != nil {
		return nil, err
	}
	roots := &rootSet{points: map[attempt]*Point{}, fences: map[attempt]bool{}}
	if roots.closed, err = c.r.readClosed(ctx); err != nil {
		return nil, err
	}
	open, err := c.r.unresolved(ctx, sessions, roots)
	if err != nil {
		return nil, err
	}
	c.rep.Open = len(open)
	ripe := map[string]*ondisk.PackSet{}
	for key, set := range marks {
		ok, err := c.isRipe(ctx, key, open)
		if err != nil {
			return nil, err
		}
		if ok {
			ripe[key] = set
		}
	}
	return ripe, nil
}

// isRipe decides about one mark, given the sessions that are open now. If it
// must wait, it is put on record for whom.
func (c *collector) isRipe(ctx context.Context, key string, open []*session) (bool, error) {
	level, id, _ := parseSetKey(ondisk.CondemnPrefix, key)
	if level > 0 || len(open) == 0 {
		return true, nil // only ripe ones are merged
	}
	record := fmt.Sprintf("%s%x", waitLedger, id)
	waits, err := c.waitsFor(ctx, record)
	if err != nil {
		return false, err
	}
	if waits != nil {
		return !slices.ContainsFunc(open, func(s *session) bool { return waits[hex.EncodeToString(s.id[:])] }), nil
	}
	w := waitRecord{Version: ondisk.Version}
	for _, s := range open {
		w.Sessions = append(w.Sessions, hex.EncodeToString(s.id[:]))
	}
	plain, err := json.Marshal(w)
	if err != nil {
		return false, err
	}
	c.changed = true
	if _, err = c.r.create(ctx, record, plain); c.full(err) {
		err = nil
	}
	return false, err
}

// waitsFor reads for whom a mark has to wait; nil if that is not on record, or
// cannot be read. Then it may be put there again.
func (c *collector) waitsFor(ctx context.Context, record string) (map[string]bool, error) {
	if !c.world.has(ondisk.LedgerPrefix, record) {
		return nil, nil // not on record, no error
	}
	plain, err := c.r.getObject(ctx, record, ondisk.MaxRecord)
	var waits map[string]bool
	if err == nil {
		waits, err = decodeWaits(plain)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // as if it had not been there
	case errors.Is(err, ErrCorrupt) || errors.Is(err, ondisk.ErrMalformed):
		return nil, c.remove(ctx, []string{record})
	}
	return waits, err
}

// decodeWaits returns the sessions of a waitRecord. The error matches
// ondisk.ErrMalformed.
func decodeWaits(plain []byte) (map[string]bool, error) {
	var w waitRecord
	if json.Unmarshal(plain, &w) != nil || w.Version != ondisk.Version {
		return nil, fmt.Errorf("%w: wait record", ondisk.ErrMalformed)
	}
	waits := map[string]bool{}
	for _, s := range w.Sessions {
		waits[s] = true
	}
	return waits, nil
}

// maxRescues bounds how often a run copies chunks out of condemned packs. More
// than one round takes another collector that condemns the copies.
const maxRescues = 3

// sweep deletes what is condemned and not needed. Chunks that turn out to be
// needed, since a session had referred to them before the mark was there, are
// copied to new packs first: a pack stays condemned for ever.
func (c *collector) sweep(ctx context.Context, ripe map[string]*ondisk.PackSet) error {
	deletable := unionValues(ripe, ondisk.UnionPacks)
	for round := 0; ; round++ {
		s, err := c.scan(ctx)
		if err != nil {
			return err
		}
		if len(s.rescue) == 0 || round == maxRescues {
			c.rescued = len(s.keep) == 0
			return c.deletePacks(ctx, s, deletable)
		}
		if err := c.copyOut(ctx, s.rescue); c.full(err) {
			c.rescued = false
			return c.deletePacks(ctx, s, deletable) // but for what is needed
		} else if err != nil {
			return err
		}
	}
}

// scanned is what there is to delete and what must not be.
type scanned struct {
	packs     map[ondisk.PackRef]store.Object
	condemned *ondisk.PackSet
	rescue    []index.Location             // needed, in condemned packs only
	keep      map[ondisk.PackRef]bool      // the packs that these are in
	lost      map[ondisk.ID]ondisk.PackRef // needed, and nowhere; and where they were
}

// scan reads everything again. If a chunk is missing it starts once more, and
// forgets what was needed earlier: the point may be dead by now, and what only it
// needed be gone. A chunk that is missing while nothing moves is damage.
func (c *collector) scan(ctx context.Context) (*scanned, error) {
	for range maxViews {
		s, err := c.scanOnce(ctx)
		if c.renew() {
			continue
		}
		if err != nil || len(s.lost) == 0 {
			return s, err
		}
		if c.marks.runs == 1 { // nothing but what this view needs
			moved, err := c.disturbed(ctx)
			if err != nil {
				return nil, err
			}
			for id, ref := range s.lost {
				if !moved {
					return nil, &CorruptError{Object: ref.Key(), Chunk: id.String(), Err: errors.New("the pack is missing, and a recovery point needs it; nothing was deleted")}
				}
			}
		}
		c.forgetMarks()
	}
	return nil, errBusy
}

// scanOnce reads, in this order: what is needed, where it is said to be, what is
// condemned, what is there.
func (c *collector) scanOnce(ctx context.Context) (*scanned, error) {
	vanished := errors.New("the store listed it, and lists it no more; nothing was deleted")
	before := c.view
	var err error
	if c.view, err = c.r.look(ctx); err != nil {
		return nil, err
	}
	if err := c.endResolved(ctx, c.view); err != nil {
		return nil, err
	}
	for a := range before.live() {
		if c.view.points[a] == nil && !c.view.closed.Has(a) {
			return nil, corrupt(a.Key(), vanished)
		}
	}
	if err := c.mark(ctx); err != nil {
		return nil, err
	}
	s := &scanned{}
	if s.condemned, err = c.r.readCondemned(ctx); err != nil {
		return nil, err
	}
	if s.packs, err = c.r.listPacks(ctx); err != nil {
		return nil, err
	}
	condemned, err := c.r.readCondemned(ctx) // maybe since the first look
	if err != nil {
		return nil, err
	}
	for ref, o := range c.world.packs {
		if _, there := s.packs[ref]; !there && !condemned.Has(ref) {
			return nil, corrupt(o.Key, vanished)
		}
	}
	c.sort(s)
	return s, nil
}

// sort finds the chunks that are needed and have no good copy.
func (c *collector) sort(s *scanned) {
	s.keep, s.lost = map[ondisk.PackRef]bool{}, map[ondisk.ID]ondisk.PackRef{}
	for x := range c.cat.all(c.marks.has) {
		var left []index.Location
		var was ondisk.PackRef
		good, known := false, false
		for _, at := range x.copies {
			ref := at.Pack.Ref
			_, there := s.packs[ref]
			good = good || there && !s.condemned.Has(ref)
			known = known || s.condemned.Reason(ref) == ondisk.Damaged
			if was = ref; there {
				left = append(left, at)
			}
		}
		switch {
		case good:
		case len(left) > 0:
			for _, at := range left {
				s.keep[at.Pack.Ref] = true
			}
			if at, ok := c.readable(left); ok {
				s.rescue = append(s.rescue, at)
			}
		case c.marks.live.has(x.number) && !known: // what is known to be damaged stops nobody
			s.lost[x.id] = was
		}
	}
}

// deletePacks deletes the packs that may be deleted and are not needed.
func (c *collector) deletePacks(ctx context.Context, s *scanned, deletable *ondisk.PackSet) error {
	var doomed []store.Object
	for _, ref := range slices.SortedFunc(maps.Keys(s.packs), comparePacks) {
		o := s.packs[ref]
		switch {
		case !s.condemned.Has(ref):
		case !deletable.Has(ref):
			c.note(o.Key, "keep", "condemned; sessions that may refer to it are at work", o.Size)
			c.rep.Remaining++
		case s.keep[ref]:
			c.note(o.Key, "keep", "condemned; something that is needed could not be copied", o.Size)
			c.rep.Remaining++
		default:
			doomed = append(doomed, o)
		}
	}
	for part := range slices.Chunk(doomed, deletePart) {
		var keys []string
		for _, o := range part {
			keys = append(keys, o.Key)
		}
		if err := c.remove(ctx, keys); err != nil {
			return err
		}
		for _, o := range part {
			c.note(o.Key, "delete", "condemned, and not needed", o.Size)
			c.rep.Deleted++
			c.rep.Freed += o.Size
		}
		c.o.Progress("delete", int64(c.rep.Deleted), int64(len(doomed)))
	}
	return nil
}

// deletePart is how many packs are deleted between two reports of progress.
const deletePart = 256

// unionValues returns the union of the sets in a map.
func unionValues[T any](m map[string]T, union func(...T) T) T {
	var all []T
	for _, s := range m {
		all = append(all, s)
	}
	return union(all...)
}

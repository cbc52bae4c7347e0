// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// Objects of the ledger that collections leave, and those of Init's test.
const (
	idleLedger  = ondisk.LedgerPrefix + "collect-" // a state with nothing to do
	waitLedger  = ondisk.LedgerPrefix + "wait-"    // the sessions that a mark waits for
	clockLedger = ondisk.LedgerPrefix + "clock-"   // what time it is for the store
	probePrefix = "probe/"
)

// surveyed are the prefixes whose objects decide whether there is work.
func surveyed() []string {
	return []string{
		ondisk.PackPrefix, ondisk.SessionPrefix, ondisk.PointPrefix, ondisk.ForgetPrefix, ondisk.HoldPrefix, ondisk.ClosedPrefix,
		ondisk.IndexPrefix, ondisk.CondemnPrefix, ondisk.ResumePrefix, ondisk.LedgerPrefix, probePrefix,
	}
}

// survey is what the listings at the beginning of a run say.
type survey struct {
	packs    map[ondisk.PackRef]store.Object
	lists    map[string][]store.Object // the others, by prefix
	activity map[[16]byte]time.Time    // of the sessions: their last object
	newest   time.Time                 // of all objects
	state    string                    // key of the ledger's object that stands for exactly this
	idle     bool                      // it is there
}

// has reports whether an object was listed.
func (s *survey) has(prefix, key string) bool {
	return slices.ContainsFunc(s.lists[prefix], func(o store.Object) bool { return o.Key == key })
}

// survey lists what there is. It reads nothing.
func (r *Repository) survey(ctx context.Context, repack float64) (*survey, error) {
	s := &survey{packs: map[ondisk.PackRef]store.Object{}, lists: map[string][]store.Object{}, activity: map[[16]byte]time.Time{}}
	prefixes := surveyed()
	lists := make([][]store.Object, len(prefixes))
	g, gctx := errgroup.WithContext(ctx)
	for i, prefix := range prefixes {
		g.Go(func() error {
			for o, err := range r.store.List(gctx, prefix) {
				if err != nil {
					return err
				}
				lists[i] = append(lists[i], o)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var state strings.Builder
	fmt.Fprintln(&state, repack) // what counts as work depends on it
	for i, prefix := range prefixes {
		slices.SortFunc(lists[i], func(a, b store.Object) int { return strings.Compare(a.Key, b.Key) })
		for _, o := range lists[i] {
			s.add(prefix, o)
			if !strings.HasPrefix(o.Key, idleLedger) && !strings.HasPrefix(o.Key, clockLedger) && !isLedger(o.Key) {
				state.WriteString(o.Key + "\n")
			}
		}
	}
	digest := r.keys.StateDigest(state.String())
	s.state = idleLedger + hex.EncodeToString(digest[:])
	s.idle = slices.ContainsFunc(s.lists[ondisk.LedgerPrefix], func(o store.Object) bool { return o.Key == s.state })
	return s, nil
}

func (s *survey) add(prefix string, o store.Object) {
	if o.ModTime.After(s.newest) {
		s.newest = o.ModTime
	}
	if sid, ok := sessionOf(prefix, o.Key); ok && o.ModTime.After(s.activity[sid]) {
		s.activity[sid] = o.ModTime
	}
	if prefix != ondisk.PackPrefix {
		s.lists[prefix] = append(s.lists[prefix], o)
	} else if ref, ok := parsePackKey(o.Key); ok {
		s.packs[ref] = o
	}
}

// sessionOf returns the session that stored an object.
func sessionOf(prefix, key string) (sid [16]byte, ok bool) {
	rest := strings.TrimPrefix(key, prefix)
	switch prefix {
	case ondisk.IndexPrefix:
		if rest, ok = strings.CutPrefix(rest, "00-"); !ok {
			return sid, false
		}
	case ondisk.PackPrefix, ondisk.ResumePrefix, ondisk.SessionPrefix:
	default:
		return sid, false
	}
	rest, _, _ = strings.Cut(rest, "-")
	return parseSessionID(rest)
}

// listPacks lists the packs that are there now.
func (r *Repository) listPacks(ctx context.Context) (map[ondisk.PackRef]store.Object, error) {
	packs := map[ondisk.PackRef]store.Object{}
	for o, err := range r.store.List(ctx, ondisk.PackPrefix) {
		if err != nil {
			return nil, err
		}
		if ref, ok := parsePackKey(o.Key); ok {
			packs[ref] = o
		}
	}
	return packs, nil
}

// clock asks the store for the time: it stores an object and looks when that
// was. Clocks decide when to give up a session, and nothing else. What the newest
// object says is good enough for a dry run only: it may be from a time when the
// clock was wrong.
func (c *collector) clock(ctx context.Context) error {
	if c.o.DryRun || c.o.StaleAfter < 0 {
		return nil
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	key := fmt.Sprintf("%s%x", clockLedger, id)
	if _, err := c.r.create(ctx, key, nil); err != nil {
		if c.full(err) {
			return nil // what was stored last says how late it is at least
		}
		return err
	}
	for o, err := range c.r.store.List(ctx, key) {
		if err != nil {
			return err
		}
		c.now = o.ModTime
	}
	return c.r.store.Delete(ctx, key)
}

// old reports whether something happened at least StaleAfter ago.
func (c *collector) old(t time.Time) bool {
	return c.o.StaleAfter < 0 || !t.IsZero() && c.now.Sub(t) >= c.o.StaleAfter
}

// remember leaves word for the next run that there is nothing to do in exactly
// this state, if that is so.
func (c *collector) remember(ctx context.Context) error {
	if c.changed || c.later || c.rep.Open > 0 {
		return nil
	}
	if _, err := c.r.create(ctx, c.world.state, nil); err != nil {
		return err
	}
	var old []string
	for _, o := range c.world.lists[ondisk.LedgerPrefix] {
		if strings.HasPrefix(o.Key, idleLedger) && o.Key != c.world.state {
			old = append(old, o.Key)
		}
	}
	return c.remove(ctx, old)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// CollectOptions say what a collection may do.
type CollectOptions struct {
	// DryRun reports what would be done and changes nothing.
	DryRun bool
	// StaleAfter is for how long a session may store nothing, by the clock of
	// the store, before it is given up: it will not commit then, and says so
	// with ErrFenced. One that reads and finds nothing new stores a sign of life
	// once an hour. 0 means 24 hours. Negative gives up all that have not
	// committed, for when nobody else writes. It is no matter of safety.
	StaleAfter time.Duration
	// MaxDelete is the largest share of all packs, up to 1, that one run may find
	// to be garbage; with more, it does nothing and fails with fs.ErrPermission. 0
	// means 0.5, and 1 sets no limit.
	MaxDelete float64
	// Repack is the share of a pack, up to 1, that must be in use, or it is
	// rewritten. 0 means 0.5. Negative never rewrites.
	Repack float64
	// Progress, if set, is called from one goroutine at a time with the name of
	// a phase ("mark", "copy", "delete"), what is done of it, and of how much,
	// 0 if that is not known. It must not block.
	Progress func(phase string, done, total int64)
}

func (o *CollectOptions) withDefaults() CollectOptions {
	c := CollectOptions{}
	if o != nil {
		c = *o
	}
	if c.StaleAfter == 0 {
		c.StaleAfter = 24 * time.Hour
	}
	if c.MaxDelete == 0 {
		c.MaxDelete = 0.5
	}
	if c.Repack == 0 {
		c.Repack = 0.5
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	return c
}

// check refuses shares that are none. NaN is not.
func (o *CollectOptions) check() error {
	if !(o.MaxDelete >= 0 && o.MaxDelete <= 1) || !(o.Repack <= 1) {
		return fmt.Errorf("%w: MaxDelete %v, Repack %v", fs.ErrInvalid, o.MaxDelete, o.Repack)
	}
	return nil
}

// CollectReport is what a collection did, or with DryRun would do.
type CollectReport struct {
	// Idle says that nothing has changed since a collection that found nothing
	// to do, so that this one did not look any further.
	Idle      bool  `json:"idle,omitempty"`
	Points    int   `json:"points"` // that are kept
	Packs     int   `json:"packs"`  // that were there
	Condemned int   `json:"condemned"`
	Deleted   int   `json:"deleted"` // packs
	Freed     int64 `json:"bytes_freed"`
	Rewritten int64 `json:"bytes_rewritten"`
	Fenced    int   `json:"sessions_fenced"`
	Open      int   `json:"sessions_open"` // that may still commit
	// Remaining counts condemned packs that are still there: a later run deletes
	// them, when the sessions are over that may have referred to them.
	Remaining int `json:"remaining"`
	// Items says what was done to which object, and why.
	Items []CollectItem `json:"items,omitempty"`
}

// CollectItem is one thing that a collection did or found.
type CollectItem struct {
	Object string `json:"object"`
	// Action is "condemn", "rewrite", "delete", "keep", "fence", "close" or
	// "damaged".
	Action string `json:"action"`
	Reason string `json:"reason"`
	Bytes  int64  `json:"bytes,omitempty"`
}

// Collect frees what no recovery point needs any more. It never waits for
// sessions and may run at any time, next to any number of sessions, restores
// and other collections, and be killed at any point: another one goes on.
//
// What nobody needs is condemned first, by a mark that no session overlooks,
// and deleted when all sessions are over that began before that. If one of them
// is still at work, a later run deletes. So are sessions that died, after
// StaleAfter, and what forgotten recovery points leave behind.
//
// On a full store it deletes first what it can without storing anything, and so
// makes room for the rest: to condemn packs takes a small object, and to rewrite
// one what is needed of it. It fails with ErrFull if it could delete nothing.
//
// It fails, and deletes nothing, if anything that says what is needed cannot be
// read (ErrCorrupt), or with errors.ErrUnsupported if the store failed the test
// of Init. With an error, it returns what it has done until then.
func (r *Repository) Collect(ctx context.Context, opts *CollectOptions) (*CollectReport, error) {
	rep := &CollectReport{}
	if !r.caps.AtomicCreate || !r.caps.ReadAfterWrite || !r.caps.ListAfterWrite {
		return rep, fmt.Errorf("repo: collect: the store failed the test of Init, and nothing can be deleted safely: %w", errors.ErrUnsupported)
	}
	o := opts.withDefaults()
	err := o.check()
	if err == nil {
		err = r.writable(ctx)
	}
	for again := true; again && err == nil; {
		c := &collector{r: r, o: o, rep: &CollectReport{}, unreadable: map[chunkCopy]bool{}}
		err = c.run(ctx)
		if c.cat != nil {
			c.cat.close()
		}
		rep = rep.followedBy(c.rep)
		again = c.lacking != nil && c.rep.Deleted > 0
		if err == nil && c.lacking != nil && rep.Deleted == 0 {
			err = c.lacking
		}
	}
	if err != nil {
		return rep, fmt.Errorf("repo: collect: %w", err)
	}
	return rep, nil
}

// followedBy returns the report of two runs.
func (r *CollectReport) followedBy(next *CollectReport) *CollectReport {
	sum := *next
	sum.Packs = max(r.Packs, next.Packs) // there are fewer each time
	sum.Condemned += r.Condemned
	sum.Deleted += r.Deleted
	sum.Freed += r.Freed
	sum.Rewritten += r.Rewritten
	sum.Fenced += r.Fenced
	sum.Items = slices.Concat(r.Items, next.Items)
	return &sum
}

// collector is one run. Its steps and their order are the protocol; what makes
// each of them necessary is said there.
type collector struct {
	r   *Repository
	o   CollectOptions
	rep *CollectReport

	world *survey
	now   time.Time // by the clock of the store
	view  *rootView
	cat   *catalog
	marks *marker
	// unreadable are the copies of chunks that could not be copied.
	unreadable map[chunkCopy]bool
	// changed says that the run stored or deleted something, so that the state
	// that it began with is not the one that it leaves.
	changed bool
	later   bool  // there may be more to do though nothing changes
	lacking error // the last write for which there was no room, if any
	rescued bool  // everything that is needed is in packs that stay
}

func (c *collector) run(ctx context.Context) error {
	var err error
	// Packs are listed before anything that tells what they are for: a pack that
	// came later is nobody's business.
	if c.world, err = c.r.survey(ctx, c.o.Repack); err != nil {
		return err
	}
	c.now = c.world.newest
	c.rep.Packs = len(c.world.packs)
	if c.rep.Idle = c.world.idle; c.rep.Idle {
		return nil
	}
	condemned, err := c.r.readCondemned(ctx)
	if err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.mark(ctx); err != nil {
		return err
	}
	if err := c.condemnGarbage(ctx, condemned); err != nil || c.o.DryRun {
		return err
	}
	ripe, err := c.ripe(ctx)
	if err != nil {
		return err
	}
	if err := c.sweep(ctx, ripe); err != nil {
		return err
	}
	if err := c.tidy(ctx, ripe); err != nil && !c.full(err) {
		return err
	}
	return c.remember(ctx)
}

// maxViews bounds how often a run starts again because others move what it
// needs.
const maxViews = 10

var errBusy = errors.New("other collections keep moving what is needed")

// mark finds out what the points and the pins of the view need. If something is
// not there, it looks again; only if nothing moves meanwhile, that is damage.
func (c *collector) mark(ctx context.Context) error {
	if c.cat == nil {
		c.cat = newCatalog(c.r)
		c.forgetMarks()
	}
	for range maxViews {
		if err := c.cat.load(ctx); err != nil {
			return err
		}
		err := c.marks.run(ctx, c.view)
		if c.renew() {
			continue
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		moved, merr := c.disturbed(ctx)
		if merr != nil {
			return merr
		}
		if !moved {
			return fmt.Errorf("nothing was deleted, since something that is needed cannot be read: %w", err)
		}
		c.forgetMarks()
		if c.view, err = c.r.look(ctx); err != nil {
			return err
		}
	}
	return errBusy
}

// renew throws the catalog and the marks away if a local file of the index
// broke: answers since may have been wrong. It is as if the catalog had not been
// read yet. After a few times it is kept in memory.
func (c *collector) renew() bool {
	err := c.cat.check()
	if err != nil {
		c.r.dropFiles(c.cat.set.Tables(), err)
		c.cat = newCatalog(c.r)
		c.forgetMarks()
	}
	return err != nil
}

func (c *collector) forgetMarks() {
	c.marks = newMarker(c.cat, func(done int64) { c.o.Progress("mark", done, 0) })
}

// disturbed reports whether something that is missing may have been moved or
// been let go since the view and the catalog were read. Whoever deletes a copy
// has put another one into the index before; and whoever lets a point die has
// closed it before.
func (c *collector) disturbed(ctx context.Context) (bool, error) {
	known := len(c.cat.known())
	if err := c.cat.load(ctx); err != nil {
		return false, err
	}
	closed, err := c.r.readClosed(ctx)
	if err != nil {
		return false, err
	}
	return len(c.cat.known()) > known || !c.view.closed.Covers(closed), nil
}

// note adds to the report.
func (c *collector) note(object, action, reason string, bytes int64) {
	c.rep.Items = append(c.rep.Items, CollectItem{Object: object, Action: action, Reason: reason, Bytes: bytes})
}

// deleters bounds concurrent deletions.
const deleters = 16

// remove deletes objects. Those that are gone already do not matter.
func (c *collector) remove(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	c.changed = true
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleters)
	for _, key := range keys {
		g.Go(func() error { return c.r.store.Delete(ctx, key) })
	}
	return g.Wait()
}

// condemn says for ever that nobody may rely on these packs.
func (r *Repository) condemn(ctx context.Context, reason ondisk.Reason, packs ...ondisk.PackRef) error {
	return r.putSet(ctx, ondisk.CondemnPrefix, 0, ondisk.NewPackSet(reason, packs...).Encode())
}

// refuse is the error of a run that would delete too much.
func (c *collector) refuse(garbage int) error {
	return fmt.Errorf("%d of %d packs are garbage, and MaxDelete allows a share of %.2f: %w", garbage, len(c.world.packs), c.o.MaxDelete, fs.ErrPermission)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// VerifyLevel says how deep a verification looks. Each level includes those
// before it.
type VerifyLevel string

const (
	// VerifyStructure reads no pack: all small objects are authentic, all packs
	// that the index names are there with their size, and it names those of all
	// points. What only points refer to, VerifyMetadata misses.
	VerifyStructure VerifyLevel = "structure"
	// VerifyMetadata reads all directories and extent maps of all points, each
	// part once: they are whole, and everything that they refer to is in the
	// index.
	VerifyMetadata VerifyLevel = "metadata"
	// VerifyData also reads some packs whole and checks every byte of them:
	// VerifyOptions.Budget bytes of those that were not read for the longest
	// time, and all that were damaged before. It notes in the repository which
	// they were, so that by and by all are read.
	VerifyData VerifyLevel = "data"
	// VerifyFull reads everything.
	VerifyFull VerifyLevel = "full"
)

// reaches reports whether a verification of this level does what the other says.
func (l VerifyLevel) reaches(other VerifyLevel) bool {
	order := []VerifyLevel{VerifyStructure, VerifyMetadata, VerifyData, VerifyFull}
	return slices.Index(order, l) >= slices.Index(order, other)
}

// VerifyOptions say how deep to look.
type VerifyOptions struct {
	// Level defaults to VerifyMetadata.
	Level VerifyLevel
	// Budget is how many bytes of packs to read with VerifyData: at least so
	// many, and at most one pack more. With S bytes in the repository, S/Budget
	// runs read everything. 0 means one thirtieth of it.
	Budget int64
	// Progress, if set, is called with the work done so far, from one goroutine
	// at a time. It must not block.
	Progress func(VerifyProgress)
}

func (o *VerifyOptions) withDefaults() (VerifyOptions, error) {
	c := VerifyOptions{}
	if o != nil {
		c = *o
	}
	c.Level = cmp.Or(c.Level, VerifyMetadata)
	if !c.Level.reaches(VerifyStructure) || c.Budget < 0 {
		return c, fmt.Errorf("%w: level %q, budget %d", fs.ErrInvalid, c.Level, c.Budget)
	}
	return c, nil
}

// VerifyProgress is how far a verification has come: objects checked, and bytes
// of those that are read whole.
type VerifyProgress struct {
	Objects, ObjectsTotal int64
	Bytes, BytesTotal     int64
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Level   VerifyLevel `json:"level"`
	Points  int         `json:"points"`
	Objects int64       `json:"objects"` // objects checked
	Packs   int64       `json:"packs"`   // packs read whole
	Bytes   int64       `json:"bytes"`   // size of all objects read whole
	// Damage is empty if everything is as it was written.
	Damage []Damage `json:"damage,omitempty"`
	// Unindexed lists packs that the index does not know and that no session is
	// going to add to it: the leftovers of a session that failed, which Collect
	// removes; or, where chunks are missing from the index, what a lost part of
	// it named: then Repair adds them again.
	Unindexed []string `json:"unindexed,omitempty"`
	// Unknown lists objects that are not of this repository.
	Unknown []string `json:"unknown,omitempty"`
}

// Damage is one thing that is damaged or missing, and what that means.
type Damage struct {
	Object string `json:"object,omitempty"` // key of the object
	Chunk  string `json:"chunk,omitempty"`  // id of the chunk, in hex
	Reason string `json:"reason"`
	// Affects lists the recovery points, volumes and paths that cannot be
	// restored because of it, in order: "point ID: volume/path". A file of which
	// "(hashes of its pages)" are lost restores; to back it up costs more. Nothing
	// is affected if what is damaged has another copy. Up to a thousand are listed;
	// More is about how many there are besides.
	Affects []string `json:"affects,omitempty"`
	More    int64    `json:"more,omitempty"`
}

const maxAffects = 1000

// Verify checks the repository. Damage is reported, not returned: the error says
// that the verification itself could not be done. It changes nothing, but for
// the note of what it has read, which it leaves out if it may not write.
//
// It runs beside sessions, restores and collections: what they change meanwhile
// is no damage. Besides what a session needs, it takes memory for a pack and a
// few tree nodes for each processor, and up to 75 bytes for each node of the
// trees, of which there is one for some hundred files or large chunks.
func (r *Repository) Verify(ctx context.Context, opts *VerifyOptions) (*VerifyReport, error) {
	o, err := opts.withDefaults()
	if err == nil {
		v := newVerifier(r, o)
		if err = v.run(ctx); err == nil {
			return v.result(), nil
		}
	}
	return nil, fmt.Errorf("repo: verify: %w", err)
}

// verifier is one verification.
type verifier struct {
	r    *Repository
	opts VerifyOptions
	dry  bool // leave no note of what was read

	// What the listings and the small objects say.
	objects   []store.Object   // all but packs
	headers   map[string]error // what is wrong with the header and its copy
	packs     map[ondisk.PackRef]*packInfo
	condemned *ondisk.PackSet
	roots     *rootSet
	open      map[[16]byte]bool // sessions that may still store packs
	trees     *treeWalk

	mu struct {
		sync.Mutex
		known    map[damageKey]*finding
		list     []*finding
		bad      map[chunkAt]*finding // damaged chunks of packs that were read
		done     VerifyProgress
		total    VerifyProgress
		affected map[string]bool // IDs of points that cannot be restored
	}
	unknown, unindexed []string
	packsRead          int64
}

// chunkAt names one copy of a chunk.
type chunkAt struct {
	pack ondisk.PackRef
	id   ondisk.ID
}

func newVerifier(r *Repository, opts VerifyOptions) *verifier {
	v := &verifier{r: r.fresh(), opts: opts} // nothing remembered may hide damage
	v.packs = map[ondisk.PackRef]*packInfo{}
	v.mu.known, v.mu.bad, v.mu.affected = map[damageKey]*finding{}, map[chunkAt]*finding{}, map[string]bool{}
	v.trees = newTreeWalk(v)
	return v
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.look(ctx); err != nil {
		return err
	}
	if err := v.checkObjects(ctx); err != nil {
		return err
	}
	missing, err := v.compare(ctx)
	if err != nil {
		return err
	}
	if missing { // it may have been moved or deleted meanwhile
		if err := v.lookAgain(ctx); err != nil {
			return err
		}
	}
	v.reportPacks()
	if err := v.findUnindexed(ctx); err != nil {
		return err
	}
	if !v.opts.Level.reaches(VerifyData) {
		v.expect(int64(len(v.packs)), 0)
		v.progress(int64(len(v.packs)), 0)
	} else if err := v.readPacks(ctx); err != nil {
		return err
	}
	if !v.opts.Level.reaches(VerifyMetadata) {
		return nil
	}
	return v.checkPoints(ctx)
}

// look reads what there is. The order counts: a pack that is in the index, but
// not in a later listing, has been condemned before that, or is missing.
func (v *verifier) look(ctx context.Context) error {
	if err := v.tolerate(v.r.refresh(ctx)); err != nil {
		return err
	}
	if err := v.list(ctx, ""); err != nil {
		return err
	}
	return v.readState(ctx)
}

// lookAgain does so once more, when something seems to be damaged.
func (v *verifier) lookAgain(ctx context.Context) error {
	v.r.forgetIndex()
	if err := v.tolerate(v.r.refresh(ctx)); err != nil {
		return err
	}
	before := maps.Clone(v.packs)
	if err := v.list(ctx, ondisk.PackPrefix); err != nil {
		return err
	}
	for ref, info := range v.packs {
		if old := before[ref]; old != nil && old.listed {
			info.bad, info.whole = old.bad, old.whole
		}
	}
	if err := v.readState(ctx); err != nil {
		return err
	}
	_, err := v.compare(ctx)
	return err
}

// readState reads sessions, points and what is condemned.
func (v *verifier) readState(ctx context.Context) error {
	sessions, err := v.readSessions(ctx)
	if err != nil {
		return err
	}
	v.roots, err = v.r.readRoots(ctx, "")
	if err := v.tolerate(err); err != nil {
		return err
	}
	v.condemned, err = v.r.readCondemned(ctx)
	if err := v.tolerate(err); err != nil {
		return err
	}
	v.open = map[[16]byte]bool{}
	for sid, s := range sessions {
		v.open[sid] = s == nil || v.roots.points[s.at] == nil && !v.roots.fences[s.at] && !v.roots.closed.Has(s.at)
	}
	return nil
}

// readSessions reads the sessions on record; one that cannot be read is nil.
func (v *verifier) readSessions(ctx context.Context) (map[[16]byte]*session, error) {
	var mu sync.Mutex
	all := map[[16]byte]*session{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, o := range v.objects {
		sid, ok := sessionID(o.Key)
		if !ok {
			continue
		}
		g.Go(func() error {
			s, err := v.r.fetchSession(ctx, o)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // see checkObjects
			}
			mu.Lock()
			all[sid] = s
			mu.Unlock()
			return v.tolerate(err)
		})
	}
	err := g.Wait()
	return all, err
}

// tolerate records damage and returns other errors.
func (v *verifier) tolerate(err error) error {
	for _, err := range flatten(err) {
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		v.found(err)
	}
	return nil
}

// flatten returns the errors that errors.Join has put together, at any depth.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	j, ok := err.(interface{ Unwrap() []error })
	if _, single := err.(*CorruptError); single || !ok { //nolint:errorlint // the outermost, on purpose
		return []error{err}
	}
	var out []error
	for _, e := range j.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// progress counts an object that was checked, with its size if it was read
// whole.
func (v *verifier) progress(objects, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.done.Objects += objects
	v.mu.done.Bytes += bytes
	if v.opts.Progress != nil {
		p := v.mu.total
		p.Objects, p.Bytes = v.mu.done.Objects, v.mu.done.Bytes
		v.opts.Progress(p)
	}
}

// expect announces work.
func (v *verifier) expect(objects, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.total.ObjectsTotal += objects
	v.mu.total.BytesTotal += bytes
}

func (v *verifier) result() *VerifyReport {
	rep := &VerifyReport{
		Level: v.opts.Level, Points: len(maps.Collect(v.roots.live())),
		Objects: v.mu.done.Objects, Bytes: v.mu.done.Bytes, Packs: v.packsRead,
		Unindexed: v.unindexed, Unknown: v.unknown, Damage: v.damage(),
	}
	return rep
}

// livePoints returns the points to check, in the order of their IDs.
func (v *verifier) livePoints() []*Point {
	return slices.SortedFunc(maps.Values(maps.Collect(v.roots.live())), func(a, b *Point) int { return strings.Compare(a.ID, b.ID) })
}

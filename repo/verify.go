// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
)

// VerifyOptions say how deep to look.
type VerifyOptions struct {
	// Data reads and checks every byte of every object. Without it, all
	// metadata is read, but of the contents only that their packs are there
	// with the right size.
	Data bool
	// Progress, if set, is called with the work done so far, from one goroutine
	// at a time. It must not block.
	Progress func(VerifyProgress)
}

// VerifyProgress is how far a verification has come.
type VerifyProgress struct {
	Objects, ObjectsTotal int64
	Bytes, BytesTotal     int64
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Points  int   `json:"points"`
	Objects int64 `json:"objects"` // objects checked
	Bytes   int64 `json:"bytes"`   // their size, where they were read whole
	// Damage is empty if everything is as it was written.
	Damage []Damage `json:"damage,omitempty"`
	// Unknown lists objects that are not of this repository.
	Unknown []string `json:"unknown,omitempty"`
}

// Damage is one thing that is damaged or missing, and what that means.
type Damage struct {
	Object string `json:"object,omitempty"` // key of the object
	Chunk  string `json:"chunk,omitempty"`  // id of the chunk, in hex
	Reason string `json:"reason"`
	// Affects lists the recovery points, volumes and paths that cannot be
	// restored because of it, up to a hundred: "point ID: volume/path".
	Affects []string `json:"affects,omitempty"`
}

const maxAffects = 100

// Verify checks the repository without changing it. Damage is reported, not
// returned: the error says that the verification itself could not be done. It
// needs memory for one pack for each processor, and 33 bytes for each chunk.
func (r *Repository) Verify(ctx context.Context, opts *VerifyOptions) (*VerifyReport, error) {
	v := &verifier{r: r.fresh()} // nothing remembered may hide damage
	if opts != nil {
		v.opts = *opts
	}
	v.bad, v.known = map[ondisk.ID]*Damage{}, map[damageKey]*Damage{}
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("repo: verify: %w", err)
	}
	return v.result(), nil
}

type verifier struct {
	r      *Repository
	opts   VerifyOptions
	packs  map[string]int64 // sizes by key
	total  VerifyProgress
	checks []func(context.Context) error

	mu     sync.Mutex
	report VerifyReport
	damage []*Damage
	known  map[damageKey]*Damage
	bad    map[ondisk.ID]*Damage // damaged chunks
	done   VerifyProgress
}

// damageKey tells damage apart: one for each object and chunk, or each reason
// if neither is known.
type damageKey struct{ object, chunk, reason string }

func (v *verifier) run(ctx context.Context) error {
	if err := v.list(ctx); err != nil {
		return err
	}
	all, rerr := v.r.readRoots(ctx, "")
	xerr := v.r.refresh(ctx)
	// Sessions that run now store packs and then their index, and collectors
	// condemn packs before they delete them: so look in the same order.
	if err := v.listPacks(ctx); err != nil {
		return err
	}
	condemned, cerr := v.r.readCondemned(ctx)
	for _, err := range flatten(errors.Join(rerr, xerr, cerr)) {
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		v.found(err)
	}
	if err := v.all(ctx); err != nil {
		return err
	}
	if err := v.checkIndex(ctx, condemned); err != nil {
		return err
	}
	points := slices.SortedFunc(maps.Values(maps.Collect(all.live())), func(a, b *Point) int { return strings.Compare(a.ID, b.ID) })
	v.report.Points = len(points)
	return v.checkPoints(ctx, points)
}

// affects adds to what cannot be restored.
func (d *Damage) affects(what string) {
	if n := len(d.Affects); n < maxAffects && (n == 0 || d.Affects[n-1] != what) {
		d.Affects = append(d.Affects, what)
	}
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

// list finds all objects and what to check of each.
func (v *verifier) list(ctx context.Context) error {
	v.packs = map[string]int64{}
	header, slots := false, 0
	for o, err := range v.r.store.List(ctx, "") {
		if err != nil {
			return err
		}
		check := v.checkOf(o.Key)
		if check == nil {
			v.report.Unknown = append(v.report.Unknown, o.Key)
			continue
		}
		header = header || o.Key == ondisk.HeaderKey
		if strings.HasPrefix(o.Key, ondisk.SlotPrefix) {
			slots++
		}
		v.total.ObjectsTotal++
		v.total.BytesTotal += o.Size
		v.checks = append(v.checks, func(ctx context.Context) error {
			err := check(ctx, o.Key)
			switch {
			case errors.Is(err, ErrCorrupt):
				v.found(err)
			case errors.Is(err, fs.ErrNotExist): // deleted since it was listed
			case err != nil:
				return err
			}
			v.progress(o.Size)
			return nil
		})
		if strings.HasPrefix(o.Key, ondisk.PackPrefix) {
			v.packs[o.Key] = o.Size
		}
	}
	// Whoever has the repository open does not need these. Others do.
	if !header {
		v.found(corrupt(ondisk.HeaderKey, errors.New("the header is missing")))
	}
	if slots == 0 {
		v.found(corrupt(ondisk.SlotPrefix, errors.New("there is no key slot")))
	}
	return nil
}

// listPacks notes the packs that came since the first listing.
func (v *verifier) listPacks(ctx context.Context) error {
	for o, err := range v.r.store.List(ctx, ondisk.PackPrefix) {
		if err != nil {
			return err
		}
		v.packs[o.Key] = o.Size
	}
	return nil
}

func (v *verifier) checkOf(key string) func(context.Context, string) error {
	sealed := func(limit int64) func(context.Context, string) error {
		return func(ctx context.Context, key string) error {
			_, err := v.r.getObject(ctx, key, limit)
			return err
		}
	}
	switch prefix, _ := path.Split(key); {
	case key == ondisk.HeaderKey:
		return func(ctx context.Context, _ string) error {
			h, err := v.r.getHeader(ctx)
			if err != nil {
				return err
			}
			return h.authenticate(v.r.keys)
		}
	case prefix == ondisk.SlotPrefix:
		return func(ctx context.Context, key string) error {
			_, err := v.r.getSlot(ctx, key)
			return err
		}
	case prefix == ondisk.SessionPrefix || prefix == ondisk.LedgerPrefix:
		return sealed(ondisk.MaxRecord)
	case prefix == ondisk.PointPrefix:
		return func(ctx context.Context, key string) error {
			a, err := ondisk.ParseAttempt(strings.TrimPrefix(key, ondisk.PointPrefix))
			if err != nil {
				return corrupt(key, err)
			}
			_, err = v.r.fetchRecord(ctx, a, time.Time{})
			return err
		}
	case prefix == ondisk.ForgetPrefix || prefix == ondisk.HoldPrefix:
		return sealed(ondisk.MaxHeader)
	case prefix == ondisk.ClosedPrefix || prefix == ondisk.CondemnPrefix:
		return sealed(ondisk.MaxSet)
	case prefix == ondisk.IndexPrefix:
		return func(ctx context.Context, key string) error {
			name, ok := index.ParseKey(key)
			if !ok {
				return corrupt(key, errors.New("no name of an index segment"))
			}
			_, err := v.r.getSegment(ctx, name)
			return err
		}
	case prefix == ondisk.PackPrefix:
		return v.checkPack
	default:
		return nil
	}
}

// all runs the checks of the objects.
func (v *verifier) all(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(verifiers)
	for _, check := range v.checks {
		g.Go(func() error { return check(ctx) })
	}
	return g.Wait()
}

// verifiers bounds how many objects, packs among them, are in memory at once.
const verifiers = 3

// checkPack reads a pack whole and opens every chunk.
func (v *verifier) checkPack(ctx context.Context, key string) error {
	if !v.opts.Data {
		return nil // its size is checked against the index
	}
	data, err := v.r.read(ctx, key, ondisk.MaxPack)
	if err != nil {
		return err
	}
	dk, entries, err := pack.Parse(v.r.keys, key, data)
	if err != nil {
		return corrupt(key, err)
	}
	for _, e := range entries {
		at := index.Location{Pack: &index.PackInfo{Key: dk}, Entry: e}
		places, err := v.r.find(ctx, e.ID)
		if err != nil {
			return err
		}
		for _, known := range places {
			if known.Pack.Ref.Key() == key && known.Entry != e {
				v.found(corrupt(key, errors.New("index and footer of the pack disagree")))
			}
		}
		if _, err := v.r.open(at, data[e.Offset:][:e.Sealed]); err != nil {
			v.found(&CorruptError{Object: key, Chunk: e.ID.String(), Err: err})
		}
	}
	return nil
}

// checkIndex compares the packs that the index knows with those that are
// there. Condemned ones may be gone.
func (v *verifier) checkIndex(ctx context.Context, condemned *ondisk.PackSet) error {
	scan, err := ask(ctx, v.r, (*index.Set).Scan)
	if err != nil {
		return err
	}
	for p, err := range scan.Packs() {
		if err != nil {
			return err
		}
		if condemned.Has(p.Ref) {
			continue
		}
		key := p.Ref.Key()
		switch size, ok := v.packs[key]; {
		case !ok:
			v.found(corrupt(key, errors.New("pack is missing")))
		case size != int64(p.Size):
			v.found(corrupt(key, fmt.Errorf("pack has %d bytes instead of %d", size, p.Size)))
		}
	}
	return nil
}

// found records damage, once for each object and chunk.
func (v *verifier) found(err error) *Damage {
	c, ok := errors.AsType[*CorruptError](err)
	if !ok {
		c = &CorruptError{Err: err}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := damageKey{object: c.Object, chunk: c.Chunk}
	if c.Object+c.Chunk == "" {
		key.reason = c.Err.Error()
	}
	if d := v.known[key]; d != nil {
		return d
	}
	d := &Damage{Object: c.Object, Chunk: c.Chunk, Reason: c.Err.Error()}
	v.damage = append(v.damage, d)
	v.known[key] = d
	if id, err := ondisk.ParseID(c.Chunk); err == nil {
		v.bad[id] = d
	}
	return d
}

func (v *verifier) progress(size int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done.Objects++
	v.done.Bytes += size
	if v.opts.Progress != nil {
		p := v.total
		p.Objects, p.Bytes = v.done.Objects, v.done.Bytes
		v.opts.Progress(p)
	}
}

func (v *verifier) result() *VerifyReport {
	v.report.Objects = v.done.Objects
	if v.report.Bytes = v.done.Bytes; !v.opts.Data {
		for _, size := range v.packs {
			v.report.Bytes -= size
		}
	}
	for _, d := range v.damage {
		v.report.Damage = append(v.report.Damage, *d)
	}
	return &v.report
}

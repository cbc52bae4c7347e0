// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// CopyOptions are for Repository.CopyTo. The zero value is usable.
type CopyOptions struct {
	// Progress, if set, is called as WriteOptions.Progress is, for one recovery
	// point after the other, with its ID.
	Progress func(id string, p Progress)
}

// CopyReport is what Repository.CopyTo has done.
type CopyReport struct {
	// Copied and Present are the IDs of the points that were copied, and of
	// those that the target had already, the oldest first.
	Copied  []string `json:"copied"`
	Present []string `json:"present"`
	// New is the plaintext that the target did not have, and Stored the size of
	// the objects that were written for it, in bytes.
	New    int64 `json:"bytes_new"`
	Stored int64 `json:"bytes_stored"`
}

// CopyTo copies recovery points to another repository, the oldest first; without
// ids, all of them. A copy keeps its ID, and the time at which it was first
// committed (Point.Committed). It is independent of the original: holds are not
// copied, and what happens to one does not happen to the other.
//
// A point that dst has already is left as it is. What dst has of another one is
// not stored again, and not read either where a copy of an earlier point of the
// same name tells, or where both repositories have the same identity keys: then
// chunks are taken over as they are, without compressing them again. A copy that
// was interrupted is continued by calling CopyTo again.
//
// Everything is verified when it is read, and again before it is written. Points
// that cannot be copied do not keep others from it: errors of theirs match
// ErrCorrupt if they are damaged, fs.ErrNotExist if they are not there or were
// forgotten meanwhile, and fs.ErrExist if dst has a different point of that ID.
// The report is never nil, and complete also if there is an error.
func (r *Repository) CopyTo(ctx context.Context, dst *Repository, ids []string, opts *CopyOptions) (*CopyReport, error) {
	c := &copier{src: r, dst: dst, raw: r.sameIdentity(dst), fetching: make(chan struct{}, fetchers)}
	if opts != nil {
		c.opts = *opts
	}
	points, err := r.copyList(ctx, ids)
	failed := []error{err}
	if err == nil || tolerable(err) {
		err = r.tolerate(r.refresh(ctx))
	}
	for i := 0; i < len(points) && err == nil; i++ {
		if err = c.point(ctx, points[i]); err == nil {
			continue
		}
		err = fmt.Errorf("point %q: %w", points[i].ID, err)
		if tolerable(err) {
			failed, err = append(failed, err), nil
		}
	}
	if err = errors.Join(append(failed, err)...); err != nil {
		err = fmt.Errorf("repo: copy: %w", err)
	}
	return &c.report, err
}

// tolerable reports whether an error concerns one point only.
func tolerable(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)
}

// copyList returns the points with these IDs, or all, the oldest first. With
// those that can be read, it returns errors that concern others.
func (r *Repository) copyList(ctx context.Context, ids []string) ([]*Point, error) {
	all, err := r.readRoots(ctx, "")
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	failed := []error{err}
	byID := map[string]*Point{}
	for _, p := range all.live() {
		byID[p.ID] = p
	}
	var points []*Point
	for _, id := range ids {
		if p := byID[id]; p != nil {
			points = append(points, p)
		} else {
			failed = append(failed, fmt.Errorf("point %q: %w", id, fs.ErrNotExist))
		}
	}
	if len(ids) == 0 {
		for _, p := range byID {
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b *Point) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.ID, b.ID)) })
	return slices.Compact(points), errors.Join(failed...)
}

// sameIdentity reports whether both repositories give the same content the same
// ids and boundaries.
func (r *Repository) sameIdentity(o *Repository) bool {
	return r.keys.ChunkID(ondisk.KindData, nil) == o.keys.ChunkID(ondisk.KindData, nil) && r.keys.NodeSeed() == o.keys.NodeSeed()
}

// original names the record that a point was first committed with.
type original struct {
	repository string
	digest     [32]byte
}

func (r *Repository) original(p *Point) original {
	if p.Origin != "" {
		return original{p.Origin, p.originDigest}
	}
	return original{r.ID(), p.digest}
}

// copier copies points from one repository to another.
type copier struct {
	src, dst *Repository
	raw      bool // they have the same identity keys
	opts     CopyOptions
	report   CopyReport

	fetching chan struct{} // a token for each read ahead
	ahead    sync.WaitGroup
}

func (c *copier) point(ctx context.Context, p *Point) error {
	have, _, err := c.dst.committed(ctx, p.ID)
	if err != nil {
		return err
	}
	var session [16]byte // zero: none of ours
	if have == nil {
		o := WriteOptions{ID: p.ID, Name: p.Name, Time: p.Time, Level: p.Level, Labels: p.Labels, Evidence: p.Evidence}
		if c.opts.Progress != nil {
			o.Progress = func(pr Progress) { c.opts.Progress(p.ID, pr) }
		}
		have, err = c.dst.write(ctx, o, func(ctx context.Context, w *Writer) error {
			session = w.session.id
			return c.volumes(ctx, w, p)
		})
	}
	switch {
	case err != nil && errors.Is(err, ErrCorrupt):
		if now, _, lerr := c.src.lookup(ctx, p.ID); lerr == nil && (now == nil || now.at != p.at) {
			return fmt.Errorf("it was forgotten meanwhile: %w", fs.ErrNotExist)
		}
		return err
	case err != nil:
		return err
	case have.session == session:
		c.report.Copied = append(c.report.Copied, p.ID)
		c.report.New += have.Stats.New
		c.report.Stored += have.Stats.Stored
	case !c.same(p, have):
		return fmt.Errorf("the target has another point of this ID: %w", fs.ErrExist)
	default:
		c.report.Present = append(c.report.Present, p.ID)
	}
	return nil
}

// same reports whether a point of the target is a copy of p, or p one of it, or
// both of a third, or whether they hold the same.
func (c *copier) same(p, have *Point) bool {
	if c.src.original(p) == c.dst.original(have) {
		return true
	}
	return c.raw && slices.EqualFunc(p.Volumes, have.Volumes, func(a, b Volume) bool { return a.Name == b.Name && a.root == b.root })
}

func (c *copier) volumes(ctx context.Context, w *Writer, p *Point) error {
	o := c.src.original(p)
	w.origin = &Point{Committed: p.Committed, Origin: o.repository, originDigest: o.digest}
	base, err := c.base(ctx, w.parent)
	if err != nil {
		return err
	}
	for i := range p.Volumes {
		v := &p.Volumes[i]
		if err := w.begin(v.Name); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		var out Volume
		if c.raw {
			out, err = c.rawVolume(ctx, w, v)
		}
		_, damaged := errors.AsType[*CorruptError](err)
		if damaged {
			c.src.log.Warn("a volume cannot be taken over as it is, and is copied by its content", "volume", v.Name, "error", err)
		}
		if !c.raw || damaged { // maybe what is lost can be computed from what is there
			out, err = c.volume(ctx, w, v, volumeOf(base, v.Name))
		}
		if err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
		out.Name = v.Name
		w.done(out)
	}
	return nil
}

// base returns the point of the source which the session's parent is a copy of,
// or nil: what they share needs no second look.
func (c *copier) base(ctx context.Context, parent *Point) (*Point, error) {
	if parent == nil {
		return nil, nil // no base, no error
	}
	p, _, err := c.src.lookup(ctx, parent.ID)
	if err != nil || p == nil || c.src.original(p) != c.dst.original(parent) {
		return nil, c.src.tolerate(err)
	}
	return p, nil
}

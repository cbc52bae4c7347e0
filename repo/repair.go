// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// RepairOptions say where to look for damage and what may be done about it.
type RepairOptions struct {
	// DryRun reports what would be done and changes nothing.
	DryRun bool
	// Level says how to look for damage. It defaults to VerifyFull; what a lower
	// level does not find is not repaired.
	Level VerifyLevel
	// From is a replica of the repository's bucket, to take lost chunks from. A
	// repository that merely has the same content does not help (fs.ErrInvalid):
	// its chunks have other ids.
	From *Repository
	// Remove names objects to delete. Only such are deleted as RepairReport.Useless
	// lists; what is wrong with others, Damage says.
	Remove []string
	// Offline asserts that nothing else uses the repository now, and that nothing
	// that did so before will go on: no session, no collection, no repair. It is
	// needed to remove objects that tell those of each other.
	Offline bool
	// Progress is as in VerifyOptions.
	Progress func(VerifyProgress)
}

// RepairReport is what a repair did, or with DryRun would do.
type RepairReport struct {
	// Indexed lists packs that are in the index again.
	Indexed []string `json:"indexed,omitempty"`
	// Condemned lists packs that are missing or damaged. Nobody relies on them
	// any more: the next session that meets the content stores it again.
	Condemned []string `json:"condemned,omitempty"`
	// Rescued counts chunks that were copied out of damaged packs, and Fetched
	// those that came from RepairOptions.From.
	Rescued int64 `json:"chunks_rescued,omitempty"`
	Fetched int64 `json:"chunks_fetched,omitempty"`
	// Restored lists the header and its copy, if one was taken from the other.
	Restored []string `json:"restored,omitempty"`
	// Useless lists objects that cannot be read and can be done without, and
	// what their removal takes. Removed lists those that were removed.
	Useless []Damage `json:"useless,omitempty"`
	Removed []string `json:"removed,omitempty"`
	// Points lists the IDs of recovery points that still cannot be restored as a
	// whole, and Damage what is still damaged. Backing up the same content again
	// brings back what is lost, and otherwise Forget ends the points.
	Points []string `json:"points,omitempty"`
	Damage []Damage `json:"damage,omitempty"`
}

// Repair looks for damage and repairs what can be repaired without the source:
//
//   - The header, or its copy, is stored again if it is damaged or missing; so is
//     the copy that a repository of an earlier release never had.
//   - Packs that the index does not know, since a part of it was lost, are added
//     to it, by what they say themselves.
//   - Packs that are missing or damaged are condemned, so that sessions store
//     again what was in them. What can be read in them is copied first.
//   - Chunks that recovery points have lost are taken from a replica.
//   - Objects that cannot be read and are of no use are removed, if asked to.
//
// It may run at any time, next to sessions, restores and collections, and be
// killed at any point: it stores first and deletes, if anything, last, but for a
// damaged header or copy, of which the other one is there. Doing it
// again does what is left. Nothing that can be read becomes unreadable: packs
// stay until a collection finds that nobody needs them. What it cannot judge,
// since it is sealed with keys or in a format that it does not know, it leaves
// alone.
//
// With an error it returns what it has done until then.
func (r *Repository) Repair(ctx context.Context, opts *RepairOptions) (*RepairReport, error) {
	p := &repairer{r: r, rep: &RepairReport{}, fetched: map[ondisk.ID]error{}}
	if opts != nil {
		p.o = *opts
	}
	if err := p.run(ctx); err != nil {
		return p.rep, fmt.Errorf("repo: repair: %w", err)
	}
	return p.rep, nil
}

// repairer is one repair.
type repairer struct {
	r   *Repository
	o   RepairOptions
	v   *verifier
	rep *RepairReport

	fetched map[ondisk.ID]error // lost chunks that were looked for elsewhere: nil if found
}

func (p *repairer) run(ctx context.Context) error {
	if !p.o.DryRun {
		if err := p.r.writable(ctx); err != nil {
			return err
		}
	}
	if err := p.checkFrom(ctx); err != nil {
		return err
	}
	vopts := &VerifyOptions{Level: cmp.Or(p.o.Level, VerifyFull), Progress: p.o.Progress}
	o, err := vopts.withDefaults()
	if err != nil {
		return err
	}
	p.v = newVerifier(p.r, o)
	p.v.dry = p.o.DryRun
	if err := p.v.run(ctx); err != nil {
		return err
	}
	if err := p.restoreHeaders(ctx); err != nil {
		return err
	}
	if len(p.v.withoutIndex()) > 0 || len(p.broken()) > 0 {
		if err := p.session(ctx, p.mend); err != nil {
			return err
		}
	}
	if err := p.walk(ctx, nil); err != nil {
		return err
	}
	if p.v.affecting() > 0 {
		if err := p.session(ctx, p.fetch); err != nil {
			return err
		}
	}
	if err := p.removeUseless(ctx); err != nil {
		return err
	}
	p.rep.Points = slices.Sorted(maps.Keys(p.v.mu.affected))
	p.rep.Damage = p.remaining()
	return nil
}

// checkFrom makes sure that the other repository can have our chunks.
func (p *repairer) checkFrom(ctx context.Context) error {
	from := p.o.From
	if from == nil {
		return nil
	}
	if !p.r.sameIdentity(from) {
		return fmt.Errorf("%w: From is no replica of this repository: its chunks have other ids", fs.ErrInvalid)
	}
	if err := from.refresh(ctx); err != nil && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// walk follows the references of all points, as a verification does.
func (p *repairer) walk(ctx context.Context, heal healer) error {
	p.v.forgive()
	p.v.trees.heal = heal
	defer func() { p.v.trees.heal = nil }()
	return p.v.trees.points(ctx, p.v.livePoints())
}

// session runs fn with a packer whose packs no collector takes away as long as
// they are not indexed; it is nil if nothing is to be changed. What is there is
// looked at once more after the session is on record: from then on nobody
// deletes a copy that was not condemned by then.
func (p *repairer) session(ctx context.Context, fn func(context.Context, *packer) error) (err error) {
	if p.o.DryRun {
		return fn(ctx, nil)
	}
	var at attempt
	_, _ = rand.Read(at.Name[:]) // never fails, see crypto/rand
	s, err := p.r.beginSession(ctx, at, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end(ctx, s)) }()
	if err := p.v.lookAgain(ctx); err != nil {
		return err
	}
	pk := newPacker(ctx, p.v.r, s.id, func(ondisk.ID) bool { return false })
	defer pk.close()
	pk.startFlusher(func(int64) {}) // what was copied before a crash is not copied again
	return fn(ctx, pk)
}

// resolveTimeout bounds the end of a session after the caller's context ended.
const resolveTimeout = 30 * time.Second

// end resolves a session, which commits nothing, so that no collector waits for
// it.
func (p *repairer) end(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	if _, err := p.r.putFence(ctx, s.at, "the session of a repair"); err != nil {
		return err
	}
	p.r.endSession(ctx, s)
	return nil
}

// finish stores what the packer has, and looks where it is.
func (p *repairer) finish(ctx context.Context, pk *packer) error {
	if pk == nil {
		return nil
	}
	if err := pk.finish(); err != nil {
		return err
	}
	err := p.v.r.refresh(ctx)
	if errors.Is(err, ErrCorrupt) {
		return nil // known
	}
	return err
}

// mend adds packs to the index and condemns damaged ones.
func (p *repairer) mend(ctx context.Context, pk *packer) error {
	packs, err := p.readFooters(ctx)
	if err != nil {
		return err
	}
	if pk != nil {
		pk.adopt(packs)
	}
	if err := p.v.r.adopt(ctx, packs); err != nil {
		return err
	}
	for _, known := range packs {
		p.v.packs[known.Ref].named = true
		p.rep.Indexed = append(p.rep.Indexed, known.Ref.Key())
	}
	p.v.reportIndex()
	var bad []ondisk.PackRef
	broken := p.broken()
	known, err := p.v.r.inPacks(ctx, func(ref ondisk.PackRef) bool { return broken[ref] })
	if err != nil {
		return err
	}
	for _, ref := range slices.SortedFunc(maps.Keys(broken), comparePacks) {
		isBad, err := p.rescue(ctx, pk, ref, known[ref], broken)
		if err != nil {
			return err
		}
		if isBad {
			bad = append(bad, ref)
			p.rep.Condemned = append(p.rep.Condemned, ref.Key())
		}
	}
	if err := p.finish(ctx, pk); err != nil || len(bad) == 0 || pk == nil {
		return err
	}
	// The session is still on record: so no collector takes the copies for
	// superfluous that does not know what is wrong with the originals.
	if err := p.r.condemn(ctx, ondisk.Damaged, bad...); err != nil {
		return err
	}
	p.v.condemned = ondisk.UnionPacks(p.v.condemned, ondisk.NewPackSet(ondisk.Damaged, bad...))
	return nil
}

// adopt adds packs of other sessions to the index segments of this one.
func (p *packer) adopt(packs []index.Pack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range packs {
		b := &openPack{info: known, stored: make(chan struct{})}
		close(b.stored)
		p.mu.unknown[b] = struct{}{}
	}
}

// healer returns the content of a chunk that is lost.
type healer func(ctx context.Context, id ondisk.ID, kind ondisk.Kind) ([]byte, error)

// fetch stores chunks again that points have lost: those in condemned packs that
// can be read after all, and those that the replica has. What it brings back may
// refer to more.
func (p *repairer) fetch(ctx context.Context, pk *packer) error {
	err := p.walk(ctx, func(ctx context.Context, id ondisk.ID, kind ondisk.Kind) ([]byte, error) {
		plain, err := p.v.r.readAny(ctx, id, kind)
		rescued := err == nil
		if errors.Is(err, ErrCorrupt) && p.o.From != nil {
			plain, err = p.o.From.loader.get(ctx, id, kind)
		}
		if err == nil && p.r.keys.ChunkID(kind, plain) != id {
			err = &CorruptError{Chunk: id.String(), Err: errors.New("the replica has something else under this id")}
		}
		if err != nil {
			return nil, err
		}
		if p.count(id, rescued) && pk != nil {
			_, err = pk.put(kind, plain)
		}
		return plain, err
	})
	if err != nil {
		return err
	}
	return p.finish(ctx, pk)
}

// count counts a chunk, and reports whether it is new.
func (p *repairer) count(id ondisk.ID, rescued bool) bool {
	p.v.mu.Lock()
	defer p.v.mu.Unlock()
	if _, known := p.fetched[id]; known {
		return false
	}
	p.fetched[id] = nil
	if rescued {
		p.rep.Rescued++
	} else {
		p.rep.Fetched++
	}
	return true
}

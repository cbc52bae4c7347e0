// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
)

// finding is damage, as long as it is not sure what it means.
type finding struct {
	damageKey
	// hidden says that it is no news: the object is condemned, and nothing that
	// is needed depends on it.
	hidden bool
	// passing says that it was found by following references, which is done
	// again when something has changed meanwhile.
	passing bool
	affects map[string]bool
	more    int64
}

// damageKey tells damage apart: one for each object and chunk, or each reason
// if neither is known.
type damageKey struct{ object, chunk, reason string }

func (f *finding) error() error {
	return &CorruptError{Object: f.object, Chunk: f.chunk, Err: errors.New(f.reason)}
}

// found records damage, once for each object and chunk.
func (v *verifier) found(err error) *finding { return v.record(err, false, false) }

// suspect is found for damage that does not matter unless something turns out
// to be affected.
func (v *verifier) suspect(err error) *finding { return v.record(err, true, false) }

// doubt is suspect for what was found by following references.
func (v *verifier) doubt(err error) *finding { return v.record(err, true, true) }

func (v *verifier) record(err error, hidden, passing bool) *finding {
	c, ok := errors.AsType[*CorruptError](err)
	if !ok {
		c = &CorruptError{Err: err}
	}
	key := damageKey{object: c.Object, chunk: c.Chunk, reason: c.Err.Error()}
	id := key
	if c.Object+c.Chunk != "" {
		id.reason = ""
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.mu.known[id]
	if f == nil {
		f = &finding{damageKey: key, hidden: true, passing: true}
		v.mu.known[id] = f
		v.mu.list = append(v.mu.list, f)
	}
	f.hidden, f.passing = f.hidden && hidden, f.passing && passing
	return f
}

// forgive takes back what was found by following references, and what damage
// was said to affect.
func (v *verifier) forgive() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.mu.affected)
	v.discard(func(f *finding) bool { return f.passing })
	for _, f := range v.mu.list {
		f.affects, f.more = nil, 0
	}
}

// discard takes findings back. The caller holds the lock.
func (v *verifier) discard(which func(*finding) bool) {
	maps.DeleteFunc(v.mu.known, func(_ damageKey, f *finding) bool { return which(f) })
	v.mu.list = slices.DeleteFunc(v.mu.list, which)
}

// place is what damage can affect.
type place struct {
	point, volume, path string
	// hashes stands for those of the file's pages. Without them it restores, but
	// costs more to back up.
	hashes bool
}

func (p place) String() string {
	s := p.point + ": " + path.Join(p.volume, p.path)
	if p.hashes {
		s += " (hashes of its pages)"
	}
	return s
}

// affects records that a place is lost because of the damage.
func (v *verifier) affects(f *finding, at place) {
	what := at.String()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !at.hashes {
		v.mu.affected[at.point] = true
	}
	switch {
	case f.affects[what]:
	case len(f.affects) < maxAffects:
		if f.affects == nil {
			f.affects = map[string]bool{}
		}
		f.affects[what] = true
	default:
		f.more++
	}
}

// affecting returns how many findings affect something.
func (v *verifier) affecting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, f := range v.mu.list {
		if len(f.affects) > 0 {
			n++
		}
	}
	return n
}

// damage returns what was found, in the order of objects and chunks.
func (v *verifier) damage() []Damage {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []Damage
	for _, f := range v.mu.list {
		if f.hidden && len(f.affects) == 0 {
			continue
		}
		d := Damage{Object: f.object, Chunk: f.chunk, Reason: f.reason, More: f.more}
		if len(f.affects) > 0 {
			d.Affects = slices.Sorted(maps.Keys(f.affects))
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Damage) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Chunk, b.Chunk), strings.Compare(a.Reason, b.Reason))
	})
	return out
}

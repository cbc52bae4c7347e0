// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// Change is a difference between two trees at one path.
type Change struct {
	Path     string
	Old, New *Entry // nil where there is none
	// Content says that the bytes of a file may be different. If it is false,
	// they are the same and only the metadata has changed.
	Content bool
}

// Diff iterates over what is different in the tree newer, in the order of a
// depth-first walk. Both trees must be of the same repository (fs.ErrInvalid).
// What they share is not read, so that the cost follows the change. It stops
// after an error.
func (t *Tree) Diff(ctx context.Context, newer *Tree) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if t.r.id != newer.r.id {
			yield(Change{}, fmt.Errorf("repo: compare trees: %w: they are of different repositories", fs.ErrInvalid))
			return
		}
		for c, err := range tree.Diff(ctx, t.t, newer.t) {
			if err != nil {
				yield(Change{}, fmt.Errorf("repo: compare trees: %w", malformed(err)))
				return
			}
			out, err := newChange(c)
			if err != nil {
				yield(Change{}, fmt.Errorf("repo: compare trees: %w", err))
				return
			}
			if out != nil && !yield(*out, nil) {
				return
			}
		}
	}
}

// newChange returns nil for an entry that only moved within the repository.
func newChange(c tree.Change) (*Change, error) {
	path, err := ondisk.KeyPath(c.Key)
	if err != nil {
		return nil, corrupt("", err)
	}
	out := &Change{Path: path}
	if c.Old != nil {
		if out.Old, err = decodeEntry(path, c.Old); err != nil {
			return nil, err
		}
	}
	if c.New != nil {
		if out.New, err = decodeEntry(path, c.New); err != nil {
			return nil, err
		}
	}
	if out.Old == nil || out.New == nil {
		out.Content = true
		return out, nil
	}
	o, n := out.Old.e, out.New.e
	out.Content = !sameContent(o, n)
	if !out.Content && bytes.Equal(metadata(o), metadata(n)) {
		return nil, nil // no change, no error
	}
	return out, nil
}

// sameContent reports whether two entries are known to have the same content.
func sameContent(a, b *ondisk.Entry) bool {
	if a.Type != b.Type || a.Size != b.Size {
		return false
	}
	if !a.Hash.IsZero() && a.Hash == b.Hash {
		return true
	}
	if a.Map != nil || b.Map != nil {
		return a.Map != nil && b.Map != nil && *a.Map == *b.Map
	}
	return slices.Equal(a.Extents, b.Extents)
}

// metadata returns what an entry says apart from its content.
func metadata(e *ondisk.Entry) []byte {
	m := *e
	m.Hash, m.Extents, m.Map, m.Stat, m.Pages = ondisk.ID{}, nil, nil, nil, nil
	return ondisk.AppendEntry(nil, &m)
}

// Children iterates over what the directory at the path contains, without what
// is below that. It stops after an error.
func (t *Tree) Children(ctx context.Context, path string) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		dir, err := t.Entry(ctx, path)
		if err == nil && dir.Type != Dir {
			err = fmt.Errorf("repo: list %q: %w: it is a %s", path, fs.ErrInvalid, dir.Type)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		var prefix []byte
		if path != "." {
			prefix = append(ondisk.PathKey(path), 0)
		}
		from, more := append(bytes.Clone(prefix), 1), true // names hold no NUL
		for more {
			from, more, err = t.children(ctx, prefix, from, yield)
			if err != nil {
				yield(nil, fmt.Errorf("repo: list %q: %w", path, malformed(err)))
				return
			}
		}
	}
}

// children yields the entries from a key on, up to one that is below another.
// If there is more, it returns the key that comes behind everything below that.
func (t *Tree) children(ctx context.Context, prefix, from []byte, yield func(*Entry, error) bool) ([]byte, bool, error) {
	for rec, err := range t.t.From(ctx, from) {
		if err != nil {
			return nil, false, err
		}
		if !bytes.HasPrefix(rec.Key, prefix) {
			break
		}
		if n := bytes.IndexByte(rec.Key[len(prefix):], 0); n >= 0 {
			return append(bytes.Clone(rec.Key[:len(prefix)+n]), 1), true, nil
		}
		e, err := entryOf(rec)
		if err != nil {
			return nil, false, err
		}
		if !yield(e, nil) {
			break
		}
	}
	return nil, false, nil
}

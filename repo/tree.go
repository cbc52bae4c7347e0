// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// EntryType says what an entry of a volume is.
type EntryType uint8

// The types of entries.
const (
	Dir     = EntryType(ondisk.TypeDir)
	File    = EntryType(ondisk.TypeFile)
	Symlink = EntryType(ondisk.TypeSymlink)
	// Link is a further name of a file of the same volume.
	Link = EntryType(ondisk.TypeLink)
)

// String returns "dir", "file", "symlink" or "link".
func (t EntryType) String() string {
	if names := [...]string{"", "dir", "file", "symlink", "link"}; int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("EntryType(%d)", uint8(t))
}

// Entry is one object of a volume's file tree. Everything in it was chosen by
// whoever could write to the volume: it is authentic, not harmless.
type Entry struct {
	// Path is relative to the volume, with slashes; "." is its root. Its
	// components are neither empty nor "." or "..", contain neither slash nor
	// NUL, and are otherwise arbitrary bytes.
	Path string
	Type EntryType
	// Mode holds permissions and fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky.
	Mode     fs.FileMode
	UID, GID uint32
	Size     int64
	ModTime  time.Time
	// Target is what a Symlink says, or the Path of a Link's first name, which
	// comes earlier in the volume.
	Target string
	Xattrs []Xattr // in the order of their names

	e *ondisk.Entry
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

func newPublicEntry(path string, e *ondisk.Entry) *Entry {
	mode := fs.FileMode(e.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&bit != 0 {
			mode |= m
		}
	}
	out := &Entry{
		Path: path, Type: EntryType(e.Type), Mode: mode, UID: e.UID, GID: e.GID,
		Size: int64(e.Size), ModTime: e.ModTime, Target: e.Target, e: e, // below 2^62
	}
	for _, x := range e.Xattrs {
		out.Xattrs = append(out.Xattrs, Xattr{Name: x.Name, Value: x.Value})
	}
	return out
}

// Tree reads a volume of a recovery point. It is safe for concurrent use.
type Tree struct {
	r *Repository
	t *tree.Tree
}

// Tree opens a volume of a recovery point; fs.ErrNotExist if the point has no
// such volume.
func (r *Repository) Tree(ctx context.Context, p *Point, volume string) (*Tree, error) {
	for _, v := range p.Volumes {
		if v.Name != volume {
			continue
		}
		// Damage elsewhere in the repository must not keep us from reading.
		if err := r.refresh(ctx); err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, fmt.Errorf("repo: volume %q: %w", volume, err)
		}
		return &Tree{r: r, t: tree.New(v.root, r.loader.node(ondisk.KindTree))}, nil
	}
	return nil, fmt.Errorf("repo: point %q has no volume %q: %w", p.ID, volume, fs.ErrNotExist)
}

// Entry returns the entry at the path, or fs.ErrNotExist.
func (t *Tree) Entry(ctx context.Context, path string) (*Entry, error) {
	if !ondisk.ValidPath(path) {
		return nil, fmt.Errorf("repo: entry %q: %w", path, fs.ErrInvalid)
	}
	value, ok, err := t.t.Get(ctx, ondisk.PathKey(path))
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("repo: entry %q: %w", path, malformed(err))
	}
	return decodeEntry(path, value)
}

// Entries iterates over the entry at the path and everything below it, in the
// order of a depth-first walk: a directory comes before what it contains. It
// stops after an error, unless that matches ErrCorrupt: who goes on then gets
// what comes behind the part that cannot be read, in which may have been
// entries of any kind.
func (t *Tree) Entries(ctx context.Context, path string) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		next := func(e *Entry, err error) bool { return yield(e, err) && (err == nil || errors.Is(err, ErrCorrupt)) }
		if !next(t.Entry(ctx, path)) {
			return
		}
		key := ondisk.PathKey(path)
		below := string(key)
		if path != "." {
			below += "\x00"
		}
		for rec, err := range t.t.From(ctx, []byte(below)) {
			if err != nil {
				if !next(nil, fmt.Errorf("repo: list %q: %w", path, malformed(err))) {
					return
				}
				continue
			}
			if len(rec.Key) == len(key) {
				continue // the root itself
			}
			if !strings.HasPrefix(string(rec.Key), below) {
				return
			}
			if !next(entryOf(rec)) {
				return
			}
		}
	}
}

func entryOf(rec tree.Record) (*Entry, error) {
	path, err := ondisk.KeyPath(rec.Key)
	if err != nil {
		return nil, corrupt("", err)
	}
	return decodeEntry(path, rec.Value)
}

func decodeEntry(path string, value []byte) (*Entry, error) {
	e, err := ondisk.DecodeEntry(value)
	if err != nil {
		return nil, corrupt("", fmt.Errorf("%q: %w", path, err))
	}
	return newPublicEntry(path, e), nil
}

// malformed makes breaches of the format match ErrCorrupt.
func malformed(err error) error {
	if errors.Is(err, tree.ErrMalformed) || errors.Is(err, ondisk.ErrMalformed) {
		return corrupt("", err)
	}
	return err
}

// Slice is a piece of a file's content.
type Slice struct {
	Offset, Length int64
	// Hole says that the piece is zero bytes that are not stored: those of a
	// hole of the file, or a long stretch of zeros.
	Hole bool

	s ondisk.Slice
}

// Slices iterates over the content of a file from front to back, without gaps.
// It reads no data. It stops after an error.
func (t *Tree) Slices(ctx context.Context, e *Entry) iter.Seq2[Slice, error] {
	return func(yield func(Slice, error) bool) {
		if e.Type != File {
			yield(Slice{}, fmt.Errorf("repo: %q is a %s: %w", e.Path, e.Type, fs.ErrInvalid))
			return
		}
		var off int64
		for s, err := range t.r.extents(ctx, e.e) {
			if err == nil && off+int64(s.Len) > e.Size { // below 2^62
				err = corrupt("", errors.New("extent map exceeds the file"))
			}
			if err != nil {
				yield(Slice{}, fmt.Errorf("repo: %q: %w", e.Path, malformed(err)))
				return
			}
			out := Slice{Offset: off, Length: int64(s.Len), Hole: s.ID.IsZero(), s: s} // below 2^62
			off += out.Length
			if !yield(out, nil) {
				return
			}
		}
		if off != e.Size {
			yield(Slice{}, fmt.Errorf("repo: %q: %w", e.Path, corrupt("", errors.New("extent map is shorter than the file"))))
		}
	}
}

// extents iterates over the extent map of a file.
func (r *Repository) extents(ctx context.Context, e *ondisk.Entry) iter.Seq2[ondisk.Slice, error] {
	return r.slices(ctx, e.Extents, e.Map)
}

// slices iterates over a list of slices, or those in the tree at root.
func (r *Repository) slices(ctx context.Context, list []ondisk.Slice, root *ondisk.Root) iter.Seq2[ondisk.Slice, error] {
	return func(yield func(ondisk.Slice, error) bool) {
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
		if root == nil {
			return
		}
		var off uint64
		for rec, err := range tree.New(*root, r.loader.node(ondisk.KindExtent)).From(ctx, nil) {
			var s ondisk.Slice
			if err == nil {
				s, err = decodeExtent(rec, off)
				off += s.Len
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// decodeExtent decodes a record of an extent map, which must be that of off.
func decodeExtent(rec tree.Record, off uint64) (ondisk.Slice, error) {
	d := ondisk.NewDecoder(rec.Value)
	s := d.Slice()
	if string(rec.Key) != string(offsetKey(off)) {
		d.Fail("extent at the wrong offset")
	}
	return s, d.Done()
}

// ReadSlice returns the verified bytes of a slice that is not a hole. They may
// be shared and must not be modified.
func (t *Tree) ReadSlice(ctx context.Context, s Slice) ([]byte, error) {
	data, err := t.r.loader.get(ctx, s.s.ID, ondisk.KindData)
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	end := uint64(s.s.Off) + s.s.Len
	if end > uint64(len(data)) {
		return nil, fmt.Errorf("repo: %w", &CorruptError{Chunk: s.s.ID.String(), Err: errors.New("slice exceeds its chunk")})
	}
	return data[s.s.Off:end:end], nil
}

// WriteTo writes the content of a file to w, holes as zeros.
func (t *Tree) WriteTo(ctx context.Context, w io.Writer, e *Entry) (int64, error) {
	var total int64
	for s, err := range t.Slices(ctx, e) {
		if err != nil {
			return total, err
		}
		n, err := t.writeSlice(ctx, w, s)
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}

func (t *Tree) writeSlice(ctx context.Context, w io.Writer, s Slice) (int64, error) {
	if s.Hole {
		return io.CopyN(w, zeros{ctx}, s.Length)
	}
	data, err := t.ReadSlice(ctx, s)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(data)
	return int64(n), err
}

// zeros reads as zero bytes until its context ends.
type zeros struct{ ctx context.Context } //nolint:containedctx // lives for one call

func (z zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), z.ctx.Err()
}

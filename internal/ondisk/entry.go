// SPDX-License-Identifier: Apache-2.0

package ondisk

import (
	"fmt"
	"strings"
	"time"
)

// EntryType says what a tree entry is.
type EntryType uint8

// The entry types. Values are part of the format.
const (
	TypeDir     EntryType = 1
	TypeFile    EntryType = 2
	TypeSymlink EntryType = 3
	// TypeLink is a further name of a file: Target is the path of its first
	// entry in the same volume.
	TypeLink EntryType = 4
)

// Entry is one file system object of a volume. Its path is the key under which
// the tree holds it.
type Entry struct {
	Type    EntryType
	Mode    uint32 // permission and setuid, setgid, sticky bits as in stat(2)
	UID     uint32
	GID     uint32
	Size    uint64
	ModTime time.Time
	Target  string // of TypeSymlink and TypeLink
	Xattrs  []Xattr
	// Hash is the keyed hash of the content of a small file: it tells a later
	// session that the file is unchanged, whatever chunk it shares.
	Hash ID
	// Extents is the content in order. Maps that are too long for the entry
	// are in a tree of their own, at Map.
	Extents []Slice
	Map     *Root
	// Stat and Pages are hints for a later session: without them, and to a
	// reader that does not know them, the file is the same.
	Stat  *Stat
	Pages *Pages
}

// Stat is by what a file system shows that a file was changed. With equal
// size, modification time and Stat, the content is the same.
type Stat struct {
	Changed time.Time // st_ctime
	Inode   uint64
}

// PageSize is the unit in which changes of large files are found.
const PageSize = 16 << 10

// PageHash is the size of a page's hash.
const PageHash = 8

// Pages is where the keyed hashes of a file's pages are, one after the other:
// in slices of chunks of KindPages, or if they are many, in a tree of slices
// like that of a long extent map. The last page may be short. The hash of a
// page of zeros is zero; so a hole stands for pages of zeros.
type Pages struct {
	Extents []Slice
	Map     *Root
}

// PagesLen returns the length of the hashes of a file of this size.
func PagesLen(size uint64) uint64 {
	n := size / PageSize
	if size%PageSize > 0 {
		n++
	}
	return n * PageHash
}

// Xattr is an extended attribute. Names are in ascending order in an entry.
type Xattr struct {
	Name  string
	Value []byte
}

// Root refers to a tree.
type Root struct {
	ID     ID
	Height uint8
}

// Field tags of an entry, in the order in which they must appear. A reader
// refuses a tag that it does not know, unless it is >= optionalTag.
const (
	tagMeta     = 1
	tagTarget   = 2
	tagXattrs   = 3
	tagHash     = 4
	tagExtents  = 5
	tagMap      = 6
	optionalTag = 128
	tagStat     = 128
	tagPages    = 129
)

const (
	modeMask   = 0o7777
	maxExtents = MaxNode / 3
	// maxSize keeps sums of two sizes within an int64.
	maxSize = 1 << 62
)

// AppendEntry appends the encoding of e.
func AppendEntry(b []byte, e *Entry) []byte {
	m := AppendUvarint([]byte{byte(e.Type)}, uint64(e.Mode))
	m = AppendUvarint(m, uint64(e.UID))
	m = AppendUvarint(m, uint64(e.GID))
	m = appendTime(AppendUvarint(m, e.Size), e.ModTime)
	b = appendField(b, tagMeta, m)
	if e.Target != "" {
		b = appendField(b, tagTarget, []byte(e.Target))
	}
	if len(e.Xattrs) > 0 {
		var x []byte
		for _, a := range e.Xattrs {
			x = AppendBytes(AppendBytes(x, a.Name), a.Value)
		}
		b = appendField(b, tagXattrs, x)
	}
	if !e.Hash.IsZero() {
		b = appendField(b, tagHash, e.Hash[:])
	}
	if len(e.Extents) > 0 {
		var x []byte
		for _, s := range e.Extents {
			x = AppendSlice(x, s)
		}
		b = appendField(b, tagExtents, x)
	}
	if e.Map != nil {
		b = appendField(b, tagMap, appendRoot(nil, e.Map))
	}
	if e.Stat != nil {
		b = appendField(b, tagStat, AppendUvarint(appendTime(nil, e.Stat.Changed), e.Stat.Inode))
	}
	if e.Pages != nil {
		b = appendField(b, tagPages, appendPages(nil, e.Pages))
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte {
	sec := t.Unix()
	b = AppendUvarint(b, uint64(sec<<1)^uint64(sec>>63)) // zigzag
	return AppendUvarint(b, uint64(t.Nanosecond()))      // not negative
}

func appendRoot(b []byte, r *Root) []byte { return append(append(b, r.ID[:]...), r.Height) }

// appendPages begins with the number of slices; none stands for a tree.
func appendPages(b []byte, p *Pages) []byte {
	b = AppendUvarint(b, uint64(len(p.Extents)))
	if p.Map != nil {
		return appendRoot(b, p.Map)
	}
	for _, s := range p.Extents {
		b = AppendSlice(b, s)
	}
	return b
}

func appendField(b []byte, tag uint64, p []byte) []byte {
	return AppendBytes(AppendUvarint(b, tag), p)
}

// DecodeEntry decodes and validates an entry.
func DecodeEntry(b []byte) (*Entry, error) {
	d := NewDecoder(b)
	e := &Entry{}
	var last uint64
	for d.Len() > 0 {
		tag := d.Uvarint(1 << 32)
		p := NewDecoder(d.Bytes(MaxNode))
		if d.err != nil {
			break
		}
		if tag <= last {
			d.fail("fields out of order")
			break
		}
		last = tag
		if p.Len() == 0 {
			d.fail("empty field") // an absent one says the same
			break
		}
		if !e.decodeField(tag, p) {
			continue
		}
		if err := p.Done(); err != nil {
			return nil, err
		}
	}
	if err := d.Done(); err != nil {
		return nil, err
	}
	return e, e.Validate()
}

// decodeField decodes a field, or reports that it is one to be left out.
func (e *Entry) decodeField(tag uint64, p *Decoder) bool {
	switch tag {
	case tagMeta:
		e.Type = EntryType(p.Byte())
		e.Mode = uint32(p.Uvarint(modeMask)) // bounded
		e.UID = uint32(p.Uvarint(1<<32 - 1)) // bounded
		e.GID = uint32(p.Uvarint(1<<32 - 1)) // bounded
		e.Size = p.Uvarint(maxSize)
		e.ModTime = p.time()
	case tagTarget:
		e.Target = string(p.Fixed(p.Len()))
	case tagXattrs:
		for p.Len() > 0 && p.err == nil {
			e.Xattrs = append(e.Xattrs, Xattr{Name: string(p.Bytes(MaxName)), Value: p.Bytes(MaxXattrBytes)})
		}
	case tagHash:
		copy(e.Hash[:], p.Fixed(len(e.Hash)))
		if e.Hash.IsZero() {
			p.fail("zero hash")
		}
	case tagExtents:
		for p.Len() > 0 && p.err == nil && len(e.Extents) < maxExtents {
			e.Extents = append(e.Extents, p.Slice())
		}
	case tagMap:
		e.Map = p.root()
	case tagStat:
		e.Stat = &Stat{Changed: p.time(), Inode: p.Uvarint(1<<64 - 1)}
	case tagPages:
		e.Pages = p.pages()
	default:
		if tag >= optionalTag {
			return false
		}
		p.fail("unknown field")
	}
	return true
}

func (d *Decoder) time() time.Time {
	zz := d.Uvarint(1<<64 - 1)         // zigzag
	sec := int64(zz>>1) ^ -int64(zz&1) // zigzag
	nsec := int64(d.Uvarint(1e9 - 1))  // bounded
	return time.Unix(sec, nsec).UTC()  // the zone is not stored
}

func (d *Decoder) root() *Root {
	r := &Root{}
	copy(r.ID[:], d.Fixed(len(r.ID)))
	if r.Height = d.Byte(); r.Height >= MaxTreeHeight {
		d.fail("tree too high")
	}
	return r
}

func (d *Decoder) pages() *Pages {
	n := d.Uvarint(maxExtents)
	if n == 0 {
		return &Pages{Map: d.root()}
	}
	p := &Pages{}
	for ; n > 0 && d.err == nil; n-- {
		p.Extents = append(p.Extents, d.Slice())
	}
	return p
}

// Validate reports what a reader would refuse in the entry. Writers must ask,
// since volumes hold what their tenants like.
func (e *Entry) Validate() error {
	bad := func(what string) error { return fmt.Errorf("%w: entry: %s", ErrMalformed, what) }
	hasTarget := e.Type == TypeSymlink || e.Type == TypeLink
	hasData := e.Type == TypeFile
	switch {
	case e.Type < TypeDir || e.Type > TypeLink:
		return bad("unknown type")
	case hasTarget != (e.Target != ""):
		return bad("target")
	case strings.ContainsRune(e.Target, 0):
		return bad("NUL in target")
	case e.Type == TypeSymlink && len(e.Target) > MaxLink:
		return bad("target too long")
	case e.Type == TypeLink && !ValidPath(e.Target):
		return bad("link to an invalid path")
	case !hasData && (e.Size != 0 || len(e.Extents) > 0 || e.Map != nil || !e.Hash.IsZero() || e.Stat != nil || e.Pages != nil):
		return bad("data in something that is not a file")
	case e.Map != nil && (e.Size == 0 || len(e.Extents) > 0 || e.Map.Height >= MaxTreeHeight):
		return bad("extent map")
	case e.Mode > modeMask || e.Size > maxSize || len(e.Extents) > maxExtents:
		return bad("value exceeds its limit")
	}
	if err := validateXattrs(e.Xattrs); err != nil {
		return err
	}
	if e.Pages != nil {
		if err := e.validatePages(); err != nil {
			return err
		}
	}
	if hasData && e.Map == nil {
		return validateExtents(e.Extents, e.Size)
	}
	return nil
}

func (e *Entry) validatePages() error {
	p := e.Pages
	switch {
	case e.Size == 0, (p.Map == nil) == (len(p.Extents) == 0), len(p.Extents) > maxExtents,
		p.Map != nil && p.Map.Height >= MaxTreeHeight:
		return fmt.Errorf("%w: entry: page hashes", ErrMalformed)
	case p.Map == nil:
		return validateExtents(p.Extents, PagesLen(e.Size))
	default:
		return nil
	}
}

func validateXattrs(xattrs []Xattr) error {
	if len(xattrs) > MaxXattrs {
		return fmt.Errorf("%w: entry: more than %d attributes", ErrMalformed, MaxXattrs)
	}
	total := 0
	for i, a := range xattrs {
		total += len(a.Name) + len(a.Value)
		if a.Name == "" || len(a.Name) > MaxName || strings.ContainsRune(a.Name, 0) || i > 0 && a.Name <= xattrs[i-1].Name {
			return fmt.Errorf("%w: entry: attribute name %q", ErrMalformed, a.Name)
		}
	}
	if total > MaxXattrBytes {
		return fmt.Errorf("%w: entry: attributes of %d bytes, more than %d", ErrMalformed, total, MaxXattrBytes)
	}
	return nil
}

func validateExtents(extents []Slice, size uint64) error {
	var n uint64
	for _, s := range extents {
		if !s.valid() || s.Len > size-n {
			return fmt.Errorf("%w: entry: extent of %d bytes at %d", ErrMalformed, s.Len, n)
		}
		n += s.Len
	}
	if n != size {
		return fmt.Errorf("%w: entry: extents of %d bytes in a file of %d", ErrMalformed, n, size)
	}
	return nil
}

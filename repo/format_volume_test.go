// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// formatDecoder reads the binary encodings of FORMAT.md, section 1.
type formatDecoder struct{ b []byte }

func (d *formatDecoder) fixed(n int) []byte {
	must(n <= len(d.b), "input ends early")
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *formatDecoder) varint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	must(n > 0 && (n == 1 || d.b[n-1] != 0) && v <= limit, "varint")
	d.b = d.b[n:]
	return v
}

func (d *formatDecoder) bytes(limit int) []byte { return d.fixed(int(d.varint(uint64(limit)))) }

func (d *formatDecoder) time() string {
	z := d.varint(1<<64 - 1)
	return fmt.Sprintf("%d.%09d", int64(z>>1)^-int64(z&1), d.varint(1e9-1))
}

// formatSlice is a part of a chunk, or a hole.
type formatSlice struct {
	length, offset uint64
	id             [32]byte
	hole           bool
}

func (d *formatDecoder) slice() formatSlice {
	s := formatSlice{length: d.varint(1 << 62)}
	must(s.length > 0, "empty slice")
	switch d.fixed(1)[0] {
	case 0:
		s.hole = true
	case 1:
		s.id, s.offset = [32]byte(d.fixed(32)), d.varint(8<<20)
		must(s.id != [32]byte{} && s.offset+s.length <= 8<<20, "slice outside of a chunk")
	default:
		must(false, "slice")
	}
	return s
}

// formatRoot is the root of a tree.
type formatRoot struct {
	id     [32]byte
	height int
}

func (d *formatDecoder) root() formatRoot {
	return formatRoot{[32]byte(d.fixed(32)), int(d.fixed(1)[0])}
}

// Section 12.

func (r *formatReader) readClosed(key string) {
	d := &formatDecoder{r.object(key, 4<<20)}
	must(d.fixed(1)[0] == 1, "%s: version", key)
	n, last := d.varint(4<<20), ""
	for range n {
		at := fmt.Sprintf("%x-%08x", d.fixed(16), d.varint(1<<32-1))
		must(at > last, "%s: order", key)
		r.closed[at], last = true, at
	}
	must(len(d.b) == 0 && n > 0, "%s: trailing bytes, or nothing", key)
}

// Section 11.

type formatPoint struct {
	ID           string    `json:"id"`
	Version      int       `json:"version"`
	Fence        any       `json:"fence"`
	Committed    time.Time `json:"committed"`
	Origin       string    `json:"origin"`
	OriginDigest string    `json:"origin_digest"`
	Session      string    `json:"session"`
	Seq          uint64    `json:"seq"`
	Prev         string    `json:"prev"`
	Volumes      []struct {
		Name string `json:"name"`
	} `json:"volumes"`
	Roots []struct {
		ID     string `json:"id"`
		Height int    `json:"height"`
	} `json:"roots"`

	digest [32]byte
}

// points returns the live points by their ids.
func (r *formatReader) points() (points map[string]*formatPoint, err error) {
	points = map[string]*formatPoint{}
	all := map[string]*formatPoint{} // by digest
	return points, try(func() {
		for _, key := range r.keys("point/") {
			at := strings.TrimPrefix(key, "point/")
			p, plain := &formatPoint{}, r.object(key, 4<<20)
			must(json.Unmarshal(plain, p) == nil && p.Version == 1, "%s: record", key)
			if p.Fence != nil {
				continue
			}
			must(len(check(hex.DecodeString(p.Session))) == 16 && len(p.Roots) == len(p.Volumes) && len(p.Roots) <= 1024, "%s: record", key)
			for i, v := range p.Volumes {
				must(i == 0 || v.Name > p.Volumes[i-1].Name, "%s: volumes", key)
			}
			name := r.identity("point name", []byte(p.ID))
			must(strings.HasPrefix(at, hex.EncodeToString(name[:16])+"-") && len(p.ID) <= 255, "%s: name", key)
			p.digest = r.identity("record digest", plain)
			all[hex.EncodeToString(p.digest[:])] = p
			if !r.closed[at] {
				must(points[p.ID] == nil, "%s: another attempt is live", key)
				points[p.ID] = p
			}
		}
		for _, p := range all {
			if before := all[p.Prev]; before != nil {
				must(p.Seq == before.Seq+1, "%s: seq", p.ID)
			}
		}
	})
}

// Section 9.

// tree calls fn for the records of a tree.
func (r *formatReader) tree(t formatRoot, kind byte, fn func(key string, value []byte)) {
	must(t.height < 8, "height")
	prev := ""
	any := false
	var node func(id [32]byte, height int, first, end string)
	node = func(id [32]byte, height int, first, end string) {
		d := &formatDecoder{r.chunk(id, kind)}
		must(len(d.b) <= 4<<20 && int(d.fixed(1)[0]) == height, "node %x: height", id)
		n := d.varint(4 << 20)
		must(n > 0, "node %x: empty", id)
		type record struct {
			key   string
			value []byte
		}
		var recs []record
		last := ""
		for i := range n {
			shared := int(d.varint(uint64(len(last))))
			key := last[:shared] + string(d.bytes(4096))
			must(i == 0 && shared == 0 || i > 0 && key > last && (shared == len(last) || key[shared] != last[shared]), "node %x: order", id)
			must((end == "" || key < end) && len(key) <= 4096 && (i > 0 || height == t.height || key == first), "node %x: bounds", id)
			recs = append(recs, record{key, d.bytes(4 << 20)})
			last = key
		}
		must(len(d.b) == 0, "node %x: trailing bytes", id)
		for i, rec := range recs {
			if height == 0 {
				must(!any || rec.key > prev, "keys")
				prev, any = rec.key, true
				fn(rec.key, rec.value)
				continue
			}
			below := end
			if i+1 < len(recs) {
				below = recs[i+1].key
			}
			must(len(rec.value) == 32, "node %x: child", id)
			node([32]byte(rec.value), height-1, rec.key, below)
		}
	}
	node(t.id, t.height, "", "")
}

// Section 10.

// read describes the files of a volume by their paths, as goldenEntry does.
func (r *formatReader) read(p *formatPoint) (out map[string]string, err error) {
	out = map[string]string{}
	return out, try(func() {
		for i, v := range p.Volumes {
			must(len(p.Roots[i].ID) == 64, "root")
			t := formatRoot{[32]byte(check(hex.DecodeString(p.Roots[i].ID))), p.Roots[i].Height}
			r.tree(t, 2, func(key string, value []byte) {
				must(!strings.Contains(key, "/"), "slash in a name")
				name := strings.ReplaceAll(key, "\x00", "/")
				for c := range strings.SplitSeq(name, "/") {
					must(key == "" || c != "" && c != "." && c != ".." && len(c) <= 255, "name %q", name)
				}
				out[path.Join(v.Name, name)] = r.entry(value)
			})
		}
	})
}

func (r *formatReader) entry(value []byte) string {
	d := &formatDecoder{value}
	var (
		kind                 byte
		mode, uid, gid, size uint64
		mtime, target, attr  string
		xattrs               []string
		content              []formatSlice
		contentMap           *formatRoot
		pages                []formatSlice
		last                 uint64
	)
	for len(d.b) > 0 {
		tag := d.varint(1 << 32)
		f := &formatDecoder{d.bytes(4 << 20)}
		must(tag > last && len(f.b) > 0, "fields")
		last = tag
		switch tag {
		case 1:
			kind = f.fixed(1)[0]
			mode, uid, gid, size, mtime = f.varint(0o7777), f.varint(1<<32-1), f.varint(1<<32-1), f.varint(1<<62), f.time()
		case 2:
			target = string(f.fixed(len(f.b)))
		case 3:
			for len(f.b) > 0 {
				name := string(f.bytes(255))
				must(name > attr && !strings.Contains(name, "\x00") && len(xattrs) < 128, "attributes")
				xattrs, attr = append(xattrs, fmt.Sprintf("%s=%x", name, f.bytes(64<<10))), name
			}
		case 4:
			f.fixed(32)
		case 5:
			for len(f.b) > 0 {
				content = append(content, f.slice())
			}
		case 6:
			root := f.root()
			contentMap = &root
		case 128:
			_, _ = f.time(), f.varint(1<<64-1)
		case 129:
			n := f.varint(4 << 20)
			for range n {
				pages = append(pages, f.slice())
			}
			if n == 0 {
				pages = r.extents(f.root())
			}
		default:
			must(tag >= 128, "unknown field %d", tag)
			f.b = nil
		}
		must(len(f.b) == 0, "field %d: trailing bytes", tag)
	}
	must(kind >= 1 && kind <= 4 && (target != "") == (kind > 2), "type")
	must(kind == 2 || size == 0 && pages == nil, "data in something that is not a file")
	must(size > 0 || content == nil && contentMap == nil, "content of a file of no bytes")
	if contentMap != nil {
		must(content == nil, "two maps")
		content = r.extents(*contentMap)
	}
	data := r.content(content, 1)
	must(uint64(len(data)) == size, "%d bytes, not %d", len(data), size)
	if pages != nil {
		r.checkPages(data, r.content(pages, 4))
	}
	return goldenEntry(kind, mode, uid, gid, mtime, target, xattrs, data)
}

// goldenEntry is how both sides of a comparison print an entry.
func goldenEntry(kind byte, mode, uid, gid uint64, mtime, target string, xattrs []string, data []byte) string {
	return fmt.Sprintf("type %d mode %o owner %d:%d time %s target %q xattrs %q %d bytes %x", kind, mode, uid, gid, mtime, target, xattrs, len(data), sha256.Sum256(data))
}

func (r *formatReader) extents(root formatRoot) (slices []formatSlice) {
	var off uint64
	r.tree(root, 3, func(key string, value []byte) {
		d := &formatDecoder{value}
		s := d.slice()
		must(key == string(binary.BigEndian.AppendUint64(nil, off)) && len(d.b) == 0, "extent at %x", key)
		off += s.length
		slices = append(slices, s)
	})
	return slices
}

func (r *formatReader) content(parts []formatSlice, kind byte) []byte {
	var data []byte
	for _, s := range parts {
		must(s.length <= 64<<20, "too large for a test")
		if s.hole {
			data = append(data, make([]byte, s.length)...)
			continue
		}
		c := r.chunk(s.id, kind)
		must(s.offset+s.length <= uint64(len(c)), "slice exceeds its chunk")
		data = append(data, c[s.offset:s.offset+s.length]...)
	}
	return data
}

func (r *formatReader) checkPages(data, hashes []byte) {
	for page := range slices.Chunk(data, 16<<10) {
		must(len(hashes) >= 8, "too few page hashes")
		want := make([]byte, 8)
		if len(bytes.Trim(page, "\x00")) > 0 {
			h := r.identity("page hash", page)
			copy(want, h[:8])
			if binary.LittleEndian.Uint64(want) == 0 {
				want[0] = 1
			}
		}
		must(bytes.Equal(hashes[:8], want), "page hash")
		hashes = hashes[8:]
	}
	must(len(hashes) == 0, "too many page hashes")
}

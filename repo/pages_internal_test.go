// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestBadParent builds on files whose page hashes or contents are authentic
// and nonsense, or gone: what is wrong is stored anew.
func TestBadParent(t *testing.T) {
	data := noise(1, 5<<20+123)
	next := bytes.Clone(data)
	copy(next[2<<20:], noise(2, 5000))
	lost := ondisk.Slice{ID: ondisk.ID{9}, Len: 1 << 20}
	for name, tc := range map[string]struct {
		spoil func(w *Writer, e *ondisk.Entry) error
		limit int64 // of what is new
	}{
		"nothing":     {func(*Writer, *ondisk.Entry) error { return nil }, 40 << 10},
		"no hashes":   {func(_ *Writer, e *ondisk.Entry) error { e.Pages = nil; return nil }, 6 << 20},
		"lost hashes": {func(_ *Writer, e *ondisk.Entry) error { e.Pages.Extents[0].ID = ondisk.ID{9}; return nil }, 6 << 20},
		"tree of hashes is lost": {func(_ *Writer, e *ondisk.Entry) error {
			e.Pages = &ondisk.Pages{Map: &ondisk.Root{ID: ondisk.ID{9}}}
			return nil
		}, 6 << 20},
		"hashes of another kind":  {func(_ *Writer, e *ondisk.Entry) error { e.Pages.Extents[0].ID = e.Extents[0].ID; return nil }, 6 << 20},
		"slice beyond the hashes": {func(_ *Writer, e *ondisk.Entry) error { e.Pages.Extents[0].Off = 1 << 20; return nil }, 6 << 20},
		"wrong hashes": {func(w *Writer, e *ondisk.Entry) (err error) {
			e.Pages.Extents[0].ID, err = w.pk.put(ondisk.KindPages, noise(3, int(e.Pages.Extents[0].Len)))
			return err
		}, 6 << 20},
		"lost content": {func(_ *Writer, e *ondisk.Entry) error {
			e.Extents[0] = ondisk.Slice{ID: lost.ID, Len: e.Extents[0].Len}
			return nil
		}, 6 << 20}, // the first chunk may be most of the file
		"map is lost": {func(_ *Writer, e *ondisk.Entry) error {
			e.Extents, e.Map = nil, &ondisk.Root{ID: ondisk.ID{9}}
			return nil
		}, 6 << 20},
		"map is too short": {func(w *Writer, e *ondisk.Entry) error {
			x := &extents{seed: w.cut, put: w.putNode(ondisk.KindExtent)}
			for i := range 100 {
				if err := x.add(ondisk.Slice{ID: e.Extents[0].ID, Off: uint32(1000 * (i % 2)), Len: 1}); err != nil {
					return err
				}
			}
			var err error
			e.Extents, e.Map, err = x.finish()
			return err
		}, 6 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := initTest(t)
			if _, err := r.Write(t.Context(), WriteOptions{ID: "0"}, func(ctx context.Context, w *Writer) error {
				v, err := w.writeFile(ctx, "v", func(p *pager, _ *ondisk.Entry) error {
					p.begin(nil, 0)
					return p.readStream(bytes.NewReader(data))
				})
				w.done(v)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Write(t.Context(), WriteOptions{ID: "1", Name: "app"}, func(ctx context.Context, w *Writer) error {
				p := w.newPager(ctx)
				p.begin(nil, 0)
				if err := p.readStream(bytes.NewReader(data)); err != nil {
					return err
				}
				e := &ondisk.Entry{Type: ondisk.TypeFile}
				if err := p.finish(e); err != nil {
					return err
				}
				if err := tc.spoil(w, e); err != nil {
					return err
				}
				tw, err := w.newTreeWriter(ctx, "v")
				if err != nil {
					return err
				}
				v, err := tw.run(ctx, func(emit func(*job) error) (int64, error) { return 0, emit(&job{path: ".", entry: e}) })
				v.Name = "v"
				w.done(v)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), b, Passphrase("secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			p, err := again.Write(t.Context(), WriteOptions{ID: "2", Name: "app"}, func(ctx context.Context, w *Writer) error {
				w.trusted = false // as while damaged packs are condemned
				return w.PutBlocks(ctx, "v", bytes.NewReader(next), int64(len(next)), &BlockOptions{Parent: "1", Changed: []Range{{2 << 20, 5000}}})
			})
			if err != nil {
				if name == "wrong hashes" {
					return // the sample noticed
				}
				t.Fatal(err)
			}
			if p.Stats.New > tc.limit {
				t.Errorf("%d bytes are new", p.Stats.New)
			}
			tr, err := again.Tree(t.Context(), p, "v")
			if err != nil {
				t.Fatal(err)
			}
			e, err := tr.Entry(t.Context(), ".")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := tr.WriteTo(t.Context(), &got, e); err != nil || !bytes.Equal(got.Bytes(), next) {
				t.Errorf("%d bytes, %v", got.Len(), err)
			}
		})
	}
}

// FuzzDecodeJournal checks that whatever decodes has no other encoding.
func FuzzDecodeJournal(f *testing.F) {
	entry := ondisk.AppendEntry(nil, &ondisk.Entry{Type: ondisk.TypeFile, Size: 5, Extents: []ondisk.Slice{{Len: 5}}, Stat: &ondisk.Stat{Inode: 7}})
	for _, recs := range [][]journalRecord{nil, {{[]byte("a"), entry}}, {{[]byte("a"), entry}, {[]byte("b"), nil}}} {
		plain, _ := encodeJournal("v", recs)
		f.Add(plain)
	}
	f.Add([]byte("\x01v\x01b\x00\x01a\x00"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		volume, recs, err := decodeJournal(plain)
		if err != nil {
			return
		}
		for i, r := range recs {
			if i > 0 && bytes.Compare(recs[i-1].key, r.key) >= 0 {
				t.Fatalf("%q comes after %q", r.key, recs[i-1].key)
			}
			if e, err := ondisk.DecodeEntry(r.entry); err == nil && e.Validate() != nil {
				t.Fatalf("%+v", e)
			}
		}
		var again []byte
		for first := true; first || len(recs) > 0; first = false {
			var part []byte
			part, recs = encodeJournal(volume, recs)
			if !first {
				part = part[1+len(volume):]
			}
			again = append(again, part...)
		}
		if len(volume) < 128 && !bytes.Equal(again, plain) {
			t.Fatalf("%x prints as %x", plain, again)
		}
	})
}

// TestJournalLimit splits a journal that is too large for one object.
func TestJournalLimit(t *testing.T) {
	var recs []journalRecord
	for i := range 10_000 {
		recs = append(recs, journalRecord{offsetKey(uint64(i)), make([]byte, 1000)})
	}
	objects, n := 0, 0
	for rest := recs; len(rest) > 0; objects++ {
		var plain []byte
		plain, rest = encodeJournal("v", rest)
		if len(plain) > maxJournal {
			t.Errorf("%d bytes", len(plain))
		}
		volume, got, err := decodeJournal(plain)
		if err != nil || volume != "v" {
			t.Fatal(err)
		}
		n += len(got)
	}
	if objects != 3 || n != len(recs) {
		t.Errorf("%d files in %d objects", n, objects)
	}
}

// TestDamagedJournal: a journal that cannot be read costs time, nothing else.
func TestDamagedJournal(t *testing.T) {
	r, b := initTest(t)
	key := func(n uint32) string { return journalKey([16]byte{1}, n) }
	recs := []journalRecord{{[]byte("a"), ondisk.AppendEntry(nil, &ondisk.Entry{Type: ondisk.TypeFile, Size: 1, Extents: []ondisk.Slice{{ID: ondisk.ID{9}, Len: 1}}, Stat: &ondisk.Stat{}})}}
	good, _ := encodeJournal("v", recs)
	nonsense, _ := encodeJournal("v", []journalRecord{{[]byte("a"), []byte("x")}})
	for name, objects := range map[string][][]byte{
		"missing": nil, "not sealed": {good}, "malformed": {r.keys.SealObject(key(0), []byte("\xff"))},
		"nonsense": {r.keys.SealObject(key(0), nonsense)}, "lost chunk": {r.keys.SealObject(key(0), good)},
		"another key": {r.keys.SealObject(key(1), good)},
	} {
		for i, o := range objects {
			if err := b.WriteAll(t.Context(), key(uint32(i)), o, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Write(t.Context(), WriteOptions{ID: name, Reuse: ReuseByChangeTime}, func(ctx context.Context, w *Writer) error {
			w.journals = [][]string{{key(0)}}
			tw, err := w.newTreeWriter(ctx, "v")
			if err != nil {
				return err
			}
			defer tw.stopParent()
			if e, err := tw.resume(ctx, "a", func(*ondisk.Entry) bool { return true }); e != nil || err != nil {
				t.Errorf("%s: %+v, %v", name, e, err)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReadSmallFromTheStart: the search for holes moves the position of a file.
// Where a file system compresses, that of a file without any ends up at its
// end.
func TestReadSmallFromTheStart(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	want := noise(1, 5000)
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, _ := initTest(t)
	if _, err := r.Write(t.Context(), WriteOptions{ID: "p"}, func(_ context.Context, w *Writer) error {
		if seg := nextSegment(f, 0, 5000); seg != (segment{0, 5000}) {
			t.Errorf("%+v", seg)
		}
		if at, err := f.Seek(0, io.SeekCurrent); err != nil || at == 0 {
			t.Logf("the position is %d, %v", at, err)
		}
		j := &job{file: f, entry: &ondisk.Entry{}}
		if err := w.readSmall(j, 5000); err != nil || !bytes.Equal(j.small, want) {
			t.Errorf("%d bytes, %v", len(j.small), err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"math/rand/v2"
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
		}, 5 << 20},
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

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/tree"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestReferences fails when an entry gets a new field: if that refers to chunks,
// collections must know, or they delete them.
func TestReferences(t *testing.T) {
	known := []string{"Type", "Mode", "UID", "GID", "Size", "ModTime", "Target", "Xattrs", "Hash", "Extents", "Map", "Stat", "Pages"}
	var fields []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[ondisk.Entry]()) {
		fields = append(fields, f.Name)
	}
	if diff := cmp.Diff(known, fields); diff != "" {
		t.Errorf("see appendReferences (-known +fields):\n%s", diff)
	}
	slice := func(n byte) ondisk.Slice { return ondisk.Slice{ID: ondisk.ID{n}, Len: 1} }
	e := &ondisk.Entry{
		Extents: []ondisk.Slice{slice(1), slice(1), {Len: 7}, slice(2)}, Map: &ondisk.Root{ID: ondisk.ID{3}, Height: 2},
		Pages: &ondisk.Pages{Extents: []ondisk.Slice{slice(4)}, Map: &ondisk.Root{ID: ondisk.ID{5}}},
	}
	refs, hints := appendReferences(nil, nil, e)
	want := []node{{ondisk.ID{1}, 0, leafless}, {ondisk.ID{2}, 0, leafless}, {ondisk.ID{3}, ondisk.KindExtent, 2}}
	if !slices.Equal(refs, want) {
		t.Errorf("references %v", refs)
	}
	want = []node{{ondisk.ID{4}, 0, leafless}, {ondisk.ID{5}, ondisk.KindExtent, 0}}
	if !slices.Equal(hints, want) {
		t.Errorf("hints %v", hints)
	}
}

// TestMarkOnce marks points that share almost everything. Each node is read
// once, and again only what is new.
func TestMarkOnce(t *testing.T) {
	r, b := initTest(t)
	world := repotest.NewBucket(nil)
	for o, err := range r.store.List(t.Context(), "") {
		data, rerr := b.ReadAll(t.Context(), o.Key)
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		world.Set(o.Key, data)
	}
	r = over(r, world.Bucket())
	const files = 3000
	put := func(id string, changed int) {
		_, err := r.Write(t.Context(), WriteOptions{ID: id, Name: "n"}, func(ctx context.Context, w *Writer) error {
			tw, err := w.newTreeWriter(ctx, "v")
			if err != nil {
				return err
			}
			v, err := tw.run(ctx, func(emit func(*job) error) (int64, error) {
				for i := range files {
					e := &ondisk.Entry{Type: ondisk.TypeSymlink, Target: strings.Repeat(fmt.Sprint(i), 20)}
					if i == changed {
						e.Target = id
					}
					if err := emit(&job{path: fmt.Sprintf("%06d", i), entry: e}); err != nil {
						return 0, err
					}
				}
				return 0, nil
			})
			v.Name = "v"
			w.done(v)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		put(fmt.Sprint("p", i), i*100)
	}
	process := world.Open(nil)
	c := &collector{r: over(r, process.Bucket()), o: (*CollectOptions)(nil).withDefaults(), rep: &CollectReport{}}
	read := func() (nodes, twice int) {
		seen := map[string]bool{}
		for _, op := range process.Calls() {
			if op.Kind == repotest.Get && strings.HasPrefix(op.Key, ondisk.PackPrefix) {
				at := fmt.Sprint(op.Key, op.Offset)
				if nodes++; seen[at] {
					twice++
				}
				seen[at] = true
			}
		}
		return nodes, twice
	}
	mark := func() {
		var err error
		if c.view, err = c.r.look(t.Context()); err == nil {
			err = c.mark(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mark()
	first, twice := read()
	if twice > 0 || first < 20 {
		t.Errorf("read %d nodes, %d of them twice", first, twice)
	}
	put("more", 1)
	mark()
	if n, twice := read(); twice > 0 || n == first || n > first+5 {
		t.Errorf("then %d nodes, %d of them twice", n-first, twice)
	}
	marked := 0
	for range c.cat.all(c.marks.has) {
		marked++
	}
	if n, _ := read(); marked < n {
		t.Errorf("%d chunks are marked and %d were read", marked, n)
	}
}

// TestMarkHostile marks trees that are authentic and nonsense.
func TestMarkHostile(t *testing.T) {
	leaf := func(put tree.Put) (ondisk.ID, error) {
		b := tree.NewBuilder(1, put)
		if err := b.Add(nil, ondisk.AppendEntry(nil, &ondisk.Entry{Type: ondisk.TypeDir})); err != nil {
			return ondisk.ID{}, err
		}
		root, err := b.Finish()
		return root.ID, err
	}
	for name, build := range map[string]func(put tree.Put) (ondisk.Root, error){
		"nonsense": func(put tree.Put) (ondisk.Root, error) {
			id, err := put([]byte("nonsense"))
			return ondisk.Root{ID: id}, err
		},
		"wrong height": func(put tree.Put) (ondisk.Root, error) {
			id, err := leaf(put)
			return ondisk.Root{ID: id, Height: 3}, err
		},
		"lost child": func(put tree.Put) (ondisk.Root, error) {
			inner := ondisk.AppendBytes(ondisk.AppendBytes([]byte{1, 1, 0}, ""), bytes.Repeat([]byte{7}, 32))
			id, err := put(inner)
			return ondisk.Root{ID: id, Height: 1}, err
		},
		"lost extents": func(put tree.Put) (ondisk.Root, error) {
			b := tree.NewBuilder(1, put)
			e := &ondisk.Entry{Type: ondisk.TypeFile, Size: 9, Map: &ondisk.Root{ID: ondisk.ID{9}}}
			if err := b.Add(nil, ondisk.AppendEntry(nil, e)); err != nil {
				return ondisk.Root{}, err
			}
			return b.Finish()
		},
		"a tree as extents": func(put tree.Put) (ondisk.Root, error) {
			id, err := leaf(put)
			if err != nil {
				return ondisk.Root{}, err
			}
			b := tree.NewBuilder(1, put)
			e := &ondisk.Entry{Type: ondisk.TypeFile, Size: 9, Map: &ondisk.Root{ID: id}}
			if err := b.Add(nil, ondisk.AppendEntry(nil, e)); err != nil {
				return ondisk.Root{}, err
			}
			return b.Finish()
		},
	} {
		r, _ := initTest(t)
		if _, err := r.Write(t.Context(), WriteOptions{ID: "bad"}, func(_ context.Context, w *Writer) error {
			root, err := build(w.putNode(ondisk.KindTree))
			w.done(Volume{Name: "v", root: root})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if rep, err := r.Collect(t.Context(), &CollectOptions{StaleAfter: -1, MaxDelete: 1}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
	}
}

func TestBitset(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var b bitset
	want := map[int]bool{}
	for range 10000 {
		i := rnd.IntN(3000)
		switch rnd.IntN(3) {
		case 0:
			if b.add(i) == want[i] {
				t.Fatalf("add %d", i)
			}
			want[i] = true
		case 1:
			if want[i] {
				b.remove(i)
				delete(want, i)
			}
		default:
			if b.has(i) != want[i] {
				t.Fatalf("has %d: %t", i, b.has(i))
			}
		}
	}
	for i := range 5000 {
		if b.has(i) != want[i] {
			t.Errorf("%d: %t", i, b.has(i))
		}
	}
}

func TestRuns(t *testing.T) {
	a, b := &index.PackInfo{}, &index.PackInfo{}
	b.Ref.Seq = 1
	at := func(p *index.PackInfo, off, size uint32) index.Location {
		return index.Location{Pack: p, Entry: pack.Entry{Offset: off, Sealed: size}}
	}
	const mib = 1 << 20
	got := runs([]index.Location{
		at(b, 5, 10), at(a, 100+readGap+1, 5), at(a, 0, 50), at(a, 50, 50), at(a, 20*mib, 3*mib), at(a, 23*mib, 3*mib), at(a, 26*mib, 3*mib), at(b, 15, 1),
	})
	var sizes []int
	for _, run := range got {
		sizes = append(sizes, len(run))
	}
	if want := []int{2, 1, 2, 1, 2}; !slices.Equal(sizes, want) {
		t.Errorf("got %v, want %v: %v", sizes, want, got)
	}
}

// TestMerge adds to a set again and again: the number of its objects stays
// small, each element is written a few times, and nothing is ever missing.
func TestMerge(t *testing.T) {
	base, _ := initTest(t)
	world := repotest.NewBucket(nil)
	r := over(base, world.Bucket())
	const total = 500
	for n := range uint32(total) {
		if err := r.putSet(t.Context(), ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(attempt{N: n}).Encode()); err != nil {
			t.Fatal(err)
		}
		c := &collector{r: r, rep: &CollectReport{}}
		if err := c.mergeClosed(t.Context()); err != nil {
			t.Fatal(err)
		}
		closed, err := over(base, world.Bucket()).readClosed(t.Context())
		if err != nil || closed.Len() != int(n)+1 {
			t.Fatalf("%d of %d attempts, %v", closed.Len(), n+1, err)
		}
		if len(world.Keys()) > 3*(fanIn+1) {
			t.Fatalf("%d objects: %v", len(world.Keys()), world.Keys())
		}
	}
	// What a collector that died has left is superfluous: the parts of a merger.
	keys := world.Keys()
	for n := range uint32(5) {
		if err := r.putSet(t.Context(), ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(attempt{N: n}).Encode()); err != nil {
			t.Fatal(err)
		}
	}
	c := &collector{r: r, rep: &CollectReport{}}
	if err := c.mergeClosed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(keys, world.Keys()); diff != "" {
		t.Errorf("superfluous objects (-want +got):\n%s", diff)
	}
}

// TestSessionOf reads the session from keys of all kinds.
func TestSessionOf(t *testing.T) {
	sid := [16]byte{0xab, 1}
	for prefix, key := range map[string]string{
		ondisk.SessionPrefix: sessionKey(sid),
		ondisk.PackPrefix:    ondisk.PackRef{Session: sid, Seq: 7}.Key(),
		ondisk.IndexPrefix:   index.Name{ID: sid, Part: 3}.Key(),
		ondisk.ResumePrefix:  journalKey(sid, 3),
	} {
		if got, ok := sessionOf(prefix, key); !ok || got != sid {
			t.Errorf("%s: %x, %t", key, got, ok)
		}
		for _, bad := range []string{prefix, prefix + "readme", strings.Replace(key, "ab01", "zz01", 1), strings.Replace(key, "ab01", "ab0", 1)} {
			if got, ok := sessionOf(prefix, bad); ok {
				t.Errorf("%s: %x", bad, got)
			}
		}
	}
	if _, ok := sessionOf(ondisk.PointPrefix, ondisk.PointPrefix+strings.Repeat("0", 32)); ok {
		t.Error("a point has no session")
	}
}

// TestForgetRecords forgets points again and again: a process that runs for long
// must not remember those that are gone.
func TestForgetRecords(t *testing.T) {
	r, _ := initTest(t)
	for i := range 5 {
		id := fmt.Sprint(i)
		_, err := r.Write(t.Context(), WriteOptions{ID: id}, func(ctx context.Context, w *Writer) error {
			return w.PutStream(ctx, "v", strings.NewReader(id))
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Points(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Forget(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Collect(t.Context(), &CollectOptions{MaxDelete: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if points, err := r.Points(t.Context()); err != nil || len(points)+len(r.mu.records) > 0 {
		t.Errorf("%d points, %d records, %v", len(points), len(r.mu.records), err)
	}
}

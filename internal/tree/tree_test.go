// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

// nodes is a store of nodes in memory.
type nodes struct {
	m    map[ondisk.ID][]byte
	puts int
	gets int
}

func newNodes() *nodes { return &nodes{m: map[ondisk.ID][]byte{}} }

func (n *nodes) put(node []byte) (ondisk.ID, error) {
	n.puts++
	id := ondisk.ID(blake3.Sum256(node))
	n.m[id] = bytes.Clone(node)
	return id, nil
}

var errNoNode = errors.New("no such node")

func (n *nodes) get(_ context.Context, id ondisk.ID) ([]byte, error) {
	n.gets++
	if node, ok := n.m[id]; ok {
		return node, nil
	}
	return nil, errNoNode
}

func build(tb testing.TB, n *nodes, recs []tree.Record) ondisk.Root {
	tb.Helper()
	b := tree.NewBuilder(42, n.put)
	for _, r := range recs {
		if err := b.Add(r.Key, r.Value); err != nil {
			tb.Fatal(err)
		}
	}
	root, err := b.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	return root
}

func collect(t *tree.Tree, from []byte) ([]tree.Record, error) {
	var out []tree.Record
	for r, err := range t.From(context.Background(), from) {
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

func equal(a, b tree.Record) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// randomRecords returns records whose keys share prefixes, as paths do.
func randomRecords(rng *rand.Rand, n int) []tree.Record {
	m := map[string][]byte{}
	prefix := ""
	for len(m) < n {
		if rng.IntN(8) == 0 {
			prefix = string(randomBytes(rng, rng.IntN(40)))
		}
		m[prefix+string(randomBytes(rng, rng.IntN(6)))] = randomBytes(rng, rng.IntN(1<<rng.IntN(9)))
	}
	var out []tree.Record
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, tree.Record{Key: []byte(k), Value: m[k]})
	}
	return out
}

func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, n := range []int{1, 2, 3, 10, 100, 1000, 1001, 5000, 20000} {
		recs := randomRecords(rng, n)
		store := newNodes()
		root := build(t, store, recs)
		tr := tree.New(root, store.get)
		got, err := collect(tr, nil)
		if err != nil || !slices.EqualFunc(got, recs, equal) {
			t.Fatalf("%d records: got %d, %v", n, len(got), err)
		}
		walked := 0
		if err := tr.Walk(t.Context(), nil, func(r tree.Record) error {
			if !equal(r, recs[walked]) {
				return fmt.Errorf("record %d is %q", walked, r.Key)
			}
			walked++
			return nil
		}); err != nil || walked != n {
			t.Fatalf("walked over %d of %d: %v", walked, n, err)
		}
		for range min(n, 200) {
			i := rng.IntN(n)
			if v, ok, err := tr.Get(t.Context(), recs[i].Key); err != nil || !ok || !bytes.Equal(v, recs[i].Value) {
				t.Fatalf("get %q: %t, %v", recs[i].Key, ok, err)
			}
			key := recs[i].Key
			if rng.IntN(2) == 0 {
				key = append(bytes.Clone(key), byte(rng.Uint32()))
			}
			i, found := slices.BinarySearchFunc(recs, key, func(r tree.Record, k []byte) int { return bytes.Compare(r.Key, k) })
			if _, ok, err := tr.Get(t.Context(), key); err != nil || ok != found {
				t.Fatalf("get %q: %t, %v, want %t", key, ok, err, found)
			}
			before := store.gets
			for r, err := range tr.From(t.Context(), key) {
				if i == len(recs) || err != nil || !equal(r, recs[i]) {
					t.Fatalf("from %q: %q, %v", key, r.Key, err)
				}
				if i++; i%50 == 0 {
					break
				}
			}
			if n > 1000 && store.gets-before > 12 {
				t.Fatalf("from %q: %d nodes were read for at most 50 records", key, store.gets-before)
			}
		}
	}
}

// TestChangeIsLocal changes, adds and removes one record in 100,000.
func TestChangeIsLocal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var recs []tree.Record
	for i := range 100_000 {
		recs = append(recs, tree.Record{Key: fmt.Appendf(nil, "dir%03d\x00file%06d", i/300, i), Value: randomBytes(rng, 40)})
	}
	store := newNodes()
	root := build(t, store, recs)
	total, height := store.puts, int(root.Height)+1
	if height > 4 || total < 100 {
		t.Fatalf("%d nodes in %d levels", total, height)
	}
	for range 20 {
		i := rng.IntN(len(recs))
		changed := slices.Clone(recs)
		changed[i].Value = []byte("changed")
		more := slices.Insert(slices.Clone(recs), i, tree.Record{Key: append(bytes.Clone(recs[i].Key[:len(recs[i].Key)-1]), '!'), Value: []byte("v")})
		slices.SortFunc(more, func(a, b tree.Record) int { return bytes.Compare(a.Key, b.Key) })
		for what, version := range map[string][]tree.Record{"change": changed, "addition": more, "removal": slices.Delete(slices.Clone(recs), i, i+1)} {
			before := len(store.m)
			build(t, store, version)
			// A removed or added boundary joins or splits two nodes in each level.
			if fresh := len(store.m) - before; fresh > 3*height {
				t.Errorf("%s of record %d made %d new nodes of %d, in %d levels", what, i, fresh, total, height)
			}
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	store := newNodes()
	b := tree.NewBuilder(1, store.put)
	if _, err := b.Finish(); err == nil {
		t.Error("a tree without records")
	}
	if err := b.Add(nil, nil); err != nil {
		t.Errorf("the empty key: %v", err)
	}
	for _, key := range []string{"", "b"} {
		_ = b.Add([]byte("b"), nil)
		if err := b.Add([]byte(key), nil); err == nil {
			t.Errorf("key %q twice", key)
		}
	}
	if err := b.Add(bytes.Repeat([]byte("k"), ondisk.MaxPath+1), nil); err == nil {
		t.Error("a key that readers refuse")
	}
	if err := b.Add([]byte("c"), make([]byte, ondisk.MaxNode)); err == nil {
		if _, err = b.Finish(); err == nil {
			t.Error("a record that readers refuse")
		}
	}
	boom := errors.New("boom")
	b = tree.NewBuilder(1, func([]byte) (ondisk.ID, error) { return ondisk.ID{}, boom })
	_ = b.Add([]byte("k"), nil)
	if _, err := b.Finish(); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

// node prints a node without checking anything.
func node(height byte, recs ...tree.Record) []byte {
	b := ondisk.AppendUvarint([]byte{height}, uint64(len(recs)))
	var prev []byte
	for _, r := range recs {
		shared := 0
		for shared < min(len(prev), len(r.Key)) && prev[shared] == r.Key[shared] {
			shared++
		}
		b = ondisk.AppendUvarint(b, uint64(shared)) // not negative
		b = ondisk.AppendBytes(ondisk.AppendBytes(b, r.Key[shared:]), r.Value)
		prev = r.Key
	}
	return b
}

func rec(key string, value []byte) tree.Record { return tree.Record{Key: []byte(key), Value: value} }

func TestMalformed(t *testing.T) {
	self := ondisk.ID{1}
	leaf, leaf2 := ondisk.ID{2}, ondisk.ID{3}
	good := node(0, rec("a", nil), rec("b", nil))
	tests := []struct {
		name   string
		height uint8
		nodes  map[ondisk.ID][]byte
	}{
		{"empty", 0, map[ondisk.ID][]byte{self: {}}},
		{"no records", 0, map[ondisk.ID][]byte{self: node(0)}},
		{"wrong height", 1, map[ondisk.ID][]byte{self: good}},
		{"unsorted", 0, map[ondisk.ID][]byte{self: node(0, rec("b", nil), rec("a", nil))}},
		{"duplicate", 0, map[ondisk.ID][]byte{self: node(0, rec("a", nil), rec("a", nil))}},
		{"trailing bytes", 0, map[ondisk.ID][]byte{self: append(bytes.Clone(good), 0)}},
		{"truncated", 0, map[ondisk.ID][]byte{self: good[:len(good)-1]}},
		{"huge count", 0, map[ondisk.ID][]byte{self: {0, 0xff, 0xff, 0xff, 0x01}}},
		{"prefix not shared in full", 0, map[ondisk.ID][]byte{self: {0, 2, 0, 1, 'a', 0, 0, 2, 'a', 'b', 0}}},
		{"loop", 7, map[ondisk.ID][]byte{self: node(7, rec("a", self[:]))}},
		{"child of the same height", 1, map[ondisk.ID][]byte{self: node(1, rec("a", leaf[:])), leaf: node(1, rec("a", leaf[:]))}},
		{"short child id", 1, map[ondisk.ID][]byte{self: node(1, rec("a", leaf[:31])), leaf: good}},
		{"first key differs", 1, map[ondisk.ID][]byte{self: node(1, rec("A", leaf[:])), leaf: good}},
		{"child exceeds the next key", 1, map[ondisk.ID][]byte{
			self: node(1, rec("a", leaf[:]), rec("b", leaf2[:])), leaf: good, leaf2: node(0, rec("b", nil)),
		}},
		{"one child twice", 1, map[ondisk.ID][]byte{self: node(1, rec("a", leaf[:]), rec("c", leaf[:])), leaf: good}},
		{"missing child", 1, map[ondisk.ID][]byte{self: node(1, rec("a", leaf[:]))}},
		{"key too long", 0, map[ondisk.ID][]byte{self: node(0, rec(strings.Repeat("k", 3000), nil), rec(strings.Repeat("k", ondisk.MaxPath+1), nil))}},
		{"height out of bounds", 200, map[ondisk.ID][]byte{self: good}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			store := &nodes{m: tc.nodes}
			_, err := collect(tree.New(ondisk.Root{ID: self, Height: tc.height}, store.get), nil)
			if !errors.Is(err, tree.ErrMalformed) && !errors.Is(err, errNoNode) {
				t.Errorf("got %v", err)
			}
			if store.gets > 20 {
				t.Errorf("%d nodes were read", store.gets)
			}
		})
	}
}

// TestNodeLimits reads nodes and keys of the largest size, and not one byte more.
func TestNodeLimits(t *testing.T) {
	sized := func(n int) []byte {
		two := func(b int) []byte { return node(0, rec("a", make([]byte, n/4)), rec("b", make([]byte, b))) }
		return two(n/2 + n - len(two(n/2)))
	}
	key := func(n int) []byte { return node(0, rec(strings.Repeat("k", n), nil)) }
	const maxKeys = 64 << 20
	keys := func(n int) []byte { // all of them of the largest size
		recs := make([]tree.Record, n)
		for i := range recs {
			recs[i].Key = fmt.Appendf(nil, "%s%06d", strings.Repeat("k", ondisk.MaxPath-6), i)
		}
		return node(0, recs...)
	}
	for name, tc := range map[string]struct {
		node []byte
		ok   bool
	}{
		"largest node":   {sized(ondisk.MaxNode), true},
		"node too large": {sized(ondisk.MaxNode + 1), false},
		"longest key":    {key(ondisk.MaxPath), true},
		"key too long":   {key(ondisk.MaxPath + 1), false},
		"keys":           {keys(maxKeys / ondisk.MaxPath), true},
		"too many keys":  {keys(maxKeys/ondisk.MaxPath + 1), false},
	} {
		if _, err := tree.Decode(tc.node, 0); (err == nil) != tc.ok {
			t.Errorf("%s of %d bytes: %v", name, len(tc.node), err)
		}
	}
	for height, ok := range map[int]bool{ondisk.MaxTreeHeight - 1: true, ondisk.MaxTreeHeight: false} {
		n := node(byte(height), rec("", make([]byte, 32))) // small
		if _, err := tree.Decode(n, height); (err == nil) != ok {
			t.Errorf("height %d: %v", height, err)
		}
	}
}

// TestBomb checks that prefix compression is no way to take memory: a node of
// a few MiB whose keys together have gigabytes.
func TestBomb(t *testing.T) {
	const n = 500_000
	b := ondisk.AppendUvarint([]byte{0}, n)
	long := bytes.Repeat([]byte("k"), 4000)
	b = ondisk.AppendBytes(ondisk.AppendBytes(append(b, 0), long), "")
	prev := uint32(0)
	for i := uint32(1); i < n; i++ { // keys long+i, in big-endian order
		var p, k [4]byte
		binary.BigEndian.PutUint32(p[:], prev)
		binary.BigEndian.PutUint32(k[:], i)
		shared := len(long)
		suffix := k[:]
		if i > 1 {
			for suffix[0] == p[4-len(suffix)] {
				shared, suffix = shared+1, suffix[1:]
			}
		}
		b = ondisk.AppendBytes(ondisk.AppendBytes(ondisk.AppendUvarint(b, uint64(shared)), suffix), "") // not negative
		prev = i
	}
	if len(b) > ondisk.MaxNode {
		t.Fatalf("the node has %d bytes", len(b))
	}
	root := ondisk.Root{ID: ondisk.ID{1}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := collect(tree.New(root, func(context.Context, ondisk.ID) ([]byte, error) { return b, nil }), nil)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, tree.ErrMalformed) {
		t.Errorf("got %v", err)
	}
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 150<<20 {
		t.Errorf("reading a node of %d MiB allocates %d MiB", len(b)>>20, allocated>>20)
	}
}

func TestWalkSkips(t *testing.T) {
	store := newNodes()
	recs := randomRecords(rand.New(rand.NewPCG(3, 3)), 20_000)
	tr := tree.New(build(t, store, recs), store.get)
	seen := map[ondisk.ID]bool{}
	enter := func(id ondisk.ID) bool {
		was := seen[id]
		seen[id] = true
		return !was
	}
	count := 0
	visit := func(tree.Record) error { count++; return nil }
	if err := errors.Join(tr.Walk(t.Context(), enter, visit), tr.Walk(t.Context(), enter, visit)); err != nil || count != len(recs) {
		t.Errorf("%d visits of %d records, %v", count, len(recs), err)
	}
	boom := errors.New("boom")
	if err := tr.Walk(t.Context(), nil, func(tree.Record) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

// TestBoundary checks the rate at which keys end nodes, and that the seed
// matters.
func TestBoundary(t *testing.T) {
	for n := 1; n < 8; n++ {
		hits, same := 0, 0
		for i := range 1 << 16 {
			a := tree.Boundary(1, fmt.Appendf(nil, "path/%d", i), n)
			b := tree.Boundary(2, fmt.Appendf(nil, "path/%d", i), n)
			if a {
				hits++
			}
			if a && b {
				same++
			}
		}
		want := 1 << (16 - n)
		if hits < want*8/10 || hits > want*12/10 {
			t.Errorf("%d bits: %d boundaries, want about %d", n, hits, want)
		}
		if expect := want >> n; same > 2*expect+20 {
			t.Errorf("%d bits: %d boundaries are the same under another seed, want about %d", n, same, expect)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/internal/tree"
)

// edit returns records with n changes.
func edit(rng *rand.Rand, recs []tree.Record, n int) []tree.Record {
	m := map[string][]byte{}
	for _, r := range recs {
		m[string(r.Key)] = r.Value
	}
	for range n {
		r := recs[rng.IntN(len(recs))]
		switch rng.IntN(3) {
		case 0:
			delete(m, string(r.Key))
		case 1:
			m[string(r.Key)+"+"] = randomBytes(rng, 9)
		default:
			m[string(r.Key)] = randomBytes(rng, 1+rng.IntN(3))
		}
	}
	var out []tree.Record
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, tree.Record{Key: []byte(k), Value: m[k]})
	}
	return out
}

// changes compares record by record.
func changes(a, b []tree.Record) []tree.Change {
	var out []tree.Change
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && bytes.Compare(a[0].Key, b[0].Key) < 0:
			out = append(out, tree.Change{Key: a[0].Key, Old: a[0].Value})
			a = a[1:]
		case len(a) == 0 || bytes.Compare(a[0].Key, b[0].Key) > 0:
			out = append(out, tree.Change{Key: b[0].Key, New: b[0].Value})
			b = b[1:]
		default:
			if !bytes.Equal(a[0].Value, b[0].Value) {
				out = append(out, tree.Change{Key: a[0].Key, Old: a[0].Value, New: b[0].Value})
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

func diff(t *testing.T, a, b *tree.Tree) []tree.Change {
	t.Helper()
	var out []tree.Change
	for c, err := range tree.Diff(t.Context(), a, b) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func TestDiff(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	same := func(x, y tree.Change) bool {
		return bytes.Equal(x.Key, y.Key) && bytes.Equal(x.Old, y.Old) && bytes.Equal(x.New, y.New) &&
			(x.Old == nil) == (y.Old == nil) && (x.New == nil) == (y.New == nil)
	}
	for _, n := range []int{1, 2, 10, 1000, 20_000} {
		for _, k := range []int{0, 1, 3, n / 2, 5 * n} {
			a := randomRecords(rng, n)
			b := edit(rng, a, k)
			if len(b) == 0 {
				continue
			}
			store := newNodes()
			ta, tb := tree.New(build(t, store, a), store.get), tree.New(build(t, store, b), store.get)
			store.gets = 0
			if got, want := diff(t, ta, tb), changes(a, b); !slices.EqualFunc(got, want, same) {
				t.Fatalf("%d records, %d edits: %d changes, want %d", n, k, len(got), len(want))
			}
			if limit := 24 * k; store.gets > limit {
				t.Errorf("%d records, %d edits: %d nodes read, more than %d", n, k, store.gets, limit)
			}
			if got, want := diff(t, tb, ta), changes(b, a); !slices.EqualFunc(got, want, same) {
				t.Fatalf("%d records, %d edits, back: %d changes, want %d", n, k, len(got), len(want))
			}
		}
	}
}

// TestDiffDisjoint compares trees of different heights that share nothing.
func TestDiffDisjoint(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	store := newNodes()
	small := []tree.Record{rec("\xff\xff\xff", []byte("last"))}
	large := randomRecords(rng, 20_000)
	large = slices.DeleteFunc(large, func(r tree.Record) bool { return bytes.Compare(r.Key, small[0].Key) >= 0 })
	ts, tl := tree.New(build(t, store, small), store.get), tree.New(build(t, store, large), store.get)
	for _, pair := range [][2]*tree.Tree{{ts, tl}, {tl, ts}} {
		if got := diff(t, pair[0], pair[1]); len(got) != len(large)+1 {
			t.Errorf("%d changes, want %d", len(got), len(large)+1)
		}
	}
}

func TestDiffErrors(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 2))
	store := newNodes()
	a := randomRecords(rng, 5000)
	ra, rb := build(t, store, a), build(t, store, edit(rng, a, 10))
	delete(store.m, rb.ID)
	for range 2 {
		var failed error
		for _, err := range tree.Diff(t.Context(), tree.New(ra, store.get), tree.New(rb, store.get)) {
			failed = err
		}
		if !errors.Is(failed, errNoNode) {
			t.Errorf("a missing node: %v", failed)
		}
		ra, rb = rb, ra
	}
	for c, err := range tree.Diff(t.Context(), tree.New(ra, store.get), tree.New(ra, store.get)) {
		t.Errorf("the same tree: %v, %v", c, err)
	}
}

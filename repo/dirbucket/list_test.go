// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
)

func all(ctx context.Context, b *blob.Bucket, opts *blob.ListOptions) iter.Seq2[*blob.ListObject, error] {
	return func(yield func(*blob.ListObject, error) bool) {
		it := b.List(opts)
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) || !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// model is what a listing must return.
func model(keys []string, prefix, delim string) []string {
	var want []string
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		if head, _, found := strings.Cut(rest, delim); delim != "" && found {
			k = prefix + head + delim + "(dir)"
		}
		if n := len(want); n == 0 || want[n-1] != k {
			want = append(want, k)
		}
	}
	return want
}

// TestListModel compares listings of random key sets, prefixes, delimiters and
// page sizes with the definition, across deletions.
func TestListModel(t *testing.T) {
	const alphabet = "ab/-.A0"
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		random := func(n int) string {
			s := make([]byte, 1+rng.IntN(n))
			for i := range s {
				s[i] = alphabet[rng.IntN(len(alphabet))]
			}
			return string(s)
		}
		b := open(t, t.TempDir(), nil)
		set := map[string]bool{}
		for range 60 {
			key := random(7)
			write(t, b, key, nil, plain)
			set[key] = true
		}
		for key := range set {
			if rng.IntN(4) == 0 {
				if err := b.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				delete(set, key)
			}
		}
		var keys []string
		for key := range set {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for range 100 {
			prefix, delim := "", []string{"", "/", "a", "/a", "-/"}[rng.IntN(5)]
			if rng.IntN(3) > 0 {
				prefix = random(3)
			}
			size := 1 + rng.IntN(6)
			got := pages(t, b, prefix, delim, size)
			if diff := cmp.Diff(model(keys, prefix, delim), got); diff != "" {
				t.Fatalf("seed %d, keys %q, prefix %q, delimiter %q, page size %d (-want +got):\n%s",
					seed, keys, prefix, delim, size, diff)
			}
		}
	}
}

func pages(t *testing.T, b *blob.Bucket, prefix, delim string, size int) []string {
	t.Helper()
	var got []string
	token := blob.FirstPageToken
	for len(token) > 0 {
		page, next, err := b.ListPage(t.Context(), token, size, &blob.ListOptions{Prefix: prefix, Delimiter: delim})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > size || (len(page) < size && len(next) > 0) {
			t.Fatalf("page of %d of %d objects, next %q", len(page), size, next)
		}
		for _, o := range page {
			key := o.Key
			if o.IsDir {
				key += "(dir)"
			}
			got = append(got, key)
		}
		token = next
	}
	return got
}

func TestListCancelled(t *testing.T) {
	b := open(t, t.TempDir(), nil)
	write(t, b, "a/b", nil, plain)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.List(nil).Next(ctx); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("list with a cancelled context: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// long makes exhaustive tests exhaustive in every dimension:
//
//	go test ./repo -args -long
var long = flag.Bool("long", false, "run the long form of exhaustive tests")

// world is a small repository with all kinds of objects, and what it holds.
type world struct {
	bucket *repotest.Bucket
	want   map[string]map[string]string // by point
	dead   map[string]bool              // objects that nothing needs
}

// smallWorld has two points of different applications that share some data.
func smallWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{bucket: repotest.NewBucket(nil), want: map[string]map[string]string{}}
	r, err := repo.Init(tb.Context(), w.bucket.Bucket(), key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	put(tb, dir, "d/random", random(1, 300))
	put(tb, dir, "d/text", []byte(strings.Repeat("a line of text\n", 50)))
	put(tb, dir, "empty", nil)
	for i, id := range []string{"one", "two"} {
		put(tb, dir, "changed", random(uint64(10+i), 200))
		p, err := r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: id}, func(ctx context.Context, wr *repo.Writer) error {
			return errors.Join(wr.Put(ctx, "v", dir), wr.PutStream(ctx, "stream", bytes.NewReader(random(uint64(i), 500))))
		})
		if err != nil {
			tb.Fatal(err)
		}
		w.want[id] = contents(tb, r, p)
		if i == 0 { // the second one is sealed under another epoch
			if err := r.RotateKeys(tb.Context(), key("secret")); err != nil {
				tb.Fatal(err)
			}
		}
	}
	w.addMarks(tb, r)
	return w
}

// addMarks adds what tells processes of each other: a held point, one that is
// held off from being forgotten, closed attempts, a condemned pack that is gone,
// and what a verification has read.
func (w *world) addMarks(tb testing.TB, r *repo.Repository) {
	tb.Helper()
	if _, err := r.Write(tb.Context(), repo.WriteOptions{ID: "garbage"}, func(ctx context.Context, wr *repo.Writer) error {
		return wr.PutStream(ctx, "stream", strings.NewReader("garbage"))
	}); err != nil {
		tb.Fatal(err)
	}
	err := errors.Join(r.Hold(tb.Context(), "one", "somebody"), r.Forget(tb.Context(), "garbage"))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := r.Collect(tb.Context(), &repo.CollectOptions{StaleAfter: -1, MaxDelete: 1}); err != nil {
		tb.Fatal(err)
	}
	before := w.bucket.Objects()
	if _, err := r.Write(tb.Context(), repo.WriteOptions{ID: "forgotten"}, func(ctx context.Context, wr *repo.Writer) error {
		return wr.PutStream(ctx, "stream", strings.NewReader("not collected"))
	}); err != nil {
		tb.Fatal(err)
	}
	if err := r.Forget(tb.Context(), "forgotten"); err != nil {
		tb.Fatal(err)
	}
	w.dead = map[string]bool{}
	for object := range w.bucket.Objects() {
		w.dead[object] = before[object] == nil
	}
	failed := errors.New("failed")
	if _, err := r.Write(tb.Context(), repo.WriteOptions{ID: "dead"}, func(context.Context, *repo.Writer) error { return failed }); !errors.Is(err, failed) {
		tb.Fatal(err)
	}
	verify(tb, r, true)
}

// objects returns keys and contents, sorted by key.
func (w *world) objects() ([]string, map[string][]byte) {
	m := w.bucket.Objects()
	return slices.Sorted(maps.Keys(m)), m
}

// look opens the damaged repository and checks the promises: what can be read
// is what was written, everything else is an error of the right class; nothing
// panics. It returns the report, nil if the repository does not open, and
// whether everything was readable.
func (w *world) look(tb testing.TB, b *repotest.Bucket, what string) (rep *repo.VerifyReport, whole bool) {
	tb.Helper()
	ctx := tb.Context()
	right := func(err error) bool { return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) }
	r, err := repo.Open(ctx, b.Bucket(), key("secret"), &repo.Options{Attempts: 1})
	if err != nil {
		if !right(err) && !errors.Is(err, repo.ErrKey) {
			tb.Errorf("%s: open: %v", what, err)
		}
		return nil, false
	}
	rep, err = r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
	if err != nil {
		tb.Errorf("%s: verify: %v", what, err)
		return nil, false
	}
	whole = true
	for id, want := range w.want {
		p, err := r.Point(ctx, id)
		var got map[string]string
		if err == nil {
			got, err = readAll(ctx, r, p)
		}
		if err != nil {
			whole = false
			if !right(err) {
				tb.Errorf("%s: read: %v", what, err)
			}
		} else if len(got) != len(want) {
			tb.Errorf("%s: %d of %d entries, and no error", what, len(got), len(want))
		}
		for path, desc := range got {
			if want[path] != desc {
				tb.Errorf("%s: %s was %q and reads as %q", what, path, want[path], desc)
			}
		}
	}
	return rep, whole
}

// named reports whether the report names the object.
func named(rep *repo.VerifyReport, object string) bool {
	return slices.ContainsFunc(rep.Damage, func(d repo.Damage) bool { return d.Object == object })
}

func kindOf(key string) string { return strings.SplitAfter(key, "/")[0] }

// TestFlips changes every byte of every object.
func TestFlips(t *testing.T) {
	w := smallWorld(t)
	keys, objects := w.objects()
	patterns := map[string]func(byte) byte{"^0x01": func(b byte) byte { return b ^ 1 }, "^0x80": func(b byte) byte { return b ^ 0x80 }, "=0": func(byte) byte { return 0 }}
	names := slices.Sorted(maps.Keys(patterns))
	cases, total, kinds := 0, 0, map[string]int{}
	for _, key := range keys {
		total += len(objects[key])
		for i, old := range objects[key] {
			if testing.Short() && i%16 != 0 {
				continue
			}
			use := names
			if !*long {
				use = names[i%len(names) : i%len(names)+1]
			}
			for _, name := range use {
				changed := patterns[name](old)
				if changed == old {
					continue
				}
				cases++
				kinds[kindOf(key)]++
				data := bytes.Clone(objects[key])
				data[i] = changed
				w.bucket.Set(key, data)
				what := fmt.Sprintf("byte %d of %s %s", i, key, name)
				rep, whole := w.look(t, w.bucket, what)
				if rep != nil && !named(rep, key) || isHeader(key) && !whole {
					t.Errorf("%s: not reported, or it matters: %+v", what, rep)
				}
			}
		}
		w.bucket.Set(key, objects[key])
	}
	if len(kinds) != 13 || total > 64<<10 {
		t.Errorf("%d kinds of objects, %d bytes", len(kinds), total)
	}
	t.Logf("%d changes of %d bytes in %d objects: %v", cases, total, len(keys), kinds)
}

// TestTruncations cuts every object at every length, and makes it longer.
func TestTruncations(t *testing.T) {
	w := smallWorld(t)
	keys, objects := w.objects()
	cases, margin, step := 0, 60, 5
	if testing.Short() {
		margin, step = 4, 50
	}
	for _, key := range keys {
		old := objects[key]
		for n := range old {
			if !*long && n > margin && n < len(old)-margin && n%step != 0 {
				continue
			}
			w.bucket.Set(key, old[:n])
			what := fmt.Sprintf("%s cut to %d of %d bytes", key, n, len(old))
			rep, whole := w.look(t, w.bucket, what)
			if rep != nil && !named(rep, key) || isHeader(key) && !whole {
				t.Errorf("%s: not reported, or it matters: %+v", what, rep)
			}
			cases++
		}
		for _, more := range [][]byte{{0}, {'\n'}, bytes.Repeat([]byte("x"), 100), make([]byte, 5<<20)} {
			w.bucket.Set(key, append(bytes.Clone(old), more...))
			what := fmt.Sprintf("%s with %d more bytes", key, len(more))
			if rep, _ := w.look(t, w.bucket, what); rep != nil && !named(rep, key) {
				t.Errorf("%s: not reported: %+v", what, rep.Damage)
			}
			cases++
		}
		w.bucket.Set(key, old)
	}
	t.Logf("%d cases", cases)
}

// TestDeletions removes each object.
func TestDeletions(t *testing.T) {
	w := smallWorld(t)
	keys, _ := w.objects()
	for _, object := range keys {
		b := w.bucket.Clone(nil)
		r, err := repo.Open(t.Context(), b.Bucket(), key("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Delete(object)
		rep, whole := w.look(t, b, "without "+object)
		if w.dead[object] {
			if rep == nil || !whole || kindOf(object) == "pack/" && !named(rep, object) {
				t.Errorf("without %s: %+v", object, rep)
			}
			continue
		}
		switch kindOf(object) {
		case "protect.repository", "protect.header-copy":
			if rep == nil || !named(rep, object) || !whole {
				t.Errorf("without %s: %+v", object, rep)
			}
		case "key/":
			if rep != nil {
				t.Errorf("without %s: it opens", object)
			}
			rep = verify(t, r, true) // by who has it open
			if !slices.ContainsFunc(rep.Damage, func(d repo.Damage) bool { return strings.HasPrefix(object, d.Object) }) {
				t.Errorf("without %s: not reported: %+v", object, rep)
			}
		case "session/": // needed while the session runs
			if rep == nil || len(rep.Damage) > 0 || !whole {
				t.Errorf("without %s: %+v", object, rep)
			}
		case "forget/", "hold/", "closed/", "condemn/", "ledger/": // as if it had never been
			if rep == nil || !whole || len(rep.Damage) > 0 && kindOf(object) != "condemn/" {
				t.Errorf("without %s: %+v", object, rep)
			}
		case "epoch/": // needed to write
			if rep == nil || !named(rep, object) || !whole {
				t.Errorf("without %s: %+v", object, rep)
			}
		case "point/": // as if it had never been
			if rep == nil || len(rep.Damage) > 0 || rep.Points != 1 || whole {
				t.Errorf("without %s: %+v", object, rep)
			}
		case "index/": // nothing refers to it by name: its chunks are missed
			if rep == nil || len(rep.Damage) == 0 || whole {
				t.Errorf("without %s: not reported: %+v", object, rep)
			}
		default:
			if rep == nil || !named(rep, object) || whole {
				t.Errorf("without %s: not reported: %+v", object, rep)
			}
		}
	}
}

// TestSwaps puts the content of each object under the key of each other, alone
// and both ways.
func TestSwaps(t *testing.T) {
	w := smallWorld(t)
	keys, objects := w.objects()
	cases := 0
	for _, a := range keys {
		for _, b := range keys {
			if a == b || isHeader(a) && isHeader(b) { // they are the same
				continue
			}
			for _, both := range []bool{false, true} {
				c := w.bucket.Clone(nil)
				c.Set(a, objects[b])
				if both {
					c.Set(b, objects[a])
				}
				what := fmt.Sprintf("%s holds %s, both ways: %t", a, b, both)
				if rep, _ := w.look(t, c, what); rep != nil && (!named(rep, a) || both && !named(rep, b)) {
					t.Errorf("%s: not reported: %+v", what, rep.Damage)
				}
				cases++
			}
		}
	}
	t.Logf("%d cases with %d objects", cases, len(keys))
}

// TestOtherRepository puts in objects of another repository that has the same
// passphrase and the same content.
func TestOtherRepository(t *testing.T) {
	w, other := smallWorld(t), smallWorld(t)
	keys, _ := w.objects()
	theirs, objects := other.objects()
	for _, a := range keys {
		for _, b := range theirs {
			if kindOf(a) != kindOf(b) {
				continue
			}
			c := w.bucket.Clone(nil)
			c.Set(a, objects[b])
			what := fmt.Sprintf("%s holds their %s", a, b)
			rep, whole := w.look(t, c, what)
			if rep != nil && !named(rep, a) && kindOf(a) != "key/" || isHeader(a) && !whole {
				t.Errorf("%s: not reported, or it matters: %+v", what, rep)
			}
			c = w.bucket.Clone(nil)
			c.Set(b, objects[b])
			if isHeader(b) { // as above
				continue
			}
			what = "in addition their " + b
			if rep, whole := w.look(t, c, what); rep == nil || !whole || !named(rep, b) && kindOf(a) != "key/" {
				t.Errorf("%s: %+v", what, rep)
			}
		}
	}
}

// TestDamageOfOthers checks that damage to one point stops neither writing nor
// reading others, and that a damaged parent is not reused. (Damage to an epoch
// stops writing: see TestEpochsOfOthers.)
func TestDamageOfOthers(t *testing.T) {
	w := smallWorld(t)
	keys, objects := w.objects()
	dir := t.TempDir()
	put(t, dir, "d/text", []byte(strings.Repeat("a line of text\n", 50)))
	put(t, dir, "d/random", random(1, 300))
	for _, object := range keys {
		if kind := kindOf(object); isHeader(object) || kind == "key/" || kind == "epoch/" {
			continue
		}
		for how, data := range map[string][]byte{"empty": {}, "cut": objects[object][:len(objects[object])/2], "replaced": random(9, 5<<20), "gone": nil} {
			b := w.bucket.Clone(nil)
			if b.Set(object, data); data == nil {
				b.Delete(object)
			}
			r := reopen(t, b.Bucket())
			for _, name := range []string{"one", "two", "new"} { // with and without a damaged parent
				p, err := r.Write(t.Context(), repo.WriteOptions{ID: "after " + name, Name: name}, func(ctx context.Context, wr *repo.Writer) error {
					return wr.Put(ctx, "v", dir)
				})
				if kindOf(object) == "closed/" && how != "gone" {
					if !errors.Is(err, repo.ErrCorrupt) { // nobody knows which attempts are left
						t.Errorf("%s is %s: write %s: %v", object, how, name, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s is %s: write %s: %v", object, how, name, err)
					continue
				}
				if kindOf(object) == "pack/" {
					continue // dedup trusts the index: see Verify
				}
				if diff := cmp.Diff(onDisk(t, dir), contents(t, reopen(t, b.Bucket()), p)); diff != "" {
					t.Errorf("%s is %s: (-want +got):\n%s", object, how, diff)
				}
			}
		}
	}
}

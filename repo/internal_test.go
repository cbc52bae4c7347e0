// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/pack"
	"github.com/stillpoint-go/protect/internal/tree"
)

// initTest does not use repotest, which is above this package.
func initTest(tb testing.TB) (*Repository, *blob.Bucket) {
	tb.Helper()
	b := memblob.OpenBucket(nil)
	r, err := Init(tb.Context(), b, Passphrase("secret").WithKDF(1, 8, 1), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r, b
}

// TestTinyChunks stores more chunks than one pack may have, all together much
// smaller than a pack.
func TestTinyChunks(t *testing.T) {
	r, b := initTest(t)
	n := 2*ondisk.MaxPackEntries + 10
	p, err := r.Write(t.Context(), WriteOptions{ID: "p"}, func(ctx context.Context, w *Writer) error {
		x := &extents{seed: w.cut, put: w.putNode(ondisk.KindExtent)}
		for i := range n {
			data := binary.BigEndian.AppendUint32(nil, uint32(i)) // small
			id, err := w.pk.put(ondisk.KindData, data)
			if err != nil {
				return err
			}
			if err := x.add(ondisk.Slice{ID: id, Len: uint64(len(data))}); err != nil {
				return err
			}
		}
		return storeFile(ctx, w, "v", x)
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Stats.Chunks < int64(n) || p.Stats.Packs < 4 {
		t.Errorf("%+v", p.Stats)
	}
	for o, err := range r.store.List(t.Context(), ondisk.PackPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		data, err := b.ReadAll(t.Context(), o.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, entries, err := pack.Parse(r.keys, o.Key, data); err != nil {
			t.Errorf("%s with %d bytes: %v", o.Key, len(data), err)
		} else if len(entries) > ondisk.MaxPackEntries {
			t.Errorf("%s has %d chunks", o.Key, len(entries))
		}
	}
	again, err := Open(t.Context(), b, Passphrase("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := again.Verify(t.Context(), nil); err != nil || len(rep.Damage) > 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// storeFile stores an extent map as a volume that is one file.
func storeFile(ctx context.Context, w *Writer, name string, x *extents) error {
	t, err := w.newTreeWriter(ctx, name)
	if err != nil {
		return err
	}
	v, err := t.run(ctx, func(emit func(*job) error) (int64, error) {
		e := &ondisk.Entry{Type: ondisk.TypeFile, Size: x.size}
		if e.Extents, e.Map, err = x.finish(); err != nil {
			return 0, err
		}
		return 0, emit(&job{path: ".", entry: e})
	})
	v.Name = name
	w.done(v)
	return err
}

// TestMalformedParent commits volumes whose nodes are authentic and nonsense, as
// a faulty release might leave them. Reading and verifying report damage, and
// the next session stores everything anew.
func TestMalformedParent(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(e *ondisk.Entry) []byte { return ondisk.AppendEntry(nil, e) }
	root := entry(&ondisk.Entry{Type: ondisk.TypeDir})
	node := func(put tree.Put, recs map[string][]byte) (ondisk.Root, error) {
		b := tree.NewBuilder(1, put)
		for _, k := range []string{"", "1", "2", "3"} {
			if v, ok := recs[k]; ok {
				if err := b.Add([]byte(k), v); err != nil {
					return ondisk.Root{}, err
				}
			}
		}
		return b.Finish()
	}
	raw := func(data []byte, height uint8) func(tree.Put) (ondisk.Root, error) {
		return func(put tree.Put) (ondisk.Root, error) {
			id, err := put(data)
			return ondisk.Root{ID: id, Height: height}, err
		}
	}
	hash, lost := ondisk.ID{7}, ondisk.ID{9}
	for name, make := range map[string]func(tree.Put) (ondisk.Root, error){
		"no node":      raw([]byte("nonsense"), 0),
		"wrong height": raw([]byte("nonsense"), 3),
		"bad entry": func(put tree.Put) (ondisk.Root, error) {
			return node(put, map[string][]byte{"": root, "1": {1, 2, 3}, "2": root})
		},
		"lost chunk": func(put tree.Put) (ondisk.Root, error) {
			return node(put, map[string][]byte{"": root, "1": entry(&ondisk.Entry{Type: ondisk.TypeFile, Size: 1, Hash: hash, Extents: []ondisk.Slice{{ID: lost, Len: 1}}})})
		},
		"lost map": func(put tree.Put) (ondisk.Root, error) {
			return node(put, map[string][]byte{"": root, "1": entry(&ondisk.Entry{Type: ondisk.TypeFile, Size: 1, Map: &ondisk.Root{ID: lost}})})
		},
		"slash in a name": func(put tree.Put) (ondisk.Root, error) {
			b := tree.NewBuilder(1, put)
			err := errors.Join(b.Add(nil, root), b.Add([]byte("../x"), root))
			r, ferr := b.Finish()
			return r, errors.Join(err, ferr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := initTest(t)
			p, err := r.Write(t.Context(), WriteOptions{ID: "bad", Name: "app"}, func(_ context.Context, w *Writer) error {
				root, err := make(w.putNode(ondisk.KindTree))
				w.done(Volume{Name: "v", root: root})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), b, Passphrase("secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := again.Verify(t.Context(), nil)
			if err != nil || len(rep.Damage) == 0 || !strings.HasPrefix(rep.Damage[0].Affects[0], "bad: v") {
				t.Errorf("verify: %+v, %v", rep, err)
			}
			if err := readTree(t.Context(), again, p, "v"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("read: %v", err)
			}
			good, err := again.Write(t.Context(), WriteOptions{ID: "good", Name: "app"}, func(ctx context.Context, w *Writer) error { return w.Put(ctx, "v", dir) })
			if err != nil {
				t.Fatalf("the next session: %v", err)
			}
			if err := readTree(t.Context(), again, good, "v"); err != nil || good.Stats.Files != 50 {
				t.Errorf("%+v, %v", good.Stats, err)
			}
		})
	}
}

func readTree(ctx context.Context, r *Repository, p *Point, volume string) error {
	t, err := r.Tree(ctx, p, volume)
	if err != nil {
		return err
	}
	for e, err := range t.Entries(ctx, ".") {
		if err != nil {
			return err
		}
		if e.Type == File {
			if _, err := t.WriteTo(ctx, &bytes.Buffer{}, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestPoisonedChunk stores content under the id of other content, as whoever
// holds the key could: reading must notice.
func TestPoisonedChunk(t *testing.T) {
	r, b := initTest(t)
	p, err := r.Write(t.Context(), WriteOptions{ID: "p"}, func(ctx context.Context, w *Writer) error {
		id := r.keys.ChunkID(ondisk.KindData, []byte("good"))
		w.pk.claim(id)
		if err := w.pk.add(id, ondisk.KindData, []byte("evil"), new(buffers)); err != nil {
			return err
		}
		return w.PutStream(ctx, "v", strings.NewReader("good"))
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), b, Passphrase("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := readTree(t.Context(), again, p, "v"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if rep, err := again.Verify(t.Context(), &VerifyOptions{Level: VerifyFull}); err != nil || len(rep.Damage) != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestFormats refuses headers and records of other versions, and says what to
// do.
func TestFormats(t *testing.T) {
	r, b := initTest(t)
	set := func(key string, data []byte) {
		if err := b.WriteAll(t.Context(), key, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	id := r.ID()
	const advice = "repo: open: repository format is not supported: "
	for _, c := range []struct{ line, open, write string }{
		{line: `{"version":1,"id":"` + id + `","suite":"` + suite + `","compatible":["hints"]}`},
		{line: `{"version":1,"id":"` + id + `","suite":"` + suite + `","new_field":{"x":1}}`},
		{
			line:  `{"version":1,"id":"` + id + `","suite":"` + suite + `","read_only_compatible":["parity","quotas"]}`,
			write: `repo: write point "p": repository format is not supported for writing: it needs a release of protect that knows ["parity" "quotas"]; this one can restore and verify`,
		},
		{
			line: `{"version":1,"id":"` + id + `","suite":"` + suite + `","incompatible":["deltas"],"read_only_compatible":["parity"]}`,
			open: advice + `it needs a release of protect that knows ["deltas"]`,
		},
		{line: `{"version":2,"id":7}`, open: "repo: open: repository is damaged: object protect.repository: json: cannot unmarshal number into Go struct field header.id of type string"},
		{
			line: `{"version":2,"id":"` + id + `","suite":"` + suite + `"}`,
			open: advice + "it has format 2, and this release of protect handles format 1 only; use one that handles it",
		},
		{
			line: `{"version":1,"id":"` + id + `","suite":"BLAKE3-256 XChaCha20-Poly1305"}`,
			open: advice + `it uses the algorithms "BLAKE3-256 XChaCha20-Poly1305"; use a release of protect that knows them`,
		},
	} {
		mac := r.keys.HeaderMAC([]byte(c.line))
		for _, key := range headerKeys() {
			set(key, sum(headerMagic, c.line, fmt.Sprintf("%x", mac)))
		}
		again, err := Open(t.Context(), b, Passphrase("secret"), nil)
		if message(err) != c.open || (c.open != "" && !strings.Contains(c.open, "damaged")) != errors.Is(err, ErrFormat) {
			t.Errorf("open %s:\n%v\nwant:\n%s", c.line, err, c.open)
		}
		if err != nil {
			continue
		}
		_, err = again.Write(t.Context(), WriteOptions{ID: "p"}, func(ctx context.Context, w *Writer) error { return w.PutStream(ctx, "v", strings.NewReader("x")) })
		if message(err) != c.write || (c.write != "") != errors.Is(err, ErrFormat) {
			t.Errorf("write %s:\n%v\nwant:\n%s", c.line, err, c.write)
		}
		_, aerr := again.AddKey(t.Context(), Passphrase("x"))
		rerr := again.RotateKeys(t.Context(), Passphrase("secret").WithKDF(1, 8, 1))
		for _, err := range []error{again.Forget(t.Context(), "p"), aerr, rerr} {
			if (c.write != "") != errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v", c.line, err)
			}
		}
		if err := r.RotateKeys(t.Context(), Passphrase("secret").WithKDF(1, 8, 1)); err != nil && c.write != "" {
			t.Error(err) // others may write
		}
		r = again
	}
	set(ondisk.HeaderKey, sum(headerMagic+", experimental format", `{"version":0}`, ""))
	if _, err := Open(t.Context(), b, Passphrase("secret"), nil); message(err) != advice+"it has the experimental format 0; restore from it with the release that wrote it, and write to a new one" {
		t.Errorf("format 0: %v", err)
	}
	key := attempt{Name: r.keys.PointName("record")}.Key()
	set(key, r.keys.SealObject(key, []byte(`{"version":2}`)))
	if _, err := r.Point(t.Context(), "record"); !errors.Is(err, ErrFormat) {
		t.Errorf("record: %v", err)
	}
	set(key, r.keys.SealObject(key, []byte(`{"version":1}`)))
	if _, err := r.Point(t.Context(), "record"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty record: %v", err)
	}
	if _, err := r.Point(t.Context(), "absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzDecodeRecord(f *testing.F) {
	p := &Point{
		ID: "id", Name: "name", Level: "level", session: [16]byte{1}, seq: 2, Labels: map[string]string{"k": "v"},
		Volumes: []Volume{{Name: "a", Files: 1}, {Name: "b", root: ondisk.Root{ID: ondisk.ID{1}, Height: 3}}},
	}
	good, err := p.encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	p.Origin, p.originDigest, p.Committed = "00112233445566778899aabbccddeeff", ondisk.ID{7}, time.Unix(1700000000, 0).UTC()
	p.Evidence = map[string]map[string][]byte{"db": {"lsn": {1, 2}}}
	if good, err = p.encode(&Point{digest: [32]byte{9}}); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"id":"x","session":"00000000000000000000000000000000","roots":[],"volumes":[]}`))
	f.Add([]byte(`{"version":1,"fence":{"reason":"stale"}}`))
	f.Add([]byte(`{"version":1,"id":"x","session":"00000000000000000000000000000000","seq":18446744073709551615,"roots":[{"id":"zz"}],"volumes":[{"name":".."}]}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		p, err := decodeRecord(plain)
		if err != nil || p == nil {
			return
		}
		if checkID(p.ID) != nil {
			t.Fatalf("decoded %+v", p)
		}
		seen := map[string]bool{}
		for _, v := range p.Volumes {
			if !ondisk.ValidName(v.Name) || seen[v.Name] || v.root.Height >= ondisk.MaxTreeHeight {
				t.Fatalf("decoded volume %+v", v)
			}
			seen[v.Name] = true
		}
		again, err := p.encode(nil)
		if err != nil {
			return // a time that JSON cannot say
		}
		p2, err := decodeRecord(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if diff := cmp.Diff(p, p2, cmp.AllowUnexported(Point{}, Volume{})); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

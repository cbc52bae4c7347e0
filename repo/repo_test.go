// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect/repo"
)

// key is cheap to derive, since tests open many repositories.
func key(pass string) repo.Key { return repo.Passphrase(pass).WithKDF(1, 8, 1) }

func newRepo(tb testing.TB) (*repo.Repository, *blob.Bucket) {
	tb.Helper()
	b := memblob.OpenBucket(nil)
	tb.Cleanup(func() { _ = b.Close() })
	r, err := repo.Init(tb.Context(), b, key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r, b
}

func reopen(tb testing.TB, b *blob.Bucket) *repo.Repository {
	tb.Helper()
	r, err := repo.Open(tb.Context(), b, key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// write stores a directory as volume "v" of a point.
func write(tb testing.TB, r *repo.Repository, id, dir string) *repo.Point {
	tb.Helper()
	p, err := r.Write(tb.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.Put(ctx, "v", dir)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// describe is how both sides of a comparison print an entry.
func describe(kind string, mode fs.FileMode, target string, content []byte) string {
	if kind != "file" {
		return fmt.Sprintf("%s %v %s", kind, mode, target)
	}
	return fmt.Sprintf("file %v %d bytes %x", mode, len(content), sha256.Sum256(content))
}

// readAll reads all volumes of a point; paths start with the volume.
func readAll(ctx context.Context, r *repo.Repository, p *repo.Point) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range p.Volumes {
		t, err := r.Tree(ctx, p, v.Name)
		if err != nil {
			return out, err
		}
		for e, err := range t.Entries(ctx, ".") {
			if err != nil {
				return out, err
			}
			var content bytes.Buffer
			if e.Type == repo.File {
				if _, err := t.WriteTo(ctx, &content, e); err != nil {
					return out, err
				}
			}
			out[path.Join(v.Name, e.Path)] = describe(e.Type.String(), e.Mode, e.Target, content.Bytes())
		}
	}
	return out, nil
}

// contents reads all of a point, which must be in order.
func contents(tb testing.TB, r *repo.Repository, p *repo.Point) map[string]string {
	tb.Helper()
	out, err := readAll(tb.Context(), r, p)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// onDisk reads a directory as volume "v".
func onDisk(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		kind, target, content := "file", "", []byte(nil)
		switch info.Mode().Type() {
		case fs.ModeDir:
			kind = "dir"
		case fs.ModeSymlink:
			kind = "symlink"
			if target, err = os.Readlink(p); err != nil {
				return err
			}
		default:
			if content, err = os.ReadFile(p); err != nil {
				return err
			}
		}
		out[path.Join("v", filepath.ToSlash(rel))] = describe(kind, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), target, content)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// verify returns the report of a verification that must be possible.
func verify(tb testing.TB, r *repo.Repository, data bool) *repo.VerifyReport {
	tb.Helper()
	level := repo.VerifyMetadata
	if data {
		level = repo.VerifyFull
	}
	rep, err := r.Verify(tb.Context(), &repo.VerifyOptions{Level: level})
	if err != nil {
		tb.Fatal(err)
	}
	return rep
}

// healthy checks that a verification finds nothing, and so many points.
func healthy(tb testing.TB, r *repo.Repository, points int) {
	tb.Helper()
	for _, data := range []bool{false, true} {
		if rep := verify(tb, r, data); len(rep.Damage) > 0 || len(rep.Unknown) > 0 || rep.Points != points {
			tb.Errorf("verify with data=%t: %+v, want %d points", data, rep, points)
		}
	}
}

func put(tb testing.TB, dir, name string, data []byte) {
	tb.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o644); err != nil {
		tb.Fatal(err)
	}
}

func writeAt(name string, data []byte, off int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, off)
	return errors.Join(err, f.Close())
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// sample makes a tree with files of all sizes that matter.
func sample(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for i, n := range []int{0, 1, 100, 128 << 10, 128<<10 + 1, 256 << 10, 5 << 20} {
		put(tb, dir, fmt.Sprintf("sizes/%d", n), random(uint64(i), n))
	}
	for i := range 300 {
		put(tb, dir, fmt.Sprintf("small/%03d.txt", i), []byte(strings.Repeat(fmt.Sprintln("line", i), i)))
	}
	put(tb, dir, "a", nil)
	put(tb, dir, "a.b", []byte("x"))
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "link")); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestRoundTrip(t *testing.T) {
	r, b := newRepo(t)
	dir := sample(t)
	p := write(t, r, "one", dir)
	want := onDisk(t, dir)
	if diff := cmp.Diff(want, contents(t, r, p)); diff != "" {
		t.Errorf("same process (-want +got):\n%s", diff)
	}
	again := reopen(t, b)
	p2, err := again.Point(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, contents(t, again, p2)); diff != "" {
		t.Errorf("other process (-want +got):\n%s", diff)
	}
	healthy(t, again, 1)
}

func TestUnchangedCostsLittle(t *testing.T) {
	r, _ := newRepo(t)
	dir := sample(t)
	first := write(t, r, "one", dir)
	put(t, dir, "small/007.txt", []byte("changed"))
	put(t, dir, "small/0075.txt", []byte("new"))
	second := write(t, r, "two", dir)
	if second.Stats.Stored > 64<<10 || first.Stats.Stored < 5<<20 {
		t.Errorf("first stored %d bytes, second %d", first.Stats.Stored, second.Stats.Stored)
	}
	if diff := cmp.Diff(onDisk(t, dir), contents(t, r, second)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestIdempotent(t *testing.T) {
	r, b := newRepo(t)
	dir := sample(t)
	first := write(t, r, "one", dir)
	again, err := reopen(t, b).Write(t.Context(), repo.WriteOptions{ID: "one"}, func(context.Context, *repo.Writer) error {
		t.Error("the session ran again")
		return nil
	})
	if err != nil || again.Time != first.Time {
		t.Errorf("got %v, %v", again, err)
	}
}

func TestErrors(t *testing.T) {
	r, b := newRepo(t)
	ctx := t.Context()
	if _, err := repo.Init(ctx, b, key("x"), nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second init: %v", err)
	}
	if _, err := repo.Open(ctx, b, key("wrong"), nil); !errors.Is(err, repo.ErrKey) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := repo.Open(ctx, b, key(""), nil); err == nil {
		t.Error("empty passphrase was accepted")
	}
	if _, err := r.Point(ctx, "absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent point: %v", err)
	}
	boom := errors.New("boom")
	if _, err := r.Write(ctx, repo.WriteOptions{ID: "p"}, func(context.Context, *repo.Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("failing session: %v", err)
	}
	if points, err := r.Points(ctx); err != nil || len(points) != 0 {
		t.Errorf("points after a failed session: %v, %v", points, err)
	}
}

func TestIgnoredFailureOfAVolume(t *testing.T) {
	r, _ := newRepo(t)
	dir := sample(t)
	_, err := r.Write(t.Context(), repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error {
		_ = w.Put(ctx, "absent", filepath.Join(dir, "does-not-exist"))
		return w.Put(ctx, "v", dir)
	})
	if err == nil {
		t.Error("a point without one of its volumes was committed")
	}
}

func TestKeyIsRedacted(t *testing.T) {
	k := repo.Passphrase("hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if s := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k); strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74") {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

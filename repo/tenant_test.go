// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
	"github.com/stillpoint-go/protect/repo"
)

// guess returns the tree node of a directory with nothing in it, which a tenant
// can work out: nothing in there is secret.
func guess(tb testing.TB, dir string) []byte {
	tb.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		tb.Fatal(err)
	}
	e := &ondisk.Entry{
		Type: ondisk.TypeDir, Mode: uint32(info.Mode().Perm()), ModTime: info.ModTime().UTC(),
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), // fits
	}
	var node []byte
	b := tree.NewBuilder(0, func(n []byte) (ondisk.ID, error) { node = bytes.Clone(n); return ondisk.ID{1}, nil })
	if err := b.Add(nil, ondisk.AppendEntry(nil, e)); err != nil {
		tb.Fatal(err)
	}
	if _, err := b.Finish(); err != nil {
		tb.Fatal(err)
	}
	return node
}

// TestFileThatIsATreeNode stores a file whose content is the tree node of
// another volume: the one must not take the place of the other. Otherwise
// whoever can write to a volume could make its later points unreadable, while
// sessions go on to succeed (compare CVE-2016-10099 of borg).
func TestFileThatIsATreeNode(t *testing.T) {
	evil, victim := t.TempDir(), t.TempDir()
	when := time.Unix(1_700_000_000, 0)
	if err := os.Chtimes(victim, when, when); err != nil {
		t.Fatal(err)
	}
	put(t, evil, "node", guess(t, victim))
	for _, order := range [][]string{{evil, victim}, {victim, evil}} {
		r, b := newRepo(t)
		for i, dir := range order {
			write(t, r, fmt.Sprint(i), dir)
		}
		again := reopen(t, b)
		healthy(t, again, 2)
		for i, dir := range order {
			p, err := again.Point(t.Context(), fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(onDisk(t, dir), contents(t, again, p)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
}

// TestWhatCannotBeReadIsNotCommitted gives the writer what readers refuse.
func TestWhatCannotBeReadIsNotCommitted(t *testing.T) {
	r, b := newRepo(t)
	ctx := t.Context()
	dir := t.TempDir()
	put(t, dir, "f", []byte("x"))
	long := strings.Repeat("n", 256)
	for name, opts := range map[string]repo.WriteOptions{
		"no ID": {}, "ID with a control character": {ID: "a\nb"}, "ID too long": {ID: long}, "ID not UTF-8": {ID: "\xff"},
		"name": {ID: "p", Name: "\xff"}, "level": {ID: "p", Level: "\xff"},
		"label": {ID: "p", Labels: map[string]string{"k": "\xff"}}, "label key": {ID: "p", Labels: map[string]string{"\xff": "v"}},
		"evidence target": {ID: "p", Evidence: map[string]map[string][]byte{"\xff": {}}}, "evidence item": {ID: "p", Evidence: map[string]map[string][]byte{"t": {"\xff": nil}}},
		"year 10000": {ID: "p", Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := r.Write(ctx, opts, func(ctx context.Context, w *repo.Writer) error {
			t.Errorf("%s: the session runs", name)
			return w.Put(ctx, "v", dir)
		})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, volume := range []string{"", ".", "..", "a/b", "a\x00b", long, "\xff", "\xfe"} {
		_, err := r.Write(ctx, repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error {
			return errors.Join(w.Put(ctx, volume, dir), w.PutStream(ctx, volume, strings.NewReader("x")))
		})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("volume %q: %v", volume, err)
		}
	}
	for _, local := range []string{"", filepath.Join(dir, "absent"), os.DevNull} {
		_, err := r.Write(ctx, repo.WriteOptions{ID: "p"}, func(ctx context.Context, w *repo.Writer) error { return w.Put(ctx, "v", local) })
		if err == nil {
			t.Errorf("%q is a volume", local)
		}
	}
	_, err := r.Write(ctx, repo.WriteOptions{ID: "p", Evidence: map[string]map[string][]byte{"t": {"i": make([]byte, 5<<20)}}}, func(context.Context, *repo.Writer) error { return nil })
	if err == nil {
		t.Error("a record that is too large")
	}
	healthy(t, reopen(t, b), 0)
}

// TestRecord checks that a point comes back as it was given.
func TestRecord(t *testing.T) {
	r, b := newRepo(t)
	opts := repo.WriteOptions{
		ID: "ümläut \U0001f512", Name: "näme", Level: "application", Time: time.Date(2026, 2, 3, 4, 5, 6, 789, time.FixedZone("x", 3600)),
		Labels: map[string]string{"": "", "<&>": "\u2028"}, Evidence: map[string]map[string][]byte{"db": {"label": {0, 0xff, '\n'}, "empty": {}}},
	}
	p, err := r.Write(t.Context(), opts, func(ctx context.Context, w *repo.Writer) error {
		return errors.Join(w.PutStream(ctx, "z", strings.NewReader("")), w.PutStream(ctx, "a b", strings.NewReader("x")))
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := reopen(t, b).Point(t.Context(), opts.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != opts.ID || got.Name != opts.Name || got.Level != opts.Level || !got.Time.Equal(opts.Time) {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff(opts.Labels, got.Labels) + cmp.Diff(opts.Evidence, got.Evidence) + cmp.Diff(p.Stats, got.Stats); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(got.Volumes) != 2 || got.Volumes[0].Name != "a b" || got.Volumes[1].Name != "z" || got.Stats.Files != 2 || got.Stats.Bytes != 1 {
		t.Errorf("volumes %+v, %+v", got.Volumes, got.Stats)
	}
}

// TestRecordTooLarge asks for records that nobody could read again. That is found out
// before anything is stored: a session of such a name would stop all collections.
func TestRecordTooLarge(t *testing.T) {
	r, b := initRepo(t)
	before := b.Keys()
	for _, opts := range []repo.WriteOptions{
		{ID: "name", Name: strings.Repeat("n", 5<<20)},
		{ID: "escapes", Name: strings.Repeat("\x01", 1<<20)},
		{ID: "evidence", Evidence: map[string]map[string][]byte{"db": {"log": make([]byte, 4<<20)}}},
	} {
		_, err := r.Write(t.Context(), opts, func(context.Context, *repo.Writer) error {
			t.Errorf("%s: the session began", opts.ID)
			return nil
		})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %.100v", opts.ID, err)
		}
	}
	if diff := cmp.Diff(before, b.Keys()); diff != "" {
		t.Errorf("something was stored (-before +after):\n%s", diff)
	}
	if _, err := r.Collect(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestReadErrors(t *testing.T) {
	r, _ := newRepo(t)
	ctx := t.Context()
	dir := t.TempDir()
	put(t, dir, "d/f", []byte("content"))
	put(t, dir, "d.x", nil)
	put(t, dir, "e", nil)
	p := write(t, r, "one", dir)
	if _, err := r.Tree(ctx, p, "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such volume: %v", err)
	}
	tr, err := r.Tree(ctx, p, "v")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{"absent": fs.ErrNotExist, "d/absent": fs.ErrNotExist, "": fs.ErrInvalid, "../x": fs.ErrInvalid, "/d": fs.ErrInvalid, "d/": fs.ErrInvalid, "d\x00f": fs.ErrInvalid} {
		if _, err := tr.Entry(ctx, path); !errors.Is(err, want) {
			t.Errorf("%q: %v", path, err)
		}
		for _, err := range tr.Entries(ctx, path) {
			if !errors.Is(err, want) {
				t.Errorf("below %q: %v", path, err)
			}
		}
	}
	for root, want := range map[string][]string{".": {".", "d", "d/f", "d.x", "e"}, "d": {"d", "d/f"}, "d/f": {"d/f"}, "d.x": {"d.x"}, "e": {"e"}} {
		var got []string
		for e, err := range tr.Entries(ctx, root) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("below %q (-want +got):\n%s", root, diff)
		}
	}
	e, err := tr.Entry(ctx, "d")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.WriteTo(ctx, &bytes.Buffer{}, e); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("content of a directory: %v", err)
	}
	if e, err = tr.Entry(ctx, "d/f"); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.WriteTo(ctx, brokenWriter{}, e); !errors.Is(err, errBrokenWriter) {
		t.Errorf("writer that fails: %v", err)
	}
}

var errBrokenWriter = errors.New("broken writer")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBrokenWriter }

// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

// fake is a volume with entries that no writer would store.
type fake struct {
	entries []*repo.Entry
	slices  map[string][]repo.Slice // of files; by default one with all content
	before  func(ctx context.Context, e *repo.Entry) error
	read    func(ctx context.Context, s repo.Slice) ([]byte, error)
	claim   *repo.Volume // by default what the entries add up to
}

func (f *fake) Entry(_ context.Context, path string) (*repo.Entry, error) {
	for _, e := range f.entries {
		if e.Path == path {
			return e, nil
		}
	}
	return nil, fs.ErrNotExist
}

func (f *fake) Entries(ctx context.Context, path string) iter.Seq2[*repo.Entry, error] {
	return func(yield func(*repo.Entry, error) bool) {
		for _, e := range f.entries {
			if _, below := inside(path, e.Path); !below && e.Path != path && path != "." {
				continue
			}
			if f.before != nil {
				if err := f.before(ctx, e); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (f *fake) Slices(_ context.Context, e *repo.Entry) iter.Seq2[repo.Slice, error] {
	return func(yield func(repo.Slice, error) bool) {
		all, ok := f.slices[e.Path]
		if !ok && e.Size > 0 {
			all = []repo.Slice{{Length: e.Size, Hole: e.Size > 1<<20}}
		}
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func (f *fake) ReadSlice(ctx context.Context, s repo.Slice) ([]byte, error) {
	if f.read != nil {
		return f.read(ctx, s)
	}
	return bytes.Repeat([]byte("x"), int(s.Length)), nil
}

// add appends a slice to a file's content.
func (f *fake) add(path string, s repo.Slice) {
	if f.slices == nil {
		f.slices = map[string][]repo.Slice{}
	}
	f.slices[path] = append(f.slices[path], s)
}

// fixed returns a read function without cost of its own.
func fixed(data []byte) func(context.Context, repo.Slice) ([]byte, error) {
	return func(_ context.Context, s repo.Slice) ([]byte, error) { return data[:s.Length], nil }
}

// restore restores the fake as a volume.
func (f *fake) restore(ctx context.Context, target string, opts *Options) (*Report, error) {
	o := opts.withDefaults()
	claim := f.claim
	if claim == nil {
		claim = &repo.Volume{Name: "v"}
		for _, e := range f.entries {
			if e.Type == repo.Dir {
				claim.Dirs++
			} else {
				claim.Files++
			}
			claim.Bytes += e.Size
		}
	}
	return restore(ctx, target, o, func(ctx context.Context) ([]selection, error) {
		s := selection{src: f, claim: *claim, path: o.Path}
		e, err := f.Entry(ctx, o.Path)
		if err == nil && e.Type != repo.Dir {
			s.name = filepath.Base(o.Path)
		}
		return []selection{s}, err
	})
}

func entry(t repo.EntryType, path string) *repo.Entry {
	return &repo.Entry{Type: t, Path: path, Mode: 0o755, ModTime: time.Unix(1e9, 5)}
}

func dirAt(path string) *repo.Entry { return entry(repo.Dir, path) }

func fileAt(path string, size int64) *repo.Entry {
	e := entry(repo.File, path)
	e.Size = size
	return e
}

func symlinkAt(path, target string) *repo.Entry {
	e := entry(repo.Symlink, path)
	e.Target = target
	return e
}

func linkAt(path, target string) *repo.Entry {
	e := entry(repo.Link, path)
	e.Target = target
	return e
}

// rooted returns a volume of a root directory with entries.
func rooted(entries ...*repo.Entry) *fake {
	return &fake{entries: append([]*repo.Entry{dirAt(".")}, entries...)}
}

// arena is a directory for a target, beside something that must not change.
type arena struct {
	tb             testing.TB
	dir            string
	target, canary string
	before         map[string]string
}

func newArena(tb testing.TB) *arena {
	tb.Helper()
	dir := tb.TempDir()
	a := &arena{tb: tb, dir: dir, target: filepath.Join(dir, "t"), canary: filepath.Join(dir, "outside")}
	a.must(os.MkdirAll(filepath.Join(a.canary, "d"), 0o755))
	a.must(os.WriteFile(filepath.Join(a.canary, "f"), []byte("precious"), 0o644))
	a.must(os.WriteFile(filepath.Join(a.canary, "d", "x"), []byte("precious"), 0o600))
	a.must(os.Symlink("d", filepath.Join(a.canary, "l")))
	a.before = restoretest.Describe(tb, a.canary, nil)
	return a
}

func (a *arena) must(err error) {
	a.tb.Helper()
	if err != nil {
		a.tb.Fatal(err)
	}
}

// check fails the test if something outside changed, or if what is in the
// directory does not fit the error of the restore.
func (a *arena) check(err error) {
	a.tb.Helper()
	if diff := cmp.Diff(a.before, restoretest.Describe(a.tb, a.canary, nil)); diff != "" {
		a.tb.Fatalf("escape (-before +after):\n%s", diff)
	}
	a.checkNames(err)
}

func (a *arena) checkNames(err error) {
	a.tb.Helper()
	want := "outside t"
	if err != nil {
		want = "outside"
	}
	entries, rerr := os.ReadDir(a.dir)
	a.must(rerr)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != want {
		a.tb.Fatalf("%q is in the directory of the target, want %q; restore: %v", got, want, err)
	}
}

// clean removes the target for the next restore.
func (a *arena) clean() {
	a.tb.Helper()
	root, err := os.OpenRoot(a.dir)
	a.must(err)
	defer root.Close()
	a.must(removeAll(a.tb.Context(), root, "t"))
}

var errBoom = errors.New("boom")

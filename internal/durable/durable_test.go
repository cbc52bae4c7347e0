// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/durable"
	"github.com/stillpoint-go/protect/internal/durable/durabletest"
)

func put(d *durable.Dir, name, data string, once bool) error {
	f, err := d.NewFile()
	if err != nil {
		return err
	}
	for _, part := range []string{data[:len(data)/2], data[len(data)/2:]} {
		if _, err := f.Write([]byte(part)); err != nil {
			f.Discard()
			return err
		}
	}
	if once {
		return f.Create(name)
	}
	return f.Replace(name)
}

// The golden text of the protocol: content is flushed before it gets a name,
// the directory after it, and the loser of a race flushes the directory too.
func TestOrder(t *testing.T) {
	const head = "create .tmp/.tmp-0 !|mkdir .tmp|create .tmp/.tmp-1|write .tmp/.tmp-1|write .tmp/.tmp-1|"
	tests := []struct {
		name  string
		setup func(c *durabletest.CrashFS)
		run   func(d *durable.Dir) error
		want  string
		is    error
	}{
		{
			name: "create",
			run:  func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want: head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 k|syncdir .|remove .tmp/.tmp-1",
		},
		{
			name: "create in new directories",
			run:  func(d *durable.Dir) error { return put(d, "a/b/k", "data", true) },
			want: head + "mkdir a|syncdir .|mkdir a/b|syncdir a|" +
				"sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 a/b/k|syncdir a/b|remove .tmp/.tmp-1",
		},
		{
			name: "replace",
			run:  func(d *durable.Dir) error { return put(d, "k", "data", false) },
			want: head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|rename .tmp/.tmp-1 k|syncdir .|remove .tmp/.tmp-1 !",
		},
		{
			name:  "late loser flushes no data but the directory",
			setup: func(c *durabletest.CrashFS) { c.Plant("k") },
			run:   func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want:  head + "syncdir .|close .tmp/.tmp-1|remove .tmp/.tmp-1",
			is:    fs.ErrExist,
		},
		{
			name: "loser of a race",
			setup: func(c *durabletest.CrashFS) {
				c.Before = func(op string) {
					if strings.HasPrefix(op, "link") {
						c.Plant("k")
					}
				}
			},
			run:  func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want: head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 k !|syncdir .|remove .tmp/.tmp-1",
			is:   fs.ErrExist,
		},
		{
			name:  "answer to link lost",
			setup: func(c *durabletest.CrashFS) { c.LostLink = true },
			run:   func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want:  head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 k !|syncdir .|remove .tmp/.tmp-1",
		},
		{
			name:  "no hard links",
			setup: func(c *durabletest.CrashFS) { c.NoLinks = true },
			run:   func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want: head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 k !|rename-excl .tmp/.tmp-1 k|" +
				"syncdir .|remove .tmp/.tmp-1 !",
		},
		{
			name:  "neither links nor exclusive rename",
			setup: func(c *durabletest.CrashFS) { c.NoLinks, c.NoExcl = true, true },
			run:   func(d *durable.Dir) error { return put(d, "k", "data", true) },
			want: head + "sync .tmp/.tmp-1|close .tmp/.tmp-1|link .tmp/.tmp-1 k !|rename-excl .tmp/.tmp-1 k !|" +
				"remove .tmp/.tmp-1",
			is: errors.ErrUnsupported,
		},
		{
			name:  "remove",
			setup: func(c *durabletest.CrashFS) { c.Plant("k") },
			run:   func(d *durable.Dir) error { return d.Remove("k") },
			want:  "remove k|syncdir .",
		},
		{
			name: "remove of nothing",
			run:  func(d *durable.Dir) error { return d.Remove("k") },
			want: "remove k !|syncdir .",
			is:   fs.ErrNotExist,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := durabletest.New()
			if tc.setup != nil {
				tc.setup(c)
			}
			err := tc.run(durable.NewDir(c, &durable.Options{TempDir: ".tmp"}))
			if !errors.Is(err, tc.is) {
				t.Errorf("error %v, want %v", err, tc.is)
			}
			if diff := cmp.Diff(strings.Split(tc.want, "|"), c.Log); diff != "" {
				t.Errorf("operations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	c := durabletest.New()
	if err := put(durable.NewDir(c, nil), "d/k", "data", true); err != nil {
		t.Fatal(err)
	}
	ambiguous := map[string]bool{"syncdir d": true}
	for _, op := range c.Log {
		t.Run(op, func(t *testing.T) {
			c := durabletest.New()
			c.Fail = map[string]error{op: boom}
			err := put(durable.NewDir(c, nil), "d/k", "data", true)
			if strings.HasPrefix(op, "remove") {
				if err != nil {
					t.Errorf("a temporary file that stays must not fail the write: %v", err)
				}
				return
			}
			if !errors.Is(err, boom) {
				t.Errorf("error %v, want %v", err, boom)
			}
			for _, sentinel := range []error{fs.ErrExist, fs.ErrNotExist} {
				if errors.Is(err, sentinel) {
					t.Errorf("error %v matches %v", err, sentinel)
				}
			}
			if _, err := c.Lstat("d/k"); (err == nil) != ambiguous[op] {
				t.Errorf("file after the error: %v", err)
			}
			infos, _ := c.ReadDir(".")
			for _, i := range infos {
				if durable.IsTemp(i.Name()) {
					t.Errorf("%s is left", i.Name())
				}
			}
		})
	}
}

func TestDirectoryRemovedMeanwhile(t *testing.T) {
	c := durabletest.New()
	d := durable.NewDir(c, nil)
	for _, name := range []string{"d/1", "d/2"} {
		if err := put(d, name, "data", true); err != nil {
			t.Fatal(err)
		}
		c.Vanish("d")
	}
	c.Before = func(op string) {
		if strings.HasPrefix(op, "link") {
			for _, name := range c.Names() {
				c.Vanish(name)
			}
		}
	}
	err := put(d, "d/3", "data", true)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write whose temporary file was swept: error %v", err)
	}
}

func TestNotRegular(t *testing.T) {
	c := durabletest.New()
	d := durable.NewDir(c, nil)
	if err := c.Mkdir("k", 0); err != nil {
		t.Fatal(err)
	}
	if err := put(d, "k", "data", true); err == nil || errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a directory: error %v, want one that is no lost race", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	d := durable.NewDir(durable.RootFS(root), &durable.Options{TempDir: "t"})
	if n, err := d.Sweep(time.Now()); n != 0 || err != nil {
		t.Fatalf("sweep without a directory: %d, %v", n, err)
	}
	now := time.Now()
	for _, f := range []struct {
		name string
		age  time.Duration
	}{{"t/.tmp-old", 3 * time.Hour}, {"t/.tmp-new", time.Hour}, {"t/foreign", 3 * time.Hour}} {
		full := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(full, now.Add(-f.age), now.Add(-f.age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "t/.tmp-dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Sweep(now.Add(-2 * time.Hour)); n != 1 || err != nil {
		t.Errorf("sweep: %d, %v, want 1 file", n, err)
	}
	want := []string{".tmp-dir", ".tmp-new", "foreign"}
	if diff := cmp.Diff(want, list(t, filepath.Join(dir, "t"))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestCreateFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "journal")
	if err := durable.CreateFile(name, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateFile(name, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v, want fs.ErrExist", err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "one" {
		t.Errorf("content %q, %v", got, err)
	}
	if diff := cmp.Diff([]string{"journal"}, list(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := durable.RemoveFile(name); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if err := durable.RemoveFile(filepath.Join(dir, "no", "such")); err != nil {
		t.Errorf("remove in a missing directory: %v", err)
	}
	if err := durable.CreateFile(filepath.Join(dir, "no", "such"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in a missing directory: %v", err)
	}
	for _, bad := range []string{"", ".", dir + "/", dir + "/..", filepath.Join(dir, ".tmp-x")} {
		if err := durable.CreateFile(bad, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("create %q: %v, want fs.ErrInvalid", bad, err)
		}
	}
}

func TestCreateFileRace(t *testing.T) {
	dir := t.TempDir()
	for round := range 50 {
		name := filepath.Join(dir, fmt.Sprint(round))
		var wins atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				data := bytes.Repeat([]byte{byte('a' + i)}, 4096)
				err := durable.CreateFile(name, data)
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(data)
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		got, err := os.ReadFile(name)
		if err != nil || wins.Load() != 1 || !bytes.Equal(got, winner.Load().([]byte)) {
			t.Fatalf("round %d: %d winners, read error %v, content of the winner: %t",
				round, wins.Load(), err, bytes.Equal(got, winner.Load().([]byte)))
		}
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := durable.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "a", "b")); err != nil || !info.IsDir() {
		t.Errorf("directory: %v, %v", info, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, filepath.Join(file, "x")} {
		if err := durable.MkdirAll(name, 0o700); err == nil {
			t.Errorf("directory made at %s", name)
		}
	}
}

// The exclusive rename is what file systems without hard links depend on.
func TestRenameNoReplace(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("no exclusive rename on " + runtime.GOOS)
	}
	dir := t.TempDir()
	fsys := linkless{durable.RootFS(openRoot(t, dir))}
	for i, want := range []error{nil, fs.ErrExist} {
		d := durable.NewDir(fsys, nil)
		err := put(d, "d/k", fmt.Sprintf("content %d", i), true)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skipf("the file system of %s has no exclusive rename: %v", dir, err)
		}
		if !errors.Is(err, want) {
			t.Errorf("create %d: %v, want %v", i, err, want)
		}
	}
	// Past the look ahead, the rename itself must refuse.
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fsys.RenameNoReplace("new", "d/k"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive rename over a file: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "d", "k")); err != nil || string(got) != "content 0" {
		t.Errorf("content %q, %v", got, err)
	}
}

type linkless struct{ durable.FS }

func (linkless) Link(_, name string) error {
	return &os.PathError{Op: "link", Path: name, Err: fs.ErrPermission}
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

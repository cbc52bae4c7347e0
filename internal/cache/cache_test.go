// SPDX-License-Identifier: Apache-2.0

package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/internal/cache"
)

var scope = [16]byte{0xab, 1}

const large = 1 << 20

func open(dir string, limit int64) *cache.Cache {
	return cache.Open(dir, scope, limit, hclog.NewNullLogger())
}

func TestObjects(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c := open(dir, large)
	if c.Get("k", 10) != nil {
		t.Error("something in an empty cache")
	}
	long := strings.Repeat("../", 200)
	for _, key := range []string{"k", "pack/x:1+2", "", long, "a/../../b"} {
		c.Put(key, []byte("data of "+key))
	}
	again := open(dir, large)
	if got := again.Get(long, 1000); string(got) != "data of "+long {
		t.Errorf("got %q", got)
	}
	if got := again.Get("k", 8); got != nil {
		t.Errorf("more than the limit: %q", got)
	}
	c.Put("k", []byte("changed"))
	if got := again.Get("k", 9); string(got) != "changed" {
		t.Errorf("got %q", got)
	}
	again.Drop("k")
	again.Drop("k")
	if c.Get("k", 9) != nil {
		t.Error("dropped, and still there")
	}
	other := cache.Open(dir, [16]byte{1}, large, hclog.NewNullLogger())
	if other.Get(long, 1000) != nil {
		t.Error("another repository sees it")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, path := range []string{filepath.Dir(dir), dir, filepath.Join(dir, entries[0].Name())} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func write(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	c := open(dir, large)
	name := strings.Repeat("0a", 16)
	if err := c.Create(name, write("content")); err != nil {
		t.Fatal(err)
	}
	f, size, err := c.OpenFile(name)
	if err != nil || size != 7 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	defer f.Close()
	failure := errors.New("no")
	if err := c.Create(name, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return failure }); !errors.Is(err, failure) {
		t.Errorf("create: %v", err)
	}
	for _, bad := range []string{"", "..", "x", strings.ToUpper(name), name + "0"} {
		if err := c.Create(bad, write("")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got := c.Files(); len(got) != 1 || got[0] != name {
		t.Errorf("files %q", got)
	}
	c.RemoveFile(name)
	if data, err := io.ReadAll(f); string(data) != "content" && runtime.GOOS != "windows" {
		t.Errorf("the open file: %q, %v", data, err)
	}
	if _, _, err := c.OpenFile(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v are left, %v", entries, err)
	}
}

// age makes all files look unused for so long.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		at := info.ModTime().Add(-by)
		if err := os.Chtimes(filepath.Join(dir, e.Name()), at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// TestBudget fills the cache in the order of use, and keeps what is not its
// own.
func TestBudget(t *testing.T) {
	dir := t.TempDir()
	foreign := []string{"notes.txt", "abcd", strings.Repeat("a", 51), "ab01000000000000-x-" + strings.Repeat("0", 32)}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "ab01000000000000-o-"+strings.Repeat("1", 32)), 0o700); err != nil {
		t.Fatal(err)
	}
	const limit = 100_000
	c := open(dir, limit)
	table := strings.Repeat("5", 32)
	if err := c.Create(table, func(w io.Writer) error { _, err := w.Write(make([]byte, 40_000)); return err }); err != nil {
		t.Fatal(err)
	}
	f, _, err := c.OpenFile(table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 300 {
		age(t, dir, time.Hour)
		c.Put(fmt.Sprint(i), make([]byte, 1000))
		if i >= 10 && c.Get("7", 1000) == nil {
			t.Fatalf("what is used all the time is gone after %d", i)
		}
	}
	if n := size(t, dir); n > limit+5000 || n < limit/2 {
		t.Errorf("%d bytes with a budget of %d", n, limit)
	}
	if c.Get("299", 1000) == nil || c.Get("1", 1000) != nil {
		t.Error("not the oldest were removed")
	}
	if _, _, err := c.OpenFile(table); err != nil {
		t.Errorf("a file in use was removed: %v", err)
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	c.Put("too large", make([]byte, limit))
	if c.Get("too large", limit) != nil {
		t.Error("an object of the size of the budget was kept")
	}
	stale := filepath.Join(dir, "ab01000000000000-w-"+strings.Repeat("0", 32))
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(t, dir, 48*time.Hour)
	open(dir, limit).Put("x", []byte("x")) // the first one sweeps
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unfinished file of long ago: %v", err)
	}
}

// TestLinks puts links in the place of files, and of what is to be written.
func TestLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege")
	}
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(dir, large)
	c.Put("k", []byte("mine"))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	path := filepath.Join(dir, entries[0].Name())
	inside := filepath.Join(dir, "inside")
	if err := os.WriteFile(inside, []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{secret, "inside", "nothing", "."} {
		if err := errors.Join(os.Remove(path), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
		if got := c.Get("k", 100); got != nil {
			t.Errorf("followed a link: %q", got)
		}
		c.Put("k", []byte("new"))
		if got := c.Get("k", 100); string(got) != "new" {
			t.Errorf("got %q", got)
		}
	}
	for file, want := range map[string]string{secret: "secret", inside: "inside"} {
		if data, err := os.ReadFile(file); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", file, data, err)
		}
	}
}

// TestUseless has a folder that cannot be used: everything goes on without it,
// and one line of the log says so.
func TestUseless(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	logger := hclog.New(&hclog.LoggerOptions{Output: &log})
	c := cache.Open(blocked, scope, large, logger)
	c.Put("k", []byte("data"))
	c.Drop("k")
	if c.Get("k", 10) != nil || len(c.Files()) != 0 || c.Create(strings.Repeat("0", 32), write("")) == nil {
		t.Error("a cache in a file")
	}
	if _, _, err := c.OpenFile("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	c.RemoveFile("x")
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, &log)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	log.Reset()
	c = cache.Open(gone, scope, large, logger)
	if err := os.RemoveAll(gone); err != nil {
		t.Skip(err) // of Windows
	}
	for range 3 {
		c.Put("k", []byte("data"))
		if c.Get("k", 10) != nil {
			t.Error("it was kept in a folder that is gone")
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, &log)
	}
}

// TestTogether uses one folder from several caches at once. What is read is what
// somebody has written, whole.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		c := open(dir, 60_000)
		wg.Go(func() {
			for n := range 200 {
				key := fmt.Sprint(n % 40)
				if got := c.Get(key, large); got != nil && (len(got) != 1000 || bytes.Count(got, got[:1]) != 1000) {
					t.Errorf("read %d bytes of several writers", len(got))
				}
				c.Put(key, bytes.Repeat([]byte{byte('a' + i)}, 1000))
				if n%17 == 0 {
					c.Drop(key)
				}
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 60 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

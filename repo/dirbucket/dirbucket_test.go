// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

// plain are the options of a write that leaves a file without a trailer.
var plain = &blob.WriterOptions{DisableContentTypeDetection: true}

func open(t testing.TB, dir string, opts *dirbucket.Options) *blob.Bucket {
	t.Helper()
	b, err := dirbucket.OpenBucket(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func write(t testing.TB, b *blob.Bucket, key string, data []byte, opts *blob.WriterOptions) {
	t.Helper()
	if err := b.WriteAll(t.Context(), key, data, opts); err != nil {
		t.Fatalf("write %q: %v", key, err)
	}
}

// files returns the regular files below dir with their sizes.
func files(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		found[filepath.ToSlash(rel)] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	write(t, b, "config", []byte("12345"), plain)
	write(t, b, "packs/0a/pack-1", bytes.Repeat([]byte("x"), 1000), plain)
	write(t, b, "packs", nil, plain)
	write(t, b, "notes", []byte("hello"), &blob.WriterOptions{ContentType: "text/plain"})
	want := map[string]int64{
		"config": 5, "packs+/0a+/pack-1": 1000, "packs": 0,
		"notes": dirbucket.TrailerResidue,
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("files and sizes (-want +got):\n%s", diff)
	}
	attrs, err := b.Attributes(t.Context(), "notes")
	if err != nil || attrs.Size != 5 || attrs.ContentType != "text/plain" {
		t.Errorf("attributes: %+v, %v", attrs, err)
	}
	attrs, err = b.Attributes(t.Context(), "config")
	if err != nil || attrs.Size != 5 || attrs.ContentType != "application/octet-stream" {
		t.Errorf("attributes: %+v, %v", attrs, err)
	}
	if runtime.GOOS != "windows" {
		for name, want := range map[string]fs.FileMode{"config": 0o600, "packs+": 0o700} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("mode of %s: %v, %v, want %v", name, info.Mode(), err, want)
			}
		}
	}
}

func TestOpenBucket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := dirbucket.OpenBucket(dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v, want fs.ErrNotExist", err)
	}
	open(t, dir, &dirbucket.Options{CreateDir: true})
	open(t, dir, &dirbucket.Options{CreateDir: true})
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{false, true} {
		if _, err := dirbucket.OpenBucket(file, &dirbucket.Options{CreateDir: create}); err == nil {
			t.Error("a file was opened as a bucket")
		}
	}
	if _, err := dirbucket.OpenBucket(dir, &dirbucket.Options{FileMode: fs.ModeSetuid}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("special mode: %v, want fs.ErrInvalid", err)
	}
}

func TestURL(t *testing.T) {
	mux := new(blob.URLMux)
	dirbucket.Register(mux)
	dirbucket.Register(mux)
	dir := filepath.ToSlash(t.TempDir())
	if !strings.HasPrefix(dir, "/") {
		dir = "/" + dir
	}
	t.Chdir(t.TempDir())
	tests := []struct {
		url string
		is  error
	}{
		{"dir://" + dir, nil},
		{"dir://localhost" + dir, nil},
		{"dir://" + dir + "?prefix=a/b/", nil},
		{"dir://" + dir + "/new", fs.ErrNotExist},
		{"dir://" + dir + "/new?create_dir=false", fs.ErrNotExist},
		{"dir://" + dir + "/new?create_dir=true&file_mode=0640&dir_mode=750", nil},
		{"dir://./rel?create_dir=true", nil},
		{"dir://" + dir + "?create_dir=perhaps", fs.ErrInvalid},
		{"dir://" + dir + "?file_mode=9", fs.ErrInvalid},
		{"dir://" + dir + "?dir_mode=1777", fs.ErrInvalid},
		{"dir://" + dir + "?metadata=skip", fs.ErrInvalid},
		{"dir://host" + dir, fs.ErrInvalid},
		{"dir://", fs.ErrInvalid},
		{"dir://.", fs.ErrInvalid},
		{"dir:rel", fs.ErrInvalid},
	}
	for _, tc := range tests {
		t.Run(tc.url, func(t *testing.T) {
			b, err := mux.OpenBucket(t.Context(), tc.url)
			if !errors.Is(err, tc.is) {
				t.Fatalf("error %v, want %v", err, tc.is)
			}
			if err != nil {
				return
			}
			write(t, b, "k", []byte("data"), nil)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if info, err := os.Stat("rel/k"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("relative path: %v", err)
	}
}

func TestCancelledWrite(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	write(t, b, "k", []byte("old"), plain)
	for _, once := range []bool{false, true} {
		for _, key := range []string{"k", "new"} {
			ctx, cancel := context.WithCancel(t.Context())
			w, err := b.NewWriter(ctx, key, &blob.WriterOptions{IfNotExist: once, ContentType: "x/y"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("half")); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := w.Close(); !errors.Is(err, context.Canceled) {
				t.Errorf("close: %v, want context.Canceled", err)
			}
			if diff := cmp.Diff(map[string]int64{"k": 3}, files(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		}
	}
}

func TestSweepAtOpen(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	write(t, b, "a/old", []byte("object"), plain)
	temp := filepath.Join(dir, ".tmp")
	for i, age := range []time.Duration{0, time.Hour, 23 * time.Hour, 25 * time.Hour} {
		name := filepath.Join(temp, fmt.Sprintf(".tmp-%d", i))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-1000 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "a+", "old"), old, old); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		age  time.Duration
		left int
	}{{-1, 4}, {0, 3}, {30 * time.Minute, 1}, {time.Nanosecond, 0}} {
		open(t, dir, &dirbucket.Options{TempAge: step.age})
		if got := len(files(t, temp)); got != step.left {
			t.Errorf("opened with TempAge %v: %d unfinished files, want %d", step.age, got, step.left)
		}
	}
	if _, err := b.ReadAll(t.Context(), "a/old"); err != nil {
		t.Errorf("old object: %v", err)
	}
}

func TestReadWhileReplaced(t *testing.T) {
	b := open(t, t.TempDir(), nil)
	write(t, b, "k", []byte("first"), plain)
	r, err := b.NewReader(t.Context(), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, b, "k", []byte("second"), plain)
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil || got.String() != "first" {
		t.Errorf("read %q, %v", &got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestSlowRead reads a file for so long that it is no longer young at the end. It
// was when the reading began: what changes then may leave its times as they are.
func TestSlowRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	young := time.Now().Add(500 * time.Millisecond) // so that a busy machine has time to begin
	if err := os.WriteFile(name, noise(1, 200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, young, young); err != nil {
		t.Fatal(err)
	}
	r, _ := initTest(t)
	if _, err := r.Write(t.Context(), WriteOptions{ID: "p", Reuse: ReuseByModTime}, func(ctx context.Context, w *Writer) error {
		w.pk.mu.Lock() // the reader waits with what it has read
		time.AfterFunc(time.Until(young.Add(2*fineStamp)), w.pk.mu.Unlock)
		err := w.Put(ctx, "v", name)
		if w.journal.mu.waiting > 0 {
			t.Error("a file that was young when it was read will be taken for unchanged")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// putWith writes a point with one volume, and calls fn with each entry before its
// content is read.
func putWith(t *testing.T, r *Repository, id, local string, fn func(*job)) *Point {
	t.Helper()
	p, err := r.Write(t.Context(), WriteOptions{ID: id, Reuse: ReuseByChangeTime}, func(ctx context.Context, w *Writer) error {
		tw, err := w.newTreeWriter(ctx, "v")
		if err != nil {
			return err
		}
		v, err := tw.run(ctx, func(emit func(*job) error) (int64, error) {
			walk := &walker{
				emit: func(j *job) error { fn(j); return emit(j) },
				recall: func(path string, info fs.FileInfo) (old, known *ondisk.Entry, err error) {
					return tw.recall(ctx, path, info)
				},
				reuse: w.reuse, links: map[fileID]firstName{},
			}
			return 0, walk.walk(local)
		})
		v.Name = "v"
		w.done(v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAttributesWhileWaiting changes an attribute of a file after it was opened,
// before its content is read. A later session would take both from the parent.
func TestAttributesWhileWaiting(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := initTest(t)
	<-time.After(2 * fineStamp)
	putWith(t, r, "0", name, func(*job) {
		if err := unix.Setxattr(name, "user.a", []byte("x"), 0); err != nil {
			t.Skip(err)
		}
		<-time.After(2 * fineStamp) // other files are read first
	})
	tree, err := r.Tree(t.Context(), putWith(t, r, "1", name, func(*job) {}), "v")
	if err != nil {
		t.Fatal(err)
	}
	e, err := tree.Entry(t.Context(), ".")
	if err != nil || len(e.Xattrs) != 1 {
		t.Errorf("the attributes of a later point are %v, %v", e, err)
	}
}

// TestInodeUsedAgain removes a file with two names while a live volume is read, and
// makes others, of which one gets its inode: that is not a name of the first.
func TestInodeUsedAgain(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	link := func(name, data string) fs.FileInfo {
		path, other := filepath.Join(dir, name), filepath.Join(out, filepath.Base(name))
		if err := errors.Join(os.WriteFile(path, []byte(data), 0o600), os.Link(path, other)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if err := os.MkdirAll(filepath.Join(dir, "b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	old, again := link("a", "old"), ""
	var a *job
	r, _ := initTest(t)
	p := putWith(t, r, "0", dir, func(j *job) {
		switch j.path {
		case "a":
			a = j
		case "b": // what is in it is listed, and what is in b/c is not
			<-a.done
			if err := errors.Join(os.Remove(filepath.Join(dir, "a")), os.Remove(filepath.Join(out, "a"))); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < 100 && again == ""; i++ {
				if name := fmt.Sprint("b/c/", i); os.SameFile(old, link(name, "new")) {
					again = name
				}
			}
		}
	})
	if again == "" {
		t.Skip("the file system does not use inodes again")
	}
	tree, err := r.Tree(t.Context(), p, "v")
	if err != nil {
		t.Fatal(err)
	}
	e, err := tree.Entry(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	var data strings.Builder
	if _, err := tree.WriteTo(t.Context(), &data, e); err != nil || data.String() != "new" {
		t.Errorf("%+v: %q, %v", e, data.String(), err)
	}
}

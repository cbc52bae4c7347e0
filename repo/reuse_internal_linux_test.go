// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"os"
	"path/filepath"
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

// TestAttributesWhileWaiting changes an attribute of a file after it was opened,
// before its content is read. A later session would take both from the parent.
func TestAttributesWhileWaiting(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := initTest(t)
	write := func(id string, waiting func()) {
		_, err := r.Write(t.Context(), WriteOptions{ID: id, Reuse: ReuseByChangeTime}, func(ctx context.Context, w *Writer) error {
			tw, err := w.newTreeWriter(ctx, "v")
			if err != nil {
				return err
			}
			v, err := tw.run(ctx, func(emit func(*job) error) (int64, error) {
				walk := &walker{
					emit: func(j *job) error { waiting(); return emit(j) },
					recall: func(path string, info os.FileInfo) (old, known *ondisk.Entry, err error) {
						return tw.recall(ctx, path, info)
					},
					reuse: w.reuse, links: map[fileID]string{},
				}
				return 0, walk.walk(name)
			})
			v.Name = "v"
			w.done(v)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(2 * fineStamp)
	write("0", func() {
		if err := unix.Setxattr(name, "user.a", []byte("x"), 0); err != nil {
			t.Skip(err)
		}
		<-time.After(2 * fineStamp) // other files are read first
	})
	write("1", func() {})
	p, err := r.Point(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := r.Tree(t.Context(), p, "v")
	if err != nil {
		t.Fatal(err)
	}
	e, err := tree.Entry(t.Context(), ".")
	if err != nil || len(e.Xattrs) != 1 {
		t.Errorf("the attributes of a later point are %v, %v", e, err)
	}
}

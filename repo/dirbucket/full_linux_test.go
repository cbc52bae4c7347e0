// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// A full disk is an error with a code, damages nothing, and is over as soon as
// there is space again.
func TestDiskFull(t *testing.T) {
	realtest.Require(t, os.Geteuid() == 0, "mounting a tmpfs needs root")
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		realtest.Require(t, false, "no tmpfs: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b := open(t, dir, nil)
	write(t, b, "small", make([]byte, 1<<10), plain)
	write(t, b, "large", make([]byte, 700<<10), plain)
	want := map[string]int64{"small": 1 << 10, "large": 700 << 10}
	for _, once := range []bool{false, true} {
		for _, key := range []string{"new", "small"} {
			opts := &blob.WriterOptions{IfNotExist: once, DisableContentTypeDetection: true}
			err := b.WriteAll(t.Context(), key, bytes.Repeat([]byte("x"), 600<<10), opts)
			if code := gcerrors.Code(err); code != gcerrors.ResourceExhausted {
				t.Errorf("write of %q (once: %t) to a full disk: %v, want ResourceExhausted", key, once, err)
			}
			if diff := cmp.Diff(want, files(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		}
	}
	// A careless caller closes without cancelling: still nothing is published.
	w, err := b.NewWriter(t.Context(), "new", plain)
	if err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if _, err = w.Write(make([]byte, 1<<10)); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("no write failed on a full disk")
	}
	if err := w.Close(); err == nil {
		t.Error("close after a failed write returned nil")
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if err := b.Delete(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	write(t, b, "new", make([]byte, 600<<10), plain)
}

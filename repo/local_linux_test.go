// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// TestFullCache has no room for the cache: none at all, for some objects, or
// only until the first table of the index.
func TestFullCache(t *testing.T) {
	world := localWorld(t)
	for name, job := range localJobs {
		w := world(name)
		want, err := job(t, reopen(t, w.Bucket()), w)
		if err != nil {
			t.Fatal(err)
		}
		for _, free := range []int{0, 1, 2, 5} { // pages
			dir := t.TempDir()
			err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 8*os.Getpagesize()))
			realtest.Require(t, err == nil, fmt.Sprint("tmpfs cannot be mounted: ", err))
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // files of the index are open
			if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, (8-free)*os.Getpagesize()), 0o600); err != nil {
				t.Fatal(err)
			}
			w := world(name)
			got, err := job(t, cached(t, w, dir), w)
			if err != nil {
				t.Fatalf("%s, %d pages: %v", name, free, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %d pages (-want +got):\n%s", name, free, diff)
			}
			if info, err := os.Stat(filepath.Join(dir, "filler")); err != nil || info.Size() == 0 {
				t.Errorf("the filler is gone: %v", err)
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// setXattrs gives some entries attributes.
func setXattrs(tb testing.TB, dir string) {
	tb.Helper()
	for _, name := range []string{"sizes/1", "sizes", "modes/400.d/file", "."} {
		p := filepath.Join(dir, name)
		info, err := os.Stat(p)
		must(tb, err)
		must(tb, os.Chmod(p, 0o700)) // to have the right
		for _, attr := range []string{"user.comment", "user.\xff"} {
			err := unix.Setxattr(p, attr, []byte("value of "+name+"\x00"), 0)
			realtest.Require(tb, !errors.Is(err, errors.ErrUnsupported), "the file system of the temporary directory has no attributes")
			must(tb, err)
		}
		must(tb, os.Chmod(p, info.Mode()))
	}
}

// blocks returns the bytes that a file takes on disk.
func blocks(tb testing.TB, name string) int64 {
	tb.Helper()
	var st unix.Stat_t
	must(tb, unix.Stat(name, &st))
	return st.Blocks * 512
}

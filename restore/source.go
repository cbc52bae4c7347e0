// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/repo"
)

// source is what a restore needs of a volume. What it yields is not trusted.
type source interface {
	Entry(ctx context.Context, path string) (*repo.Entry, error)
	Entries(ctx context.Context, path string) iter.Seq2[*repo.Entry, error]
	Slices(ctx context.Context, e *repo.Entry) iter.Seq2[repo.Slice, error]
	ReadSlice(ctx context.Context, s repo.Slice) ([]byte, error)
}

var _ source = (*repo.Tree)(nil)

// corrupt returns an error that matches repo.ErrCorrupt.
func corrupt(format string, args ...any) error {
	return &repo.CorruptError{Err: fmt.Errorf(format, args...)}
}

// checkEntry refuses what no volume can hold.
func checkEntry(e *repo.Entry) error {
	switch {
	case !ondisk.ValidPath(e.Path):
		return corrupt("invalid path")
	case e.Type < repo.Dir || e.Type > repo.Link:
		return corrupt("unknown type %d", e.Type)
	case e.Size < 0 || e.Type != repo.File && e.Size != 0:
		return corrupt("size of %d bytes", e.Size)
	case e.Type == repo.Symlink && (e.Target == "" || len(e.Target) > ondisk.MaxLink || strings.ContainsRune(e.Target, 0)):
		return corrupt("invalid symbolic link")
	case e.Type == repo.Link && (!ondisk.ValidPath(e.Target) || !before(e.Target, e.Path)):
		return corrupt("hard link to %q, which does not come before it", e.Target)
	}
	return nil
}

// before reports whether a comes before b in the order of a depth-first walk.
func before(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] == '/' || b[i] != '/' && a[i] < b[i]
		}
	}
	return len(a) < len(b)
}

// inside returns the path p relative to dir, if it is below it.
func inside(dir, p string) (rel string, ok bool) {
	if dir == "." {
		return p, p != "."
	}
	if len(p) > len(dir)+1 && p[len(dir)] == '/' && p[:len(dir)] == dir {
		return p[len(dir)+1:], true
	}
	return "", false
}

// checkName refuses a name of an entry that this platform cannot hold.
func checkName(name string) error {
	if !ondisk.ValidName(name) {
		return corrupt("invalid name %q", name)
	}
	if !filepath.IsLocal(name) || filepath.Base(name) != name || runtime.GOOS == "windows" && !windowsName(name) {
		return fmt.Errorf("%w: %s cannot hold the name %q", fs.ErrInvalid, runtime.GOOS, name)
	}
	return nil
}

// windowsName reports whether Windows takes a name for what it says. Some that
// it accepts mean something else: devices, streams of other files, and names
// with an end that is cut off.
func windowsName(name string) bool {
	special := func(r rune) bool { return r < ' ' || strings.ContainsRune(`<>:"/\|?*`, r) }
	if strings.ContainsFunc(name, special) || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return false
	}
	stem, _, _ := strings.Cut(name, ".")
	stem = strings.ToUpper(strings.TrimRight(stem, " "))
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return false
	}
	for _, port := range []string{"COM", "LPT"} {
		if n, ok := strings.CutPrefix(stem, port); ok && n != "" && strings.Contains("0123456789¹²³", n) {
			return false
		}
	}
	return true
}

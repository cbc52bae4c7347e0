// SPDX-License-Identifier: Apache-2.0

// Package restoretest compares directory trees in tests of programs that back
// up and restore.
//
//	if diff := restoretest.Diff(t, source, target, nil); diff != "" {
//		t.Errorf("restored tree differs (-want +got):\n%s", diff)
//	}
package restoretest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Options say what to leave out of a comparison.
type Options struct {
	IgnoreModes  bool // permissions and the setuid, setgid and sticky bits
	IgnoreOwners bool // user and group
	IgnoreTimes  bool // modification times
	IgnoreXattrs bool // user.* attributes
	// Ignore, if set, is asked for each path, relative and with slashes. What is
	// below an ignored directory is ignored, too.
	Ignore func(path string) bool
}

// Diff returns how the tree at got differs from the one at want, and nothing if
// it does not: types, contents, targets of symbolic links, hard links, and what
// Options does not ignore. A tree that cannot be read fails the test.
func Diff(tb testing.TB, want, got string, opts *Options) string {
	tb.Helper()
	return cmp.Diff(Describe(tb, want, opts), Describe(tb, got, opts))
}

// Describe returns one line for each entry of the tree at dir, by its path. It
// reads everything, and restores what it must change for that: permissions.
// What only some systems have (owners, attributes, times of symbolic links)
// appears where the package restore supports it.
func Describe(tb testing.TB, dir string, opts *Options) map[string]string {
	tb.Helper()
	if opts == nil {
		opts = &Options{}
	}
	d := describer{opts: opts, out: map[string]string{}, links: map[any]string{}}
	if err := d.entry(dir, "."); err != nil {
		tb.Fatalf("describe %s: %v", dir, err)
	}
	return d.out
}

type describer struct {
	opts  *Options
	out   map[string]string
	links map[any]string // first path of a file with several names
}

func (d *describer) entry(local, path string) error {
	if d.opts.Ignore != nil && d.opts.Ignore(path) {
		return nil
	}
	info, err := os.Lstat(local)
	if err != nil {
		return err
	}
	line := []string{info.Mode().Type().String()}
	isLink := info.Mode()&fs.ModeSymlink != 0
	if !d.opts.IgnoreModes && !isLink {
		line[0] = info.Mode().String()
	}
	if !d.opts.IgnoreTimes && (!isLink || runtime.GOOS == "linux") {
		line = append(line, info.ModTime().UTC().Format("2006-01-02T15:04:05.999999999"))
	}
	if !d.opts.IgnoreOwners {
		line = append(line, owner(info))
	}
	if id := fileID(info); id != nil {
		if first, ok := d.links[id]; ok {
			d.out[path] = "hard link to " + first
			return nil
		}
		d.links[id] = path
	}
	more, err := d.content(local, path, info)
	if err != nil {
		return err
	}
	d.out[path] = strings.Join(append(line, more...), " ")
	return nil
}

func (d *describer) content(local, path string, info fs.FileInfo) (line []string, err error) {
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(local)
		return []string{fmt.Sprintf("-> %q", target)}, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, nil
	}
	if info.Mode()&0o400 == 0 || info.IsDir() && info.Mode()&0o100 == 0 {
		if err := os.Chmod(local, info.Mode()|0o500); err != nil {
			return nil, err
		}
		defer func() {
			if cerr := os.Chmod(local, info.Mode()); err == nil {
				err = cerr
			}
		}()
	}
	if !d.opts.IgnoreXattrs {
		if line, err = xattrs(local); err != nil {
			return nil, err
		}
	}
	if info.IsDir() {
		return line, d.directory(local, path)
	}
	f, err := os.Open(local)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return append(line, fmt.Sprintf("%d bytes %x", n, h.Sum(nil)[:8])), err
}

func (d *describer) directory(local, path string) error {
	entries, err := os.ReadDir(local)
	if err != nil {
		return err
	}
	for _, e := range entries {
		sub := e.Name()
		if path != "." {
			sub = path + "/" + sub
		}
		if err := d.entry(filepath.Join(local, e.Name()), sub); err != nil {
			return err
		}
	}
	return nil
}

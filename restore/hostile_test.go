// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo"
)

// hostile is a volume and the error that it must lead to; nil if it restores.
type hostile struct {
	name string
	f    *fake
	want error
	opts Options
}

func invalidPaths() []string {
	paths := []string{
		"", "..", "../x", "a/..", "a/../b", "a/../../outside/f", "./a", "a/.", "a/./b", "/", "/etc/passwd", "//a", "a//b", "a/", "/a/",
		"\x00", "a\x00b", "a/\x00", "a\x00/b", "../../../../../../../../etc/cron.d/x", "...//..", "outside/../../outside",
		strings.Repeat("n", 256), strings.Repeat("a/", 256) + "b", strings.Repeat("d/", 3000) + "x", "a/" + strings.Repeat("n", 256),
		strings.Repeat("../", 255) + "x", ".", "a/b/../../../outside/f",
	}
	return paths
}

// oddNames are names that are fine, or that the platform refuses.
func oddNames() []string {
	return []string{
		`..\outside`, `\`, `\\server\share\x`, `C:\x`, "C:x", "C:", "a:stream", "CON", "con.txt", "NUL", "COM1", "LPT9.x", "aux ", "trailing.", "trailing ",
		"...", "....", " ", "~", "~root", "$HOME", "`id`", "-rf", "--", "*", "?", "%2e%2e", "%2e%2e%2fx", "..%c0%af", "\xc0\xae\xc0\xae", "\xff", "\u202e..",
		"\u2024\u2024", "\uff0e\uff0e", "．．／", "\n", "\r\n", "\x1b[2J", "\x7f", "a\tb", strings.Repeat("n", 255), "CONIN$", ".git", ".protect-restore-x", "lost+found",
	}
}

func hostiles() []hostile {
	var all []hostile
	add := func(name string, want error, entries ...*repo.Entry) {
		all = append(all, hostile{name: name, f: rooted(entries...), want: want})
	}
	for _, p := range invalidPaths() {
		for _, e := range []*repo.Entry{fileAt(p, 1), dirAt(p), symlinkAt(p, "/etc"), linkAt(p, "a")} {
			add(fmt.Sprintf("%s %.40q", e.Type, p), repo.ErrCorrupt, e)
		}
		if p != "." {
			add(fmt.Sprintf("link to %.40q", p), repo.ErrCorrupt, fileAt("a", 1), linkAt("b", p))
		}
	}
	for _, n := range oddNames() {
		var want error
		if runtime.GOOS == "windows" && !windowsName(n) {
			want = fs.ErrInvalid
		}
		if runtime.GOOS != "linux" && want == nil {
			continue // what darwin holds depends on its file system
		}
		add(fmt.Sprintf("odd name %q", n), want, dirAt(n), fileAt(n+"/"+n, 3))
		for _, target := range []string{"/" + n, "../" + n} {
			add(fmt.Sprintf("odd link %q", target), want, symlinkAt(n, target))
		}
	}
	outside := []string{"../outside", "../outside/d", "/", "/etc", "..", ".", "../../..", "../outside/f", "/proc/self/cwd", "/proc/self/fd/3", "a", "b/..", strings.Repeat("../", 1000)}
	for _, out := range outside {
		name := func(s string) string { return fmt.Sprintf("%s %.30q", s, out) }
		add(name("file through link"), repo.ErrCorrupt, symlinkAt("a", out), fileAt("a/pwned", 1))
		add(name("directory through link"), repo.ErrCorrupt, symlinkAt("a", out), dirAt("a/pwned"), fileAt("a/pwned/x", 1))
		add(name("link through link"), repo.ErrCorrupt, symlinkAt("a", out), symlinkAt("a/pwned", "x"))
		add(name("hard link to link"), repo.ErrCorrupt, symlinkAt("a", out), linkAt("b", "a"))
		add(name("hard link through link"), repo.ErrCorrupt, symlinkAt("a", out), linkAt("b", "a/f"))
		add(name("hard link to link, then file over it"), repo.ErrCorrupt, symlinkAt("a", out), linkAt("b", "a"), fileAt("b", 1))
		add(name("file over link"), repo.ErrCorrupt, symlinkAt("a", out), fileAt("a", 1))
		add(name("directory over link"), repo.ErrCorrupt, symlinkAt("a", out), dirAt("a"), fileAt("a/pwned", 1))
		add(name("chain"), repo.ErrCorrupt, symlinkAt("a", out), symlinkAt("b", "a"), symlinkAt("c", "b/d"), fileAt("c/pwned", 1))
		add(name("links alone"), nil, symlinkAt("a", out), symlinkAt("b", "a"), symlinkAt("c", "b/d"))
	}
	return append(all, structural()...)
}

// structural trees contradict themselves.
func structural() []hostile {
	corrupted := map[string]*fake{
		"file twice":                   rooted(fileAt("a", 1), fileAt("a", 1)),
		"directory twice":              rooted(dirAt("a"), dirAt("a")),
		"file, then directory":         rooted(fileAt("a", 1), dirAt("a")),
		"directory, then file":         rooted(dirAt("a"), fileAt("a", 1)),
		"link twice":                   rooted(symlinkAt("a", "x"), symlinkAt("a", "y")),
		"root twice":                   rooted(dirAt(".")),
		"child before parent":          rooted(fileAt("a/b", 1), dirAt("a")),
		"child without parent":         rooted(fileAt("a/b", 1)),
		"grandchild without parent":    rooted(dirAt("a"), fileAt("a/b/c", 1)),
		"child of file":                rooted(fileAt("a", 1), fileAt("a/b", 1)),
		"child of hard link":           rooted(fileAt("a", 1), linkAt("b", "a"), fileAt("b/c", 1)),
		"child of empty file":          rooted(fileAt("a", 0), dirAt("a/b")),
		"back to a directory":          rooted(dirAt("a"), dirAt("b"), fileAt("a/x", 1)),
		"descending order":             rooted(fileAt("b", 1), fileAt("a", 1)),
		"order of bytes, not of walks": rooted(dirAt("a"), fileAt("a.b", 1), fileAt("a/b", 1)),
		"hard link to itself":          rooted(linkAt("a", "a")),
		"hard link to later":           rooted(linkAt("a", "b"), fileAt("b", 1)),
		"hard link to missing":         rooted(dirAt("a"), linkAt("b", "a/x")),
		"hard link to directory":       rooted(dirAt("a"), linkAt("b", "a")),
		"hard link to parent":          rooted(dirAt("a"), linkAt("a/b", "a")),
		"hard link to root":            rooted(linkAt("a", ".")),
		"hard link through file":       rooted(fileAt("a", 1), linkAt("b", "a/x")),
		"hard link with size":          rooted(fileAt("a", 1), withSize(linkAt("b", "a"), 5)),
		"directory with size":          rooted(withSize(dirAt("a"), 5)),
		"symlink with size":            rooted(withSize(symlinkAt("a", "x"), 5)),
		"empty symlink":                rooted(symlinkAt("a", "")),
		"symlink with NUL":             rooted(symlinkAt("a", "x\x00y")),
		"symlink too long":             rooted(symlinkAt("a", strings.Repeat("x", 4096))),
		"type 0":                       rooted(entry(0, "a")),
		"type 5":                       rooted(entry(5, "a")),
		"type 255":                     rooted(entry(255, "a")),
		"negative size":                rooted(fileAt("a", -1)),
		"smallest size":                rooted(fileAt("a", math.MinInt64)),
		"no root":                      {entries: []*repo.Entry{dirAt("."), fileAt("a", 1)}, claim: &repo.Volume{Files: 1}},
		"negative claim":               {entries: []*repo.Entry{dirAt(".")}, claim: &repo.Volume{Dirs: 2, Files: -1}},
		"overflowing claim":            {entries: []*repo.Entry{dirAt(".")}, claim: &repo.Volume{Dirs: math.MaxInt64, Files: math.MaxInt64}},
		"more entries than claimed":    {entries: rooted(fileAt("a", 1), fileAt("b", 1)).entries, claim: &repo.Volume{Dirs: 1, Files: 1, Bytes: 9}},
		"more bytes than claimed":      {entries: rooted(fileAt("a", 5), fileAt("b", 5)).entries, claim: &repo.Volume{Dirs: 1, Files: 2, Bytes: 9}},
		"fewer entries than claimed":   {entries: rooted(fileAt("a", 5)).entries, claim: &repo.Volume{Dirs: 1, Files: 2, Bytes: 5}},
		"fewer bytes than claimed":     {entries: rooted(fileAt("a", 5)).entries, claim: &repo.Volume{Dirs: 1, Files: 1, Bytes: 6}},
		"sparse bomb not claimed":      {entries: rooted(fileAt("a", 1<<62)).entries, claim: &repo.Volume{Dirs: 1, Files: 1, Bytes: 9}},
		"sizes that overflow":          {entries: rooted(fileAt("a", 10), fileAt("b", math.MaxInt64)).entries, claim: &repo.Volume{Dirs: 1, Files: 2, Bytes: 20}},
	}
	var all []hostile
	deep := rooted()
	for i := range 257 {
		deep.entries = append(deep.entries, dirAt(strings.Repeat("d/", i)+"d"))
		if i == 255 {
			all = append(all, hostile{name: "depth of 256", f: rooted(deep.entries[1:]...)})
		}
	}
	corrupted["depth of 257"] = deep
	for name, f := range corrupted {
		all = append(all, hostile{name: name, f: f, want: repo.ErrCorrupt})
	}
	for name, slices := range map[string][]repo.Slice{
		"gap":             {{Length: 2}, {Offset: 3, Length: 7}},
		"overlap":         {{Length: 5}, {Offset: 4, Length: 6}},
		"backwards":       {{Offset: 5, Length: 5}, {Offset: 0, Length: 5}},
		"short":           {{Length: 9}},
		"none":            {},
		"long":            {{Length: 5}, {Offset: 5, Length: 6}},
		"negative":        {{Length: 5}, {Offset: 5, Length: -5}, {Length: 10}},
		"negative offset": {{Offset: -5, Length: 10}},
		"zero":            {{Length: 5}, {Offset: 5}, {Offset: 5, Length: 5}},
		"overflow":        {{Length: 5, Hole: true}, {Offset: 5, Length: math.MaxInt64, Hole: true}},
	} {
		f := rooted(fileAt("a", 10))
		f.slices = map[string][]repo.Slice{"a": slices}
		all = append(all, hostile{name: "slices: " + name, f: f, want: repo.ErrCorrupt})
	}
	bomb := rooted(fileAt("bomb", 1<<62))
	all = append(all,
		hostile{name: "sparse bomb and budget", f: bomb, want: ErrBudget, opts: Options{MaxBytes: 1 << 40}},
		hostile{name: "entries and budget", f: rooted(fileAt("a", 1), fileAt("b", 1)), want: ErrBudget, opts: Options{MaxEntries: 2}},
		hostile{name: "path and budget", f: rooted(dirAt("a"), fileAt("a/b", 10)), want: ErrBudget, opts: Options{Path: "a", MaxBytes: 9}},
		hostile{name: "path and exact budget", f: rooted(dirAt("a"), fileAt("a/b", 10), fileAt("c", 99)), opts: Options{Path: "a", MaxBytes: 10, MaxEntries: 2}},
		hostile{name: "link out of the selection to a link", f: rooted(symlinkAt("a", "/etc/passwd"), dirAt("b"), linkAt("b/c", "a")), want: repo.ErrCorrupt, opts: Options{Path: "b"}},
		hostile{name: "link out of the selection to nothing", f: rooted(dirAt("b"), linkAt("b/c", "a")), want: repo.ErrCorrupt, opts: Options{Path: "b"}},
		hostile{name: "link out of the selection to a directory", f: rooted(dirAt("b"), linkAt("b/c", "b")), want: repo.ErrCorrupt, opts: Options{Path: "b"}},
		hostile{name: "link out of the selection and budget", f: rooted(fileAt("a", 10), dirAt("b"), linkAt("b/c", "a")), want: ErrBudget, opts: Options{Path: "b", MaxBytes: 9}},
	)
	if runtime.GOOS == "linux" {
		all = append(all, hostile{name: "sparse bomb", f: bomb, want: syscall.EFBIG})
	}
	return all
}

func withSize(e *repo.Entry, size int64) *repo.Entry {
	e.Size = size
	return e
}

func TestHostile(t *testing.T) {
	all := hostiles()
	if len(all) < 100 {
		t.Fatalf("only %d volumes", len(all))
	}
	a := newArena(t)
	for _, tt := range all {
		tt.opts.NoSync = true
		_, err := tt.f.restore(t.Context(), a.target, &tt.opts)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		a.check(err)
		a.clean()
	}
	t.Logf("%d hostile volumes", len(all))
}

// TestHostileMetadata restores values at the edge, which must not fail.
func TestHostileMetadata(t *testing.T) {
	a := newArena(t)
	var entries []*repo.Entry
	for i, mtime := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1<<62, 0), time.Unix(1<<62, 999999999), time.Unix(math.MaxInt64, 0)} {
		d := dirAt(fmt.Sprintf("d%d", i))
		f := fileAt(d.Path+"/f", 1)
		l := symlinkAt(d.Path+"/l", "x")
		d.ModTime, f.ModTime, l.ModTime = mtime, mtime, mtime
		d.Mode, f.Mode = fs.FileMode(0xffffffff), fs.FileMode(0xffffffff)
		f.Xattrs = []repo.Xattr{{Name: "security.capability", Value: []byte("\x01")}, {Name: "trusted.x"}, {Name: "system.posix_acl_access"}, {Name: "user"}}
		f.UID, f.GID = math.MaxUint32, math.MaxUint32
		entries = append(entries, d, f, l)
	}
	report, err := rooted(entries...).restore(t.Context(), a.target, nil)
	a.check(err)
	if err != nil {
		t.Fatal(err)
	}
	// Special bits of five files and directories, four attributes of five files.
	if want := int64(2*5 + 4*5); report.SkippedTotal != want || len(report.Skipped) != int(want) {
		t.Errorf("skipped %d: %v", report.SkippedTotal, report.Skipped)
	}
	if info, err := os.Stat(filepath.Join(a.target, "d0/f")); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o777 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestLargeAttributes has attributes that not every file system can hold, ext4
// among them: whoever may set some in a volume must not keep it from being restored.
func TestLargeAttributes(t *testing.T) {
	a := newArena(t)
	f, d := fileAt("f", 1), dirAt("d")
	for _, e := range []*repo.Entry{f, d} {
		e.Xattrs = []repo.Xattr{{Name: "user."}, {Name: "user." + strings.Repeat("n", 250)}, {Name: "user.large", Value: make([]byte, 60_000)}, {Name: "user.small", Value: []byte("x")}}
	}
	report, err := rooted(d, f).restore(t.Context(), a.target, nil)
	a.check(err)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Skipped {
		if s.What == "attribute user.small" && report.SkippedTotal < 8 { // all, where there are none at all
			t.Errorf("%+v was skipped", s)
		}
	}
}

// programs returns all volumes of up to three operations on three names.
func programs(yield func(*fake) bool) {
	var ops []*repo.Entry
	names := []string{"a", "b", "c"}
	for _, n := range names {
		ops = append(ops, dirAt(n), fileAt(n, 1), symlinkAt(n, "../outside"), dirAt(n+"/d"), fileAt(n+"/f", 1), symlinkAt(n+"/l", "../.."))
		for _, m := range names {
			ops = append(ops, symlinkAt(n, m), linkAt(n, m), linkAt(n, m+"/f"), linkAt(n+"/h", m), symlinkAt(n+"/s", "../"+m+"/l"))
		}
	}
	for _, x := range ops {
		if !yield(rooted(x)) {
			return
		}
		for _, y := range ops {
			if !yield(rooted(x, y)) {
				return
			}
			if !before(x.Path, y.Path) {
				continue // the order is refused whatever comes third
			}
			for _, z := range ops {
				if !before(y.Path, z.Path) && y.Path != z.Path {
					continue
				}
				if !yield(rooted(x, y, z)) {
					return
				}
			}
		}
	}
}

var exhaustive = flag.Bool("exhaustive", false, "restore all programs, not every tenth")

func TestPrograms(t *testing.T) {
	a := newArena(t)
	stride := 10
	if *exhaustive {
		stride = 1
	}
	abs := filepath.Join(a.dir, "outside")
	n, restored := 0, 0
	for f := range programs {
		if n++; n%stride != 0 {
			continue
		}
		for _, e := range f.entries {
			if e.Type == repo.Symlink && e.Target == "../outside" && n%2 == 0 {
				e.Target = abs
			}
		}
		_, err := f.restore(t.Context(), a.target, &Options{NoSync: true, Concurrency: 2})
		if err == nil {
			restored++
			a.clean()
		} else if !errors.Is(err, repo.ErrCorrupt) {
			t.Fatalf("%s: %v", describe(f), err)
		}
		if n%(stride<<8) == 0 {
			a.check(errBoom)
		}
	}
	a.check(errBoom)
	t.Logf("%d of %d programs, %d restored", n/stride, n, restored)
	if restored == 0 {
		t.Error("no program restored")
	}
}

func describe(f *fake) string {
	var out []string
	for _, e := range f.entries {
		out = append(out, fmt.Sprintf("%s %q %q", e.Type, e.Path, e.Target))
	}
	return strings.Join(out, ", ")
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var fills = flag.Int("fills", 0, "number of stores that TestFull fills; 0 is the short form")

// tmpfs mounts a file system in memory on a new directory.
func (w *world) tmpfs(name string, bytes int) string {
	w.t.Helper()
	requireReal(w.t, os.Geteuid() == 0, "mounting a tmpfs needs root")
	dir := w.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	requireReal(w.t, err == nil, fmt.Sprintf("there is no tmpfs: %v", err))
	w.t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	return dir
}

// room returns how many bytes are left in a file system.
func room(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// fullStore is a repository on a small file system.
type fullStore struct {
	*world
	rng  *rand.Rand
	disk string
	kept map[string]map[string]string // the trees of the points
	next int
	// failures counts the backups for which there was no room.
	failures int
}

func newFullStore(t *testing.T, seed uint64) *fullStore {
	s := &fullStore{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 0)), kept: map[string]map[string]string{}}
	s.disk = s.tmpfs("disk", 16<<20)
	s.repo = "dir://" + filepath.Join(s.disk, "repository")
	s.reserve(reserved)
	s.ok(nil, "init", "--kdf", "fast")
	return s
}

// change replaces, adds and removes files of the volume.
func (s *fullStore) change() {
	random := func(n int) string {
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(s.rng.Uint32()), byte(s.rng.Uint32()), byte(s.rng.Uint32())}).Read(b) // never fails
		return string(b)
	}
	s.write("data/new", random(700_000+s.rng.IntN(2_500_000)))
	for range 1 + s.rng.IntN(4) {
		s.write(fmt.Sprintf("data/sub/%d", s.rng.IntN(8)), random(s.rng.IntN(300_000)))
	}
}

// backup tries to store the volume, and reports whether there was room.
func (s *fullStore) backup() bool {
	s.t.Helper()
	s.next++
	id := fmt.Sprintf("p%03d", s.next)
	start := time.Now()
	o := s.run(nil, "backup", "--id", id, s.path("data"))
	if o.code == exitOK {
		s.kept[id] = tree(s.t, s.path("data"))
		return true
	}
	s.failures++
	if o.code != exitFailure || o.stdout != "" || !isFull(o.stderr) || strings.Contains(o.stderr, "unknown") {
		s.t.Fatalf("backup on a full store: exit status %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if d := time.Since(start); d > 5*time.Second {
		s.t.Errorf("it took %v to find that the store is full", d)
	}
	return false
}

// isFull reports whether a message says what is the matter and what to do.
func isFull(stderr string) bool {
	return strings.Contains(stderr, "no space left on device") && strings.Contains(stderr, "the store is full") &&
		strings.Contains(stderr, "run gc")
}

// sound checks that every point is there and undamaged, restores so many of
// them, and that nothing of a failed backup is there. It writes nothing to the
// store but what verify notes.
func (s *fullStore) sound(what string, restores int) {
	s.t.Helper()
	got := s.points()
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(s.kept)), got); diff != "" {
		s.t.Fatalf("%s: points (-want +got):\n%s", what, diff)
	}
	s.ok(nil, "verify", "--level", "data")
	s.ok(nil, "verify", "--data")
	for _, i := range s.rng.Perm(len(got))[:min(len(got), restores)] {
		id := got[i]
		s.ok(nil, "restore", id, s.path("out"))
		if diff := cmp.Diff(s.kept[id], tree(s.t, s.path("out"))); diff != "" {
			s.t.Errorf("%s: %s (-want +got):\n%s", what, id, diff)
		}
		if err := os.RemoveAll(s.path("out")); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, dir := range []string{".tmp", "session+"} {
		left, err := os.ReadDir(filepath.Join(s.disk, "repository", dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
			s.t.Errorf("%s: left in %s: %v, %v", what, dir, left, err)
		}
	}
}

// reserved is what is kept beside the repository for when its own last bytes are
// gone: forget and gc store small objects.
const reserved = 16 << 10

func (s *fullStore) reserve(n int) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.disk, "reserve"), make([]byte, n), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// tight runs a command that makes room. If that needs some, it gets the reserve.
// It reports whether it succeeded: a gc that has only packs to rewrite may have
// no room for that, and says so.
func (s *fullStore) tight(args ...string) bool {
	s.t.Helper()
	o := s.run(nil, args...)
	switch {
	case o.code == exitOK:
		return true
	case o.code != exitFailure || !isFull(o.stderr):
		s.t.Fatalf("protectctl %q: exit status %d\n%s", args, o.code, o.stderr)
	case strings.Contains(o.stderr, "store: put pack/"), strings.Contains(o.stderr, "store: put index/"):
		return false
	}
	s.reserve(0)
	s.ok(nil, args...)
	return true
}

// makeRoom forgets the oldest points until the volume can be stored. What one of
// them frees depends on its packs: those that are mostly in use stay.
func (s *fullStore) makeRoom() {
	s.t.Helper()
	for {
		if len(s.kept) == 0 {
			s.t.Fatal("all points are forgotten, and there is still no room")
		}
		oldest := slices.Min(slices.Collect(maps.Keys(s.kept)))
		s.tight("forget", oldest)
		delete(s.kept, oldest)
		for more := true; more; { // packs are rewritten as far as there is room
			before := room(s.t, s.disk)
			more = s.tight("gc", "--max-delete", "1") && room(s.t, s.disk) > before+64<<10
		}
		if s.backup() {
			s.reserve(reserved)
			return
		}
	}
}

// TestFull fills the file system of a repository, several times, makes room and
// goes on:
//
//	go test -run 'TestFull$' -timeout 0 -v -args -fills 50
func TestFull(t *testing.T) {
	t.Parallel()
	seed := firstSeed(t)
	n, times, all := 1, 1, 3
	if *fills > 0 {
		n, times, all = *fills, 2, 1<<10
	}
	points, failures, most := 0, 0, int64(0)
	for i := range n {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := newFullStore(t, seed+uint64(i))
			for range times {
				for s.change(); s.backup(); s.change() {
				}
				s.sound("full", all)
				used := room(t, s.disk)
				for range 3 {
					s.backup() // an impatient user
				}
				if after := room(t, s.disk); used-after > 64<<10 {
					t.Errorf("three backups that failed took %d bytes", used-after)
				}
				s.makeRoom()
				s.sound("after making room", all)
			}
			most = max(most, s.lastBytes())
			points, failures = points+s.next-s.failures, failures+s.failures
		})
	}
	t.Logf("%d stores from seed %d filled: %d points, %d backups failed; forget and gc needed at most %d bytes", n, seed, points, failures, most)
}

// lastBytes takes the last byte of the store, and returns how many forget and
// gc need to succeed. Reading needs none.
func (s *fullStore) lastBytes() (free int64) {
	s.t.Helper()
	for s.change(); s.backup(); s.change() {
	}
	filler, err := os.Create(filepath.Join(s.disk, "filler"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer filler.Close()
	const page = 4096
	size := int64(0)
	for err == nil {
		var n int
		n, err = filler.Write(make([]byte, page))
		size += int64(n)
	}
	if left := room(s.t, s.disk); left > 0 || !errors.Is(err, syscall.ENOSPC) {
		s.t.Fatalf("%d bytes are left: %v", left, err)
	}
	s.backup()
	s.sound("without a byte of room", 1)
	oldest := slices.Min(slices.Collect(maps.Keys(s.kept)))
	for _, args := range [][]string{{"forget", oldest}, {"gc", "--max-delete", "1"}} {
		for {
			o := s.run(nil, args...)
			if o.code == exitOK {
				break
			}
			if o.code != exitFailure || !isFull(o.stderr) || free > 16*page {
				s.t.Fatalf("protectctl %q with %d bytes of room: exit status %d\n%s", args, free, o.code, o.stderr)
			}
			s.sound("after a failed "+args[0], 1)
			free += page
			if err := filler.Truncate(size - free); err != nil {
				s.t.Fatal(err)
			}
		}
		delete(s.kept, oldest)
	}
	s.sound("after making room with little", 2)
	return free
}

// requireReal does what internal/realtest does, which an example cannot import:
// where everything is said to be there, a test must not skip.
func requireReal(t *testing.T, ok bool, why string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("PROTECT_REQUIRE_REAL") == "1":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// TestFullTarget restores to where there is no room.
func TestFullTarget(t *testing.T) {
	t.Parallel()
	w := newRepository(t)
	w.write("data/small", "small")
	w.ok(nil, "backup", "--id", "small", w.path("data"))
	w.write("data/large", strings.Repeat("0123456789abcdef", 1<<17))
	for i := range 100 {
		w.write(fmt.Sprintf("data/many/%d", i), strings.Repeat(fmt.Sprint(i), 5000))
	}
	w.ok(nil, "backup", "--id", "large", w.path("data"))
	disk := w.tmpfs("disk", 1<<20)
	empty := room(t, disk)
	if err := os.Mkdir(filepath.Join(disk, "made"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"new", "made", "."} {
		stderr := w.fails(exitFailure, "restore", "large", filepath.Join(disk, target))
		if !strings.Contains(stderr, "no space left on device") || strings.Contains(stderr, "run gc") {
			t.Errorf("%s: %s", target, stderr)
		}
		if target == "made" {
			if err := os.Remove(filepath.Join(disk, target)); err != nil { // it is still there, and empty
				t.Error(err)
			}
		}
		left, err := os.ReadDir(disk)
		if target == "new" {
			left = slices.DeleteFunc(left, func(e fs.DirEntry) bool { return e.Name() == "made" })
		}
		if err != nil || len(left) > 0 || room(t, disk) != empty {
			t.Errorf("%s: left are %v and %d of %d bytes, %v", target, left, room(t, disk), empty, err)
		}
	}
	w.ok(nil, "restore", "small", filepath.Join(disk, "new"))
	if got := w.read("disk/new/small"); got != "small" {
		t.Errorf("restored %q", got)
	}
}

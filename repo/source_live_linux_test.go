// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/repo"
)

// swap runs change all the time until the test stops it.
func swap(t *testing.T, change func(i int)) (stop func() int64) {
	t.Helper()
	var n atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				change(i)
				n.Add(1)
			}
		}
	}()
	stop = func() int64 {
		select {
		case <-done:
		default:
			close(done)
		}
		<-ended
		return n.Load()
	}
	t.Cleanup(func() { stop() })
	return stop
}

// TestExchangedWhileReading replaces files and directories by symbolic links,
// pipes and each other while sessions read them. Nothing of outside must get
// into a point, no link be followed, and no session fail.
func TestExchangedWhileReading(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	put(t, outside, "file", []byte("OUTSIDE"))
	put(t, outside, "dir/file", []byte("OUTSIDE"))
	put(t, dir, "inside", []byte("INSIDE"))
	put(t, dir, "insidedir/x", []byte("INSIDE"))
	tmp := filepath.Join(t.TempDir(), "x") // the same file system, not in the volume
	victim, vdir := filepath.Join(dir, "victim"), filepath.Join(dir, "victimdir")
	makers := []func() error{
		func() error { return os.WriteFile(tmp, []byte("victim"), 0o600) },
		func() error { return os.Symlink(filepath.Join(outside, "file"), tmp) },
		func() error { return os.Symlink("inside", tmp) },
		func() error { return unix.Mkfifo(tmp, 0o600) },
	}
	dirMakers := []func() error{
		func() error {
			return errors.Join(os.Mkdir(vdir, 0o700), os.WriteFile(filepath.Join(vdir, "file"), []byte("victim"), 0o600))
		},
		func() error { return os.Symlink(filepath.Join(outside, "dir"), vdir) },
		func() error { return os.Symlink("insidedir", vdir) },
		func() error { return os.Symlink(".", vdir) },
		func() error { return os.WriteFile(vdir, []byte("victim"), 0o600) },
	}
	stop := swap(t, func(i int) {
		err := errors.Join(makers[i%len(makers)](), os.Rename(tmp, victim))
		err = errors.Join(err, os.RemoveAll(vdir), dirMakers[i%len(dirMakers)]())
		if err != nil {
			t.Error(err)
		}
	})
	r, b := newRepo(t)
	runs, seen := 0, map[string]int{}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && !t.Failed(); runs++ {
		p, err := tryWrite(t.Context(), r, fmt.Sprint(runs), dir)
		if err != nil {
			t.Errorf("session %d: %v", runs, err)
			continue
		}
		tr, err := r.Tree(t.Context(), p, "v")
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range tr.Entries(t.Context(), ".") {
			if err != nil {
				t.Fatal(err)
			}
			var content bytes.Buffer
			if e.Type == repo.File {
				if _, err := tr.WriteTo(t.Context(), &content, e); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(e.Path, "victim") {
				seen[e.Path+" "+e.Type.String()]++
			}
			switch got := content.String(); {
			case strings.Contains(got, "OUTSIDE"):
				t.Errorf("%s is from outside", e.Path)
			case e.Path == "victim" && got == "INSIDE" && e.Type == repo.File:
				t.Errorf("a link was followed")
			case strings.HasPrefix(e.Path, "victimdir/") && e.Path != "victimdir/file":
				t.Errorf("a link was followed to %s", e.Path)
			case e.Path == "inside" && got != "INSIDE":
				t.Errorf("%s: %q", e.Path, got)
			}
		}
	}
	swaps := stop()
	healthy(t, reopen(t, b), runs)
	t.Logf("%d sessions, %d swaps, seen: %v", runs, swaps, seen)
}

// TestVanishingDirectories removes and makes trees while sessions read them.
func TestVanishingDirectories(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a", []byte("stays"))
	put(t, dir, "z", []byte("stays"))
	stop := swap(t, func(i int) {
		sub := filepath.Join(dir, "m", fmt.Sprint(i%3))
		for n := range 5 {
			_ = os.MkdirAll(filepath.Join(sub, fmt.Sprint(n), "x"), 0o700)
			_ = os.WriteFile(filepath.Join(sub, fmt.Sprint(n), "f"), []byte("content"), 0o600)
			_ = os.Symlink("f", filepath.Join(sub, fmt.Sprint(n), "l"))
		}
		_ = os.RemoveAll(filepath.Join(dir, "m"))
	})
	r, b := newRepo(t)
	runs, skipped := 0, int64(0)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && !t.Failed(); runs++ {
		p, err := tryWrite(t.Context(), r, fmt.Sprint(runs), dir)
		if err != nil {
			t.Errorf("session %d: %v", runs, err)
			continue
		}
		skipped += p.Volumes[0].Skipped
		if got := contents(t, r, p); got["v/a"] == "" || got["v/z"] == "" {
			t.Errorf("session %d: %v", runs, got)
		}
	}
	stop()
	healthy(t, reopen(t, b), runs)
	t.Logf("%d sessions, %d entries vanished", runs, skipped)
}

// TestGrowingAndShrinkingFiles changes files while they are read: a session
// ends, and stores a prefix of something that was there.
func TestGrowingAndShrinkingFiles(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "growing", []byte("x"))
	put(t, dir, "shrinking", make([]byte, 1<<20))
	grow, err := os.OpenFile(filepath.Join(dir, "growing"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer grow.Close()
	line := bytes.Repeat([]byte("x"), 1<<16)
	stop := swap(t, func(i int) {
		_, _ = grow.Write(line)
		if i%50 == 0 {
			_ = grow.Truncate(1)
		}
		for _, size := range []int64{0, 5 << 20, 1, 100 << 10, 1 << 20, 200 << 10} {
			_ = os.Truncate(filepath.Join(dir, "shrinking"), size)
		}
	})
	r, b := newRepo(t)
	runs := 0
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && !t.Failed(); runs++ {
		p, err := tryWrite(t.Context(), r, fmt.Sprint(runs), dir)
		if err != nil {
			t.Errorf("session %d: %v", runs, err)
			continue
		}
		tr, err := r.Tree(t.Context(), p, "v")
		if err != nil {
			t.Fatal(err)
		}
		for name, fill := range map[string]string{"growing": "x\x00", "shrinking": "\x00"} {
			e, err := tr.Entry(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tr.WriteTo(t.Context(), only(fill), e); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	stop()
	healthy(t, reopen(t, b), runs)
	t.Logf("%d sessions", runs)
}

// only is a writer that takes no other bytes than its own.
type only string

func (o only) Write(p []byte) (int, error) {
	if i := slices.IndexFunc(p, func(c byte) bool { return strings.IndexByte(string(o), c) < 0 }); i >= 0 {
		return 0, fmt.Errorf("byte %d at %d", p[i], i)
	}
	return len(p), nil
}

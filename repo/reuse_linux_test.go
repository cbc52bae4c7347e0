// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// watch returns a function that tells which files of a directory were opened
// since it was last called.
func watch(tb testing.TB, dir string) func() map[string]bool {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		tb.Fatal(err)
	}
	return func() map[string]bool {
		opened := map[string]bool{}
		buf := make([]byte, 1<<16)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n <= 0 {
				return opened
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				size := int(binary.NativeEndian.Uint32(b[12:]))
				if binary.NativeEndian.Uint32(b[4:])&unix.IN_Q_OVERFLOW != 0 {
					tb.Fatal("too many files were opened")
				}
				if name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:][:size], "\x00")); name != "" {
					opened[name] = true
				}
				b = b[unix.SizeofInotifyEvent+size:]
			}
		}
	}
}

// age waits until the times of files tell later changes apart.
func age(tb testing.TB) {
	tb.Helper()
	select {
	case <-time.After(120 * time.Millisecond):
	case <-tb.Context().Done():
	}
}

// writeReuse stores a directory as volume "v" and returns how many bytes of files it
// read.
func writeReuse(ctx context.Context, r *repo.Repository, id, dir string, reuse repo.Reuse) (*repo.Point, int64, error) {
	var read int64
	p, err := r.Write(ctx, repo.WriteOptions{
		ID: id, Name: "app", Reuse: reuse,
		Progress: func(p repo.Progress) { read = p.Bytes },
	}, func(ctx context.Context, w *repo.Writer) error {
		w.FlushAfter(200 << 10)
		err := w.Put(ctx, "v", dir)
		w.WaitJournal()
		return err
	})
	return p, read, err
}

// mixture makes files of many sizes, in one directory.
func mixture(tb testing.TB, dir string) {
	tb.Helper()
	for i := range 40 {
		put(tb, dir, fmt.Sprintf("small %02d", i), random(uint64(i), 1+i*997%100_000))
	}
	for i := range 6 {
		put(tb, dir, fmt.Sprintf("large %02d", i), random(uint64(100+i), 150_000+i*500_000))
	}
	put(tb, dir, "empty", nil)
	if err := errors.Join(os.Truncate(filepath.Join(dir, "empty"), 0), os.Link(filepath.Join(dir, "small 03"), filepath.Join(dir, "z link")),
		unix.Setxattr(filepath.Join(dir, "small 07"), "user.a", []byte("x"), 0)); err != nil && !errors.Is(err, unix.ENOTSUP) {
		tb.Fatal(err)
	}
}

func TestReuse(t *testing.T) {
	for _, reuse := range []repo.Reuse{repo.ReuseNever, repo.ReuseByChangeTime, repo.ReuseByModTime} {
		t.Run(reuse.String(), func(t *testing.T) {
			dir := t.TempDir()
			mixture(t, dir)
			age(t)
			r, b := newRepo(t)
			opened := watch(t, dir)
			write := func(id, dir string) (*repo.Point, int64) {
				t.Helper()
				p, n, err := writeReuse(t.Context(), r, id, dir, reuse)
				if err != nil {
					t.Fatal(err)
				}
				return p, n
			}
			first, all := write("0", dir)
			if n := len(opened()); n < 46 || all != first.Stats.Bytes {
				t.Errorf("first: %d files opened, %d bytes read of %d", n, all, first.Stats.Bytes)
			}
			second, n := write("1", dir)
			switch files := opened(); {
			case reuse == repo.ReuseNever && (n != all || len(files) < 46):
				t.Errorf("%d bytes read", n)
			case reuse != repo.ReuseNever && (n != 0 || len(files) != 0):
				t.Errorf("unchanged: %d bytes read, opened %v", n, files)
			}
			if second.Stats.New != 0 || second.Stats.Bytes != first.Stats.Bytes {
				t.Errorf("unchanged: %+v", second.Stats)
			}
			// Changes of every sort, the times of some of which say nothing.
			put(t, dir, "small 01", random(1, 998)) // the same again
			put(t, dir, "small 02", []byte("changed"))
			if err := errors.Join(writeAt(filepath.Join(dir, "large 04"), []byte("changed"), 70_000),
				os.Rename(filepath.Join(dir, "small 05"), filepath.Join(dir, "small 06")),
				os.Chmod(filepath.Join(dir, "small 08"), 0o640)); err != nil {
				t.Fatal(err)
			}
			age(t)
			opened()
			third, _ := write("2", dir)
			files := opened()
			for _, name := range []string{"small 01", "small 02", "large 04", "small 06", "small 08"} {
				if !files[name] {
					t.Errorf("%s was not opened", name)
				}
			}
			if reuse != repo.ReuseNever && len(files) > 6 {
				t.Errorf("opened %v", files)
			}
			for id, p := range map[string]*repo.Point{"1": second, "2": third} {
				got := contents(t, reopen(t, b), p)
				if id == "2" {
					if diff := cmp.Diff(withoutLinks(onDisk(t, dir)), withoutLinks(got)); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
			}
			// A clone has new inodes and change times.
			clone := t.TempDir()
			cloneTree(t, dir, clone)
			opened = watch(t, clone)
			age(t)
			fourth, n := write("3", clone)
			if reuse == repo.ReuseByModTime && n > 2992 || // the link is a file now
				reuse == repo.ReuseByChangeTime && n == 0 {
				t.Errorf("clone: %d bytes read, opened %v", n, opened())
			}
			if diff := cmp.Diff(withoutLinks(onDisk(t, clone)), withoutLinks(contents(t, reopen(t, b), fourth))); diff != "" {
				t.Errorf("clone (-want +got):\n%s", diff)
			}
			healthy(t, reopen(t, b), 4)
		})
	}
}

// withoutLinks leaves out what onDisk takes for a file.
func withoutLinks(m map[string]string) map[string]string {
	delete(m, "v/z link")
	return m
}

// cloneTree copies the files of a directory with their modification times.
func cloneTree(tb testing.TB, from, to string) {
	tb.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range entries {
		info, err := d.Info()
		if err != nil {
			tb.Fatal(err)
		}
		name := filepath.Join(to, d.Name())
		data, err := os.ReadFile(filepath.Join(from, d.Name()))
		if err == nil {
			err = errors.Join(os.WriteFile(name, data, 0o600), os.Chmod(name, info.Mode()), os.Chtimes(name, info.ModTime(), info.ModTime()))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// TestYoungFiles: a file that changes right after it was read may keep its
// times, so that they are not trusted.
func TestYoungFiles(t *testing.T) {
	dir := t.TempDir()
	r, _ := newRepo(t)
	for i := range 30 {
		put(t, dir, "file", fmt.Append(nil, "content ", i%10))
		p, _, err := writeReuse(t.Context(), r, fmt.Sprint(i), dir, repo.ReuseByChangeTime)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(content(t, r, p, "file")); got != fmt.Sprint("content ", i%10) {
			t.Fatalf("generation %d has %q", i, got)
		}
	}
}

// TestResume kills a session at every store call. The next one does not open
// again what is in the journal, and the point is whole.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	mixture(t, dir)
	for i := range 20 {
		put(t, dir, fmt.Sprintf("more %02d", i), random(uint64(200+i), 100_000))
	}
	age(t)
	want := withoutLinks(onDisk(t, dir))
	base := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), base.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	opened := watch(t, dir)
	helped, most := 0, 0
	step := 1
	if !*long {
		step = 2
	}
	for i, more := 0, true; more; i += step {
		b := base.Clone(nil)
		// Two sessions die, then one comes to its end.
		for n := range 3 {
			var fault func(repotest.Op) repotest.Fault
			if n < 2 {
				fault = repotest.At(i, repotest.Fault{Action: repotest.Action(rand.IntN(2)), Kill: true})
			}
			process := b.Open(&repotest.Options{Fault: fault})
			r, err := repo.Open(t.Context(), process.Bucket(), key("secret"), &repo.Options{Attempts: 1})
			if err != nil {
				continue
			}
			done, err := reopen(t, b.Bucket()).Journaled(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			opened()
			p, _, err := writeReuse(t.Context(), r, "p", dir, repo.ReuseByChangeTime)
			calls := process.Calls()
			unread := i < len(calls) && kindOf(calls[i].Key) == "resume/" // it died while it read the journal
			for name := range opened() {
				if done[name] && n > 0 && !unread {
					t.Errorf("killed at call %d, session %d: %q was opened again", i, n, name)
				}
			}
			if len(done) > 0 {
				helped++
			}
			most = max(most, len(done))
			if n == 2 {
				if err != nil {
					t.Fatalf("killed at call %d: the last session: %v", i, err)
				}
				if diff := cmp.Diff(want, withoutLinks(contents(t, reopen(t, b.Bucket()), p))); diff != "" {
					t.Errorf("killed at call %d (-want +got):\n%s", i, diff)
				}
				for _, o := range verify(t, reopen(t, b.Bucket()), true).Damage {
					t.Errorf("killed at call %d: %+v", i, o)
				}
			} else if n == 0 {
				more = len(process.Calls()) > i
			}
		}
	}
	t.Logf("%d sessions found a journal, of up to %d files", helped, most)
	if helped == 0 || most < 30 {
		t.Error("no session found what another one had left")
	}
}

// TestResumeChanged changes files between a session that fails and the next.
func TestResumeChanged(t *testing.T) {
	dir := t.TempDir()
	mixture(t, dir)
	age(t)
	r, b := newRepo(t)
	boom := errors.New("boom")
	_, err := r.Write(t.Context(), repo.WriteOptions{ID: "p", Name: "app", Reuse: repo.ReuseByChangeTime}, func(ctx context.Context, w *repo.Writer) error {
		err := errors.Join(w.Put(ctx, "v", dir), w.PutStream(ctx, "w", strings.NewReader("x")), boom)
		w.WaitJournal()
		return err
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	put(t, dir, "small 02", []byte("changed"))
	put(t, dir, "large 03", random(1, 200_000))
	r = reopen(t, b)
	p, read, err := writeReuse(t.Context(), r, "p", dir, repo.ReuseByChangeTime)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(withoutLinks(onDisk(t, dir)), withoutLinks(contents(t, reopen(t, b), p))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if read > p.Stats.Bytes/2 {
		t.Errorf("%d bytes read of %d", read, p.Stats.Bytes)
	}
	// Another application does not see the journal.
	other, err := r.Write(t.Context(), repo.WriteOptions{ID: "q", Name: "other", Reuse: repo.ReuseByChangeTime}, func(ctx context.Context, w *repo.Writer) error {
		return w.Put(ctx, "v", dir)
	})
	if err != nil || other.Stats.Bytes != p.Stats.Bytes {
		t.Errorf("%+v, %v", other, err)
	}
}

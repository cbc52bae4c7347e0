// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/internal/realtest"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

// lab is a mounted file system in a loop file.
type lab struct {
	point string
	dir   *os.File // for probes and for the thaw at the end
}

// mountLab makes and mounts a file system of the given kind. It is thawed and
// unmounted when the test ends, however it ends.
func mountLab(t *testing.T, kind string) *lab {
	t.Helper()
	realtest.Require(t, os.Geteuid() == 0, "mounting needs root")
	size := map[string]int64{"ext4": 64 << 20, "xfs": 320 << 20}[kind]
	for _, program := range []string{"mkfs." + kind, "mount", "umount"} {
		_, err := exec.LookPath(program)
		realtest.Require(t, err == nil, program+" is missing")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs."+kind, "-q", image)
	point := filepath.Join(t.TempDir(), "mount")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-o", "loop", image, point).CombinedOutput()
	realtest.Require(t, err == nil, "cannot mount a loop file: "+string(out))
	dir, err := os.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = watchdog.ThawFS(dir)
		_ = dir.Close()
		// A watchdog that is about to end, or a writer, may hold it yet.
		for range 50 {
			if out, err = exec.Command("umount", point).CombinedOutput(); err == nil {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
		t.Errorf("umount: %v: %s", err, out)
	})
	return &lab{point: point, dir: dir}
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", argv, err, out)
	}
}

// frozen asks the kernel.
func (l *lab) frozen(context.Context) (bool, error) {
	err := watchdog.FreezeFS(l.dir)
	if errors.Is(err, watchdog.ErrBusy) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// On a busy machine a watchdog whose parent has thawed in its place comes
	// late, and thaws what we froze: it has the lock, and we do not ask for it.
	if err := watchdog.ThawFS(l.dir); !errors.Is(err, watchdog.ErrNotFrozen) {
		return false, err
	}
	return false, nil
}

// thawedWithin waits until the file system can be written to.
func (l *lab) thawedWithin(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(filepath.Join(l.point, "probe"), []byte("x"), 0o600) }()
	select {
	case err := <-wrote:
		if err != nil {
			t.Errorf("write after the thaw: %v", err)
		}
		return time.Since(began)
	case <-time.After(limit):
		t.Errorf("not writable within %v; the watchdogs are: %s", limit, watchdogs())
		_ = watchdog.ThawFS(l.dir)
		t.Logf("the write ended with: %v", <-wrote)
		return limit
	}
}

// watchdogs says what the kernel does for all watchdogs of this machine.
func watchdogs() string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		cmdline, err := os.ReadFile(path)
		if err != nil || !strings.HasSuffix(string(cmdline), "\x00"+watchdog.Arg+"\x00") {
			continue
		}
		tasks, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "task", "*", "stack"))
		for _, task := range tasks {
			stack, _ := os.ReadFile(task)
			out = append(out, fmt.Sprintf("%s: %s", task, stack))
		}
	}
	return strings.Join(out, "\n")
}

// writer appends to a file until the test ends, and counts.
func (l *lab) writer(t *testing.T) *atomic.Int64 {
	t.Helper()
	f, err := os.Create(filepath.Join(l.point, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		defer f.Close()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := f.WriteAt([]byte("line\n"), n.Load()%4096); err != nil {
				t.Errorf("writer: %v", err)
				return
			}
			n.Add(1)
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		_ = watchdog.ThawFS(l.dir) // it may be blocked
		<-stopped
	})
	return &n
}

func quiescer(t *testing.T, l *lab) *fsfreeze.Quiescer {
	t.Helper()
	q, err := fsfreeze.New(l.point, &fsfreeze.Options{Helper: []string{executable(t)}, Env: []string{"GORACE=atexit_sleep_ms=0"}})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

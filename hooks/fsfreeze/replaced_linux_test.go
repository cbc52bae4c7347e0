// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

// TestReplacedMeanwhile puts another file system in the place of the one that
// is frozen: whoever cuts by the path cuts the other one.
func TestReplacedMeanwhile(t *testing.T) {
	replace := map[string]func(*testing.T, *lab){
		"mounted over": func(t *testing.T, l *lab) {
			run(t, "mount", "-t", "tmpfs", "none", l.point)
		},
		"unmounted": func(t *testing.T, l *lab) {
			run(t, "umount", "--lazy", l.point)
		},
	}
	for name, replace := range replace {
		t.Run(name, func(t *testing.T) {
			l := mountLab(t, "ext4")
			bind := l.bind(t, l.point) // keeps the file system mounted
			g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}}, &hooks.GroupOptions{Journal: hooks.NewMemJournal()})
			if err != nil {
				t.Fatal(err)
			}
			report, err := g.Do(t.Context(), "id", func(context.Context) error {
				replace(t, l)
				return nil
			})
			if name == "unmounted" {
				run(t, "mount", "--bind", bind, l.point) // for the cleanup
			} else {
				run(t, "umount", l.point)
			}
			if err != nil || report.Proven() || len(report.Doubts()) == 0 {
				t.Errorf("error %v, doubts %q: want a report that proves nothing", err, report.Doubts())
			}
			l.thawedWithin(t, time.Second)
		})
	}
}

// bind mounts what is at path in another place, too.
func (l *lab) bind(t *testing.T, path string) string {
	t.Helper()
	point := filepath.Join(t.TempDir(), "bind")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "--bind", path, point)
	t.Cleanup(func() {
		_ = watchdog.ThawFS(l.dir)
		run(t, "umount", "--lazy", point)
	})
	return point
}

// TestBindMounts shows that one file system has one lock, wherever it is
// mounted, and that a part of it has none.
func TestBindMounts(t *testing.T) {
	l := mountLab(t, "ext4")
	inside := filepath.Join(l.point, "part")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	at := func(path string) *fsfreeze.Quiescer {
		q, err := fsfreeze.New(path, &fsfreeze.Options{Helper: []string{executable(t)}})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	part := at(l.bind(t, inside))
	if err := part.Prepare(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Prepare of a part: error %v, want errors.ErrUnsupported", err)
	}
	if _, err := part.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Second}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Quiesce of a part: error %v, want errors.ErrUnsupported", err)
	}

	whole := at(l.bind(t, l.point))
	if err := whole.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := watchdog.TryLock(l.dir); err != nil || !ok { // as one who comes late
		t.Fatalf("lock: %t, error %v", ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := whole.Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Second}); !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("Quiesce in another place beside somebody who has the lock: error %v, want hooks.ErrForeignFreeze", err)
	}
}

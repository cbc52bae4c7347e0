// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
)

func intent(id string) hooks.Intent {
	return hooks.Intent{
		Application: "app", ID: id, Members: []string{"db", "fs"},
		Window: 10 * time.Second, Began: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func openJournal(t *testing.T, dir string) *hooks.DirJournal {
	t.Helper()
	j, err := hooks.OpenDirJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func begin(t *testing.T, j hooks.Journal, id string) hooks.Epoch {
	t.Helper()
	epoch, err := j.Begin(t.Context(), intent(id))
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

func TestJournals(t *testing.T) {
	dir := t.TempDir()
	mem := hooks.NewMemJournal()
	tests := map[string]func() hooks.Journal{ // each call is a new process
		"mem": func() hooks.Journal { return mem },
		"dir": func() hooks.Journal { return openJournal(t, dir) },
	}
	for name, open := range tests {
		t.Run(name, func(t *testing.T) {
			if got := begin(t, open(), "one"); got != 1 {
				t.Errorf("first epoch %d, want 1", got)
			}
			if got := begin(t, open(), "two"); got != 2 {
				t.Errorf("second epoch %d, want 2", got)
			}
			pending, err := open().Pending(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := []hooks.Intent{intent("one"), intent("two")}
			want[0].Epoch, want[1].Epoch = 1, 2
			if diff := cmp.Diff(want, pending); diff != "" {
				t.Errorf("pending (-want +got):\n%s", diff)
			}
			// Epochs go on after the end, in any order, and twice.
			for _, epoch := range []hooks.Epoch{2, 1, 1, 2, 99} {
				if err := open().End(t.Context(), epoch); err != nil {
					t.Fatal(err)
				}
			}
			for want := hooks.Epoch(3); want < 40; want++ {
				got := begin(t, open(), "more")
				if got != want {
					t.Fatalf("epoch %d, want %d", got, want)
				}
				if err := open().End(t.Context(), got); err != nil {
					t.Fatal(err)
				}
			}
			if pending, err = open().Pending(t.Context()); err != nil || len(pending) > 0 {
				t.Errorf("pending %v, error %v", pending, err)
			}
			bad := intent("bad")
			bad.Members = []string{"../x"}
			if _, err := open().Begin(t.Context(), bad); err == nil {
				t.Error("an intent with a bad member is accepted")
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := open().Begin(ended, intent("x")); !errors.Is(err, context.Canceled) {
				t.Errorf("Begin with an ended context: %v", err)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 20 {
		t.Errorf("%d files are left (error %v)", len(entries), err)
	}
}

// TestDirJournalConcurrent lets many handles fight for epochs: none is given
// out twice, also not after its end.
func TestDirJournalConcurrent(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var all []hooks.Epoch
	var wg sync.WaitGroup
	for range 8 {
		j := openJournal(t, dir)
		wg.Go(func() {
			var own hooks.Epoch
			for range 12 {
				epoch, err := j.Begin(t.Context(), intent("x"))
				if err != nil {
					t.Error(err)
					return
				}
				if epoch <= own {
					t.Errorf("epoch %d after %d", epoch, own)
				}
				own = epoch
				mu.Lock()
				all = append(all, epoch)
				mu.Unlock()
				if err := j.End(t.Context(), epoch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); n != 96 {
		t.Errorf("%d different epochs of 96: %v", n, all)
	}
	if pending, err := openJournal(t, dir).Pending(t.Context()); err != nil || len(pending) > 0 {
		t.Errorf("pending %v, error %v", pending, err)
	}
}

// TestDirJournalBadFiles shows that a malformed intent is reported by name,
// hides no other intent, and is not overwritten.
func TestDirJournalBadFiles(t *testing.T) {
	good := `{"version":1,"epoch":5,"application":"app","id":"x","members":["a"],"window":"10s","began":"2026-01-02T03:04:05Z"}`
	tests := map[string]struct {
		data string
		want string
	}{
		"good":          {good, ""},
		"empty":         {"", "malformed"},
		"truncated":     {good[:40], "malformed"},
		"trailing":      {good + "{}", "malformed"},
		"unknown field": {strings.Replace(good, `"id"`, `"x":1,"id"`, 1), "malformed"},
		"newer":         {strings.Replace(good, `"version":1`, `"version":2,"extra":1`, 1), "version 2"},
		"other epoch":   {strings.Replace(good, `"epoch":5`, `"epoch":6`, 1), "epoch 6"},
		"no members":    {strings.Replace(good, `["a"]`, `[]`, 1), "0 members"},
		"bad member":    {strings.Replace(good, `["a"]`, `["a/b"]`, 1), "member name"},
		"bad window":    {strings.Replace(good, `10s`, `10h`, 1), "window"},
		"huge":          {good + strings.Repeat(" ", 20<<10), "more than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := openJournal(t, dir)
			begin(t, j, "one")
			path := filepath.Join(dir, "intent-00000000000000000005")
			files := map[string]string{
				path: test.data, filepath.Join(dir, "intent-5"): "x", filepath.Join(dir, "README"): "x",
				filepath.Join(dir, "intent-0000000000000000000x"): "x",
			}
			for path, data := range files {
				if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			pending, err := j.Pending(t.Context())
			want := 1
			if test.want == "" {
				want = 2
			}
			if len(pending) != want {
				t.Errorf("%d intents are pending, want %d", len(pending), want)
			}
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "00005")):
				t.Errorf("error %v, want one with the file and %q", err, test.want)
			}
			if got := begin(t, j, "next"); got != 6 {
				t.Errorf("next epoch %d, want 6", got)
			}
		})
	}
}

func TestUnreadableJournalPreventsFreeze(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "intent-00000000000000000005"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	q := &finalThaw{}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "a", Quiescer: q}}, &hooks.GroupOptions{Journal: openJournal(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), "id", func(context.Context) error { return nil }); err == nil || q.calls > 0 {
		t.Errorf("error %v, %d thaws: want no freeze without a readable journal", err, q.calls)
	}
}

func TestOpenDirJournalRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, filepath.Join(file, "x"), filepath.Join(t.TempDir(), "a", "b")} {
		if _, err := hooks.OpenDirJournal(dir); err == nil {
			t.Errorf("OpenDirJournal(%q): no error", dir)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
)

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	keep := postgres.Directory(dir)
	const name = "000000010000000000000002"
	put := func(size int64, content string) error {
		return keep.Keep(t.Context(), name, size, strings.NewReader(content))
	}
	if err := put(4, "abc"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short content: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
	for range 2 { // from two backups of one server
		if err := put(3, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"abd", "ab", "abcd", ""} {
		if err := put(int64(len(other)), other); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%q over another history: %v", other, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "abc" {
		t.Errorf("the segment that older points need is %q, %v", b, err)
	}
	if err := (postgres.Archive{}).Keep(t.Context(), name, 0, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Archive: %v", err)
	}
}

// TestStaging takes two backups: the directory has the WAL of the latest.
func TestStaging(t *testing.T) {
	dir := t.TempDir()
	const old, other = "000000010000000000000001", "notes"
	for _, name := range []string{old, other} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q, err := postgres.NewBackup(sql.OpenDB(&fakeServer{version: 150018, granted: true, pid: 42}), postgres.Staging(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := q.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if names := listed(t, dir); !slices.Equal(names, []string{other}) {
			t.Errorf("prepared, there is %q", names)
		}
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		if names := listed(t, dir); !slices.Equal(names, []string{"000000010000000000000002", "000000010000000000000003", other}) {
			t.Errorf("thawed, there is %q", names)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the directory: %v", err)
	}
}

func listed(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

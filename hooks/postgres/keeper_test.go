// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// SPDX-License-Identifier: Apache-2.0

package innodb_test

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// redo returns the header of a redo log in the format of some version, with two
// checkpoints; bad makes their checksums wrong.
func redo(format uint32, first, second uint64, bad bool) []byte {
	b := make([]byte, 3*4096)
	binary.BigEndian.PutUint32(b, format)
	copy(b[16:], "MariaDB 10.11.19")
	at, size, lsn := []int{4096, 8192}, 64, 0
	if format&^(1<<31) != 0x50687973 {
		at, size, lsn = []int{512, 3 * 512}, 512, 8
	}
	for i, n := range []uint64{first, second} {
		block := b[at[i] : at[i]+size]
		binary.BigEndian.PutUint64(block[lsn:], n)
		sum := crc32.Checksum(block[:size-4], crc32.MakeTable(crc32.Castagnoli))
		if bad {
			sum++
		}
		binary.BigEndian.PutUint32(block[size-4:], sum)
	}
	return b
}

func TestReadRedo(t *testing.T) {
	for name, tt := range map[string]struct {
		content []byte
		want    uint64 // 0: an error
	}{
		"10.8":       {redo(0x50687973, 5000, 4000, false), 5000},
		"encrypted":  {redo(0x50687973|1<<31, 5000, 6000, false), 6000},
		"10.5":       {redo(0x50485953, 5000, 7000, false), 7000},
		"10.4":       {redo(104, 8000, 7000, false), 8000},
		"torn":       {redo(0x50687973, 5000, 4000, true), 0},
		"older torn": {redo(0x50485953, 5000, 4000, true), 0},
		"unknown":    {redo(0x12345678, 5000, 4000, false), 0},
		"short":      {[]byte("Phys"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ib_logfile0")
			if err := os.WriteFile(file, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := innodb.ReadRedo(file)
			if tt.want == 0 {
				if err == nil {
					t.Errorf("read as %+v", r)
				}
				return
			}
			if err != nil || r.Checkpoint != tt.want || r.Creator != "MariaDB 10.11.19" {
				t.Errorf("%+v, %v; want checkpoint %d", r, err, tt.want)
			}
		})
	}
}

// page is one page of 4 KiB.
func page(space, number uint32, lsn uint64) []byte {
	b := make([]byte, 4096)
	binary.BigEndian.PutUint32(b[4:], number)
	binary.BigEndian.PutUint64(b[16:], lsn)
	binary.BigEndian.PutUint32(b[34:], space)
	return b
}

func TestSpacesAndPages(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ibdata1":           slices.Concat(page(0, 0, 10), page(0, 1, 30), make([]byte, 4096)),
		"shop/orders.ibd":   slices.Concat(page(7, 0, 20), page(7, 1, 70), page(7, 9, 1000), []byte("half a page")),
		"shop/#sql-1.ibd":   page(8, 0, 5),
		"ibtmp1":            page(9, 0, 2000), // temporary
		"shop/journal.MYD":  page(9, 0, 2000), // of another engine
		"undo001":           page(3, 0, 60),
		"shop/too_new.ibd2": page(3, 0, 2000),
	} {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spaces, numbered, err := innodb.Spaces(t.Context(), dir)
	if err != nil || !numbered {
		t.Fatalf("numbered %t, %v", numbered, err)
	}
	if diff := cmp.Diff(map[string]uint32{"shop/orders.ibd": 7}, spaces); diff != "" {
		t.Errorf("spaces (-want +got):\n%s", diff)
	}
	pages, err := innodb.ScanPages(t.Context(), 4096, dir)
	want := &innodb.Pages{Newest: 70, In: filepath.Join(dir, "shop", "orders.ibd"), Count: 6}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, pages); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	// A new table whose header is in the redo log only has no number yet.
	if err := os.WriteFile(filepath.Join(dir, "shop", "new.ibd"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, numbered, err = innodb.Spaces(t.Context(), dir); err != nil || numbered {
		t.Errorf("with a new table: numbered %t, %v", numbered, err)
	}
	other := map[string]uint32{"shop/orders.ibd": 8}
	if innodb.Digest(spaces) == innodb.Digest(other) || innodb.DigestNames(spaces) != innodb.DigestNames(other) {
		t.Error("a digest has the numbers, and that of names has not")
	}
}

func TestDirs(t *testing.T) {
	s := innodb.Settings{
		"datadir": "/data/", "log_bin": "ON", "log_bin_basename": "/logs/bin", "innodb_undo_directory": "./undo",
		"innodb_log_group_home_dir": "/redo/", "innodb_data_home_dir": "", "aria_log_dir_path": "/data",
	}
	if diff := cmp.Diff(map[string]string{"log_bin": "/logs", "innodb_log_group_home_dir": "/redo"}, s.Dirs()); diff != "" {
		t.Errorf("dirs (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		volumes []string
		want    []string // words
	}{
		{nil, []string{"/redo", "/logs"}},
		{[]string{"/data", "/redo"}, []string{"/logs"}},
		{[]string{"/redo", "/logs"}, []string{`"/data"`}},
		{[]string{"/"}, nil},
		{[]string{"/dat", "/data", "/redo", "/logs"}, nil},
	} {
		got := s.Outside(innodb.Needs{Volumes: tt.volumes})
		if len(got) != len(tt.want) {
			t.Errorf("%v: %q", tt.volumes, got)
		}
		for i, word := range tt.want[:min(len(tt.want), len(got))] {
			if !strings.Contains(got[i], word) {
				t.Errorf("%v: %q does not name %s", tt.volumes, got[i], word)
			}
		}
	}
	if _, err := innodb.CleanVolumes([]string{"relative"}); err == nil {
		t.Error("a relative volume is accepted")
	}
}

func TestReaches(t *testing.T) {
	for _, tt := range []struct {
		now, before string
		want        bool
	}{
		{"0-1-270", "0-1-270", true},
		{"0-2-271", "0-1-270", true},
		{"0-1-9,5-1-3", "5-1-3", true},
		{"", "", true},
		{"0-1-1", "", true},
		{"0-1-269", "0-1-270", false},
		{"", "0-1-1", false},
		{"0-1-270", "0-1-270,1-1-1", false},
		{"nonsense", "", false},
		{"0-1-2", "0-1", false},
		{"0-1-x", "", false},
	} {
		if err := innodb.Reaches(tt.now, tt.before); (err == nil) != tt.want {
			t.Errorf("%q reaches %q: %v, want %t", tt.now, tt.before, err, tt.want)
		}
	}
}

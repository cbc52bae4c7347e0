// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
)

// backupEvidence is that of fakeLabel, with changes.
func backupEvidence(changes map[string]any) hooks.Evidence {
	info := map[string]any{
		"format": 1, "method": "backup", "server_version": 150018, "system": fakeSystem, "timeline": 1, "start": "0/200028", "stop": "0/380000",
		"checkpoint": "0/200060", "wal_segment_size": fakeSegment, "block_size": 8192, "superuser": "postgres", "checksums": true,
	}
	maps.Copy(info, changes)
	b, err := json.Marshal(info)
	if err != nil {
		panic(err)
	}
	return hooks.Evidence{"postgres.json": b, "backup_label": []byte(fakeLabel)}
}

// fakeData makes what PrepareRestore looks at in a data directory.
func fakeData(t *testing.T, checkpoint uint64, state uint32) string {
	t.Helper()
	dir := t.TempDir()
	b := make([]byte, 8192)
	binary.LittleEndian.PutUint64(b, 7711388328249803370)
	binary.LittleEndian.PutUint32(b[8:], 1300)
	binary.LittleEndian.PutUint32(b[16:], state)
	binary.LittleEndian.PutUint64(b[32:], checkpoint)
	binary.LittleEndian.PutUint64(b[40:], checkpoint-0x38)
	binary.LittleEndian.PutUint32(b[48:], 1)
	binary.LittleEndian.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	for name, text := range map[string]string{
		"PG_VERSION": "15\n", "global/pg_control": string(b), "postmaster.pid": "1", "postmaster.opts": "", "standby.signal": "",
		"pg_replslot/old/state": "x", "pg_wal/000000010000000000000002": "cut too early", "pg_wal/00000001.history": "", "pg_tblspc/none": "",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeKept() fstest.MapFS {
	kept := fstest.MapFS{}
	for _, name := range []string{"000000010000000000000002", "000000010000000000000003"} {
		kept[name] = &fstest.MapFile{Data: fakeWAL("pg_wal/"+name, fakeSegment)}
	}
	return kept
}

func TestPrepareRestore(t *testing.T) {
	dir := fakeData(t, 0x200060, 6)
	for range 2 { // again is fine
		if _, err := postgres.PrepareRestore(t.Context(), dir, backupEvidence(nil), &postgres.RestoreOptions{WAL: fakeKept()}); err != nil {
			t.Fatal(err)
		}
	}
	for _, gone := range []string{"postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal", "pg_replslot/old", "tablespace_map"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "backup_label")); err != nil || string(b) != fakeLabel {
		t.Errorf("backup_label %q, %v", b, err)
	}
	for _, name := range []string{"000000010000000000000002", "000000010000000000000003"} {
		if info, err := os.Stat(filepath.Join(dir, "pg_wal", name)); err != nil || info.Size() != fakeSegment {
			t.Errorf("segment %s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "pg_wal", "00000001.history")); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 && os.PathSeparator == '/' {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestPrepareRestoreArchive writes what the server needs to ask an archive.
func TestPrepareRestoreArchive(t *testing.T) {
	dir := fakeData(t, 0x200060, 6)
	opts := &postgres.RestoreOptions{RestoreCommand: `cp '/archive/%f' "%p"`}
	for range 2 {
		if _, err := postgres.PrepareRestore(t.Context(), dir, backupEvidence(nil), opts); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
	if want := `restore_command = 'cp ''/archive/%f'' "%p"'` + "\n"; err != nil || string(b) != want {
		t.Errorf("postgresql.auto.conf %q, %v; want %q", b, err, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "recovery.signal")); err != nil {
		t.Error(err)
	}
}

// TestPrepareRestoreTablespaces leads them to where they were restored to.
func TestPrepareRestoreTablespaces(t *testing.T) {
	dir, space := fakeData(t, 0x200060, 6), t.TempDir()
	evidence := backupEvidence(map[string]any{"tablespaces": map[string]string{"16400": "/srv/space"}})
	for name, spaces := range map[string]map[string]string{"none": nil, "relative": {"16400": "space"}, "another": {"16400": space, "1": space}} {
		if _, err := postgres.PrepareRestore(t.Context(), dir, evidence, &postgres.RestoreOptions{WAL: fakeKept(), Tablespaces: spaces}); err == nil || !strings.Contains(err.Error(), "tablespace") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "postmaster.pid")); err != nil {
		t.Errorf("a restore that was refused has changed the files: %v", err)
	}
	if _, err := postgres.PrepareRestore(t.Context(), dir, evidence, &postgres.RestoreOptions{WAL: fakeKept(), Tablespaces: map[string]string{"16400": space}}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "pg_tblspc", "16400")); err != nil || to != space {
		t.Errorf("link to %q, %v", to, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "tablespace_map")); err != nil || !strings.HasPrefix(string(b), "16400 ") {
		t.Errorf("tablespace_map %q, %v", b, err)
	}
}

// TestPrepareRestoreRefuses gives it what does not belong together. The files
// stay as they are.
func TestPrepareRestoreRefuses(t *testing.T) {
	short, foreign, missing := fakeKept(), fakeKept(), fakeKept()
	short["000000010000000000000003"].Data = short["000000010000000000000003"].Data[:1000]
	foreign["000000010000000000000002"].Data = fakeWAL("pg_wal/000000010000000000000009", fakeSegment) // recycled
	delete(missing, "000000010000000000000003")
	tests := map[string]struct {
		changes    map[string]any
		checkpoint uint64
		state      uint32
		wal        fs.FS
		spoil      string // file to overwrite
	}{
		"no WAL":              {},
		"WAL of all time":     {changes: map[string]any{"stop": "FFFFFFFF/FFFFFFFF"}, wal: fakeKept()},
		"WAL with a gap":      {wal: missing},
		"short WAL":           {wal: short},
		"recycled WAL":        {wal: foreign},
		"other system":        {changes: map[string]any{"system": "1"}, wal: fakeKept()},
		"other version":       {changes: map[string]any{"server_version": 140000}, wal: fakeKept()},
		"other timeline":      {changes: map[string]any{"timeline": 2}, wal: fakeKept()},
		"other start":         {changes: map[string]any{"start": "0/200030"}, wal: fakeKept()},
		"unknown format":      {changes: map[string]any{"format": 2}, wal: fakeKept()},
		"unknown method":      {changes: map[string]any{"method": "hope"}, wal: fakeKept()},
		"cut too early":       {checkpoint: 0x100060, wal: fakeKept()},
		"cut too late":        {checkpoint: 0x400000, wal: fakeKept()},
		"started since":       {state: 1, wal: fakeKept()},
		"torn pg_control":     {spoil: "global/pg_control", wal: fakeKept()},
		"not a data dir":      {spoil: "PG_VERSION", wal: fakeKept()},
		"atomic, WAL is torn": {changes: map[string]any{"method": "atomic"}},
		"atomic with WAL":     {changes: map[string]any{"method": "atomic"}, wal: fakeKept()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.checkpoint == 0 {
				tt.checkpoint = 0x200060
			}
			if tt.state == 0 {
				tt.state = 6
			}
			dir := fakeData(t, tt.checkpoint, tt.state)
			if tt.spoil != "" {
				b, err := os.ReadFile(filepath.Join(dir, tt.spoil))
				if err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1
				if err := os.WriteFile(filepath.Join(dir, tt.spoil), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := postgres.PrepareRestore(t.Context(), dir, backupEvidence(tt.changes), &postgres.RestoreOptions{WAL: tt.wal})
			if !errors.Is(err, postgres.ErrInconsistent) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("error %v, want ErrInconsistent", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "postmaster.pid")); err != nil {
				t.Errorf("the files were changed: %v", err)
			}
		})
	}
}

func TestLSN(t *testing.T) {
	for text, want := range map[string]postgres.LSN{"0/0": 0, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		got, err := postgres.ParseLSN(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "/", "0/", "1/1/1", "G/0", "100000000/0"} {
		if l, err := postgres.ParseLSN(text); err == nil {
			t.Errorf("%q is read as %v", text, l)
		}
	}
}

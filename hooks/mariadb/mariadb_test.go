// SPDX-License-Identifier: Apache-2.0

package mariadb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/mariadb"
)

// noServer is a connector to nothing.
type noServer struct{}

func (noServer) Connect(context.Context) (driver.Conn, error) { return nil, errors.New("no server") }
func (noServer) Driver() driver.Driver                        { return nil }

func TestNew(t *testing.T) {
	db := sql.OpenDB(noServer{})
	for name, make := range map[string]func(*sql.DB, *mariadb.Options) (*mariadb.Quiescer, error){
		"atomic": mariadb.NewAtomic, "backup": mariadb.NewBackup, "still": mariadb.NewStill,
	} {
		t.Run(name, func(t *testing.T) {
			for what, err := range map[string]error{
				"nil database": second(make(nil, nil)),
				"volume":       second(make(db, &mariadb.Options{Volumes: []string{"relative"}})),
				"statement":    second(make(db, &mariadb.Options{MaxStatement: -time.Second})),
			} {
				if err == nil {
					t.Errorf("%s: no error", what)
				}
			}
			q, err := make(db, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: name != "still"}
			if got := q.Traits(); got != want {
				t.Errorf("traits %+v, want %+v", got, want)
			}
			if err := q.Prepare(t.Context()); err == nil {
				t.Error("Prepare without a server succeeds")
			}
		})
	}
}

func second(_ *mariadb.Quiescer, err error) error { return err }

// fakeData is as much of a data directory as PrepareRestore looks at, with the
// checkpoint 5000.
func fakeData(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	redo := make([]byte, 3*4096)
	copy(redo, "Phys")
	binary.BigEndian.PutUint64(redo[4096:], 5000)
	binary.BigEndian.PutUint32(redo[4096+60:], crc32.Checksum(redo[4096:4096+60], crc32.MakeTable(crc32.Castagnoli)))
	for name, content := range map[string][]byte{
		"ib_logfile0": redo, "mysql/db.frm": nil, "bin.000003": make([]byte, 500), "ibtmp1": nil, "mysql/#sql-1.MYD": nil, "mysql/#sql-2.ibd": make([]byte, 100),
	} {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeEvidence(t *testing.T, changes map[string]any) hooks.Evidence {
	t.Helper()
	fields := map[string]any{
		"format": 1, "method": "atomic", "version": "10.11.19-MariaDB", "checkpoint_lsn": 4000, "start_lsn": 5500, "stop_lsn": 6000, "page_size": 16384,
		"binlog_file": "bin.000003", "binlog_pos": 400, "binlog_name": "bin", "binlog_index": "bin.index",
	}
	maps.Copy(fields, changes)
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return hooks.Evidence{"mariadb.json": b}
}

func TestPrepareRestore(t *testing.T) {
	dir := fakeData(t)
	for range 2 { // it is idempotent
		if _, err := mariadb.PrepareRestore(t.Context(), dir, fakeEvidence(t, nil), nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"ibtmp1": false, "mysql/#sql-1.MYD": false, "mysql/#sql-2.ibd": true, "mysql/db.frm": true} {
		if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", name, err == nil, want)
		}
	}
}

func TestPrepareRestoreRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		changes map[string]any
		spoil   func(dir string) error
	}{
		"cut too early":     {changes: map[string]any{"checkpoint_lsn": 5001}},
		"cut too late":      {changes: map[string]any{"checkpoint_lsn": 4000, "start_lsn": 4500, "stop_lsn": 4999}},
		"unknown format":    {changes: map[string]any{"format": 2}},
		"unknown method":    {changes: map[string]any{"method": "hope"}},
		"time runs back":    {changes: map[string]any{"stop_lsn": 5400}},
		"odd pages":         {changes: map[string]any{"page_size": 5000}},
		"short binary log":  {changes: map[string]any{"binlog_pos": 501}},
		"other binary log":  {changes: map[string]any{"binlog_file": "bin.000004"}},
		"binlog climbs out": {changes: map[string]any{"binlog_file": "../bin.000003"}},
		"tablespaces":       {changes: map[string]any{"tablespace_names": "x", "tablespaces": "x"}},
		"no redo log":       {spoil: func(dir string) error { return os.Remove(filepath.Join(dir, "ib_logfile0")) }},
		"no data directory": {spoil: func(dir string) error { return os.RemoveAll(filepath.Join(dir, "mysql")) }},
		"link":              {spoil: func(dir string) error { return os.Symlink("/", filepath.Join(dir, "shop")) }},
		"tablespace leads away": {spoil: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "mysql", "t.isl"), []byte("/far/t.ibd"), 0o600)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fakeData(t)
			if tt.spoil != nil {
				if err := tt.spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := mariadb.PrepareRestore(t.Context(), dir, fakeEvidence(t, tt.changes), nil); !errors.Is(err, mariadb.ErrInconsistent) {
				t.Errorf("error %v, want ErrInconsistent", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "ibtmp1")); err != nil {
				t.Errorf("the files were changed: %v", err)
			}
		})
	}
}

func TestPrepareRestoreDirs(t *testing.T) {
	dir := fakeData(t)
	logs := t.TempDir()
	if err := os.Rename(filepath.Join(dir, "ib_logfile0"), filepath.Join(logs, "ib_logfile0")); err != nil {
		t.Fatal(err)
	}
	evidence := fakeEvidence(t, map[string]any{"dirs": map[string]string{"innodb_log_group_home_dir": "/srv/logs"}})
	for name, dirs := range map[string]map[string]string{
		"not named": nil, "relative": {"innodb_log_group_home_dir": "logs"}, "one too many": {"innodb_log_group_home_dir": logs, "log_bin": logs},
	} {
		if _, err := mariadb.PrepareRestore(t.Context(), dir, evidence, &mariadb.RestoreOptions{Dirs: dirs}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := mariadb.PrepareRestore(t.Context(), dir, evidence, &mariadb.RestoreOptions{Dirs: map[string]string{"innodb_log_group_home_dir": logs}}); err != nil {
		t.Error(err)
	}
	if _, err := mariadb.Verify(t.Context(), "/usr/bin", dir, nil); err == nil {
		t.Error("Verify without Info is accepted")
	}
}

// TestHostileSettings has evidence with settings that Verify would give to a
// server: one loads a library, one leads elsewhere.
func TestHostileSettings(t *testing.T) {
	parse := func(settings map[string]string) error {
		b, err := json.Marshal(map[string]any{
			"format": 1, "method": "backup", "start_lsn": 2, "stop_lsn": 2, "checkpoint_lsn": 1, "page_size": 16384, "settings": settings,
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = mariadb.ParseEvidence(hooks.Evidence{"mariadb.json": b})
		return err
	}
	if err := parse(map[string]string{"innodb_page_size": "16384", "innodb_data_file_path": "ibdata1:12M;ibdata2:10M:autoextend:max:1G"}); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"plugin-load-add": "evil.so", "init-file": "x", "innodb_data_file_path": "ibdata1:12M;/etc/passwd:1M", "lower_case_table_names": "0 --init-file=x",
	} {
		if err := parse(map[string]string{name: value}); !errors.Is(err, mariadb.ErrInconsistent) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

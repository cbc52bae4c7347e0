// SPDX-License-Identifier: Apache-2.0

package mysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/hooks/mysql"
)

func oldTable() [][]driver.Value {
	return [][]driver.Value{{"shop", "old", "MyISAM"}}
}

func newBackup(t *testing.T, f *fakeServer, opts *mysql.Options) *mysql.Quiescer {
	t.Helper()
	db := sql.OpenDB(f)
	t.Cleanup(func() { _ = db.Close() })
	q, err := mysql.NewBackup(db, opts)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestFakeServerConformance runs the contract against the fake server.
func TestFakeServerConformance(t *testing.T) {
	for name, lock := range map[string]string{"instance": "BACKUP LOCK", "writes": "GLOBAL"} {
		t.Run(name, func(t *testing.T) {
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				f := newFake()
				if lock == "GLOBAL" {
					f.others = oldTable()
				}
				return hookstest.Harness{
					Quiescer: newBackup(t, f, nil),
					Frozen:   func(context.Context) (bool, error) { return f.locked(lock) > 0, nil },
					Lose:     func(context.Context) error { f.kill(); return nil },
				}
			})
		})
	}
}

// TestFakeServerOrder checks what the server is asked for, and in which order.
func TestFakeServerOrder(t *testing.T) {
	lease := "SET SESSION wait_timeout = 5, SESSION lock_wait_timeout = 5"
	instance := []string{lease, "LOCK INSTANCE FOR BACKUP", "log_status", "metadata_locks", "UNLOCK INSTANCE"}
	writes := []string{lease, "LOCK INSTANCE FOR BACKUP", "FLUSH TABLES WITH READ LOCK", "log_status", "metadata_locks", "log_status", "UNLOCK TABLES", "UNLOCK INSTANCE"}
	for name, tt := range map[string]struct {
		others [][]driver.Value
		want   []string
		none   string
	}{"InnoDB only": {nil, instance, "FLUSH TABLES"}, "other engines": {oldTable(), writes, "FLUSH ENGINE"}} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.others = tt.others
			hold, err := newBackup(t, f, nil).Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: 4500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if err := hold.Held(t.Context()); err != nil {
				t.Error(err)
			}
			evidence, err := hold.Thaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(f.statements(), "\n")
			at := 0
			for _, want := range tt.want {
				i := strings.Index(all[at:], want)
				if i < 0 {
					t.Fatalf("%q is missing, or is not in its place:\n%s", want, all)
				}
				at += i + len(want)
			}
			if strings.Contains(all, tt.none) {
				t.Errorf("%q is not needed:\n%s", tt.none, all)
			}
			info, err := mysql.ParseEvidence(evidence)
			if err != nil {
				t.Fatal(err)
			}
			if info.ServerUUID != fakeUUID || info.GTID != fakeGTID || info.BinlogFile != "binlog.000005" || info.BinlogPos != 1067 || info.StartLSN != 19461872 ||
				info.Blocked != (tt.others != nil) || info.BinlogName != "binlog" || !json.Valid(info.LogStatus) {
				t.Errorf("evidence %+v", info)
			}
		})
	}
}

// TestFakeServerLosesProof does what makes a cut worthless, during the hold.
func TestFakeServerLosesProof(t *testing.T) {
	for name, during := range map[string]func(*fakeServer){
		"killed":       (*fakeServer).kill,
		"proxy":        func(f *fakeServer) { f.proxied = true },
		"other server": func(f *fakeServer) { f.uuid = "another" },
		"commit":       func(f *fakeServer) { f.gtid = fakeUUID + ":1-78" },
		"settings":     func(f *fakeServer) { f.variables["sync_binlog"] = "0" },
		"lock is gone": func(f *fakeServer) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for c := range f.sessions {
				c.locks = nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.others = oldTable()
			hold, err := newBackup(t, f, nil).Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			during(f)
			if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
				t.Errorf("Held: %v", err)
			}
			if evidence, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) || evidence != nil {
				t.Errorf("Thaw: %v, %v", evidence, err)
			}
			if n := f.locked("GLOBAL"); n != 0 {
				t.Errorf("%d sessions have a lock", n)
			}
		})
	}
}

// TestFakeServerPreflight changes one thing at a time.
func TestFakeServerPreflight(t *testing.T) {
	set := func(name, value string) func(*fakeServer) {
		return func(f *fakeServer) { f.variables[name] = value }
	}
	for name, tt := range map[string]struct {
		change func(*fakeServer)
		opts   *mysql.Options
		want   error
		says   string
	}{
		"fine":              {},
		"MariaDB":           {set("version", "10.11.19-MariaDB"), nil, errors.ErrUnsupported, "MariaDB"},
		"too old":           {set("version", "5.7.44"), nil, errors.ErrUnsupported, "5.7.44"},
		"innovation":        {change: set("version", "9.4.0")},
		"commits":           {set("innodb_flush_log_at_trx_commit", "2"), nil, mysql.ErrUnsafe, "innodb_flush_log_at_trx_commit is 2"},
		"commits relaxed":   {change: set("innodb_flush_log_at_trx_commit", "2"), opts: &mysql.Options{Relaxed: true}},
		"binlog":            {set("sync_binlog", "0"), nil, mysql.ErrUnsafe, "sync_binlog"},
		"detect only":       {set("innodb_doublewrite", "DETECT_ONLY"), nil, mysql.ErrUnsafe, "innodb_doublewrite"},
		"recovers pages":    {change: set("innodb_doublewrite", "DETECT_AND_RECOVER")},
		"atomic pages":      {change: set("innodb_doublewrite", "OFF"), opts: &mysql.Options{AtomicPageWrites: true}},
		"forced recovery":   {set("innodb_force_recovery", "3"), nil, mysql.ErrUnsafe, "innodb_force_recovery"},
		"no performance":    {set("performance_schema", "OFF"), nil, mysql.ErrUnsafe, "performance_schema"},
		"elsewhere":         {nil, &mysql.Options{Volumes: []string{"/srv"}}, mysql.ErrUnsafe, "/data"},
		"redo elsewhere":    {set("innodb_log_group_home_dir", "/redo"), &mysql.Options{Volumes: []string{"/data"}}, mysql.ErrUnsafe, "/redo"},
		"redo protected":    {change: set("innodb_log_group_home_dir", "/redo"), opts: &mysql.Options{Volumes: []string{"/data", "/redo"}}},
		"binlog away":       {set("log_bin_basename", "/logs/binlog"), nil, mysql.ErrUnsafe, "/logs"},
		"RocksDB":           {func(f *fakeServer) { f.others = [][]driver.Value{{"shop", "r", "ROCKSDB"}} }, nil, mysql.ErrUnsafe, "ROCKSDB"},
		"tablespace away":   {func(f *fakeServer) { f.files = [][]driver.Value{{"/far/shop/t.ibd"}} }, nil, mysql.ErrUnsafe, "/far"},
		"tablespace within": {change: func(f *fakeServer) { f.files = [][]driver.Value{{"/data/shop/t.ibd"}} }},
		"busy": {func(f *fakeServer) {
			f.others, f.busy = oldTable(), [][]driver.Value{{int64(9), "report", int64(60)}}
		}, nil, mysql.ErrBusy, "session 9"},
		"busy but unlocked": {change: func(f *fakeServer) { f.busy = [][]driver.Value{{int64(9), "report", int64(60)}} }},
		"no grants":         {func(f *fakeServer) { f.grants = nil }, nil, fs.ErrPermission, "GRANT BACKUP_ADMIN ON *.* TO 'keeper'@'%'"},
		"no select":         {func(f *fakeServer) { f.grants = f.grants[:2] }, nil, fs.ErrPermission, "GRANT SELECT ON performance_schema.* TO 'keeper'@'%'"},
		"no reload": {func(f *fakeServer) {
			f.others, f.grants[0] = oldTable(), "GRANT PROCESS, SHOW VIEW ON *.* TO `keeper`@`%`"
		}, nil, fs.ErrPermission, "GRANT RELOAD ON *.* TO 'keeper'@'%'"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			if tt.change != nil {
				tt.change(f)
			}
			err := newBackup(t, f, tt.opts).Prepare(t.Context())
			if !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Prepare: %v, want %v with %q", err, tt.want, tt.says)
			}
		})
	}
	f := newFake()
	f.others = oldTable()
	q, err := mysql.NewAtomic(sql.OpenDB(f), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); !errors.Is(err, mysql.ErrUnsafe) || !strings.Contains(err.Error(), "NewBackup") {
		t.Errorf("NewAtomic with MyISAM: %v", err)
	}
	f.proxied = true
	if err := q.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("behind a proxy: %v", err)
	}
}

// fakeData is as much of a data directory as PrepareRestore looks at.
func fakeData(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"auto.cnf": "[auto]\nserver-uuid=" + fakeUUID + "\n", "mysql.ibd": "", "binlog.000005": strings.Repeat("x", 1067),
		"#sql1-2.MYD": "", "#sql3.ibd": "", "#sql3.sdi": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeEvidence(t *testing.T) hooks.Evidence {
	t.Helper()
	hold, err := newBackup(t, newFake(), nil).Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := hold.Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return evidence
}

func TestPrepareRestore(t *testing.T) {
	dir := fakeData(t)
	if _, err := mysql.PrepareRestore(t.Context(), dir, fakeEvidence(t), nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	// What InnoDB knows of is for InnoDB to remove.
	if want := []string{"#sql3.ibd", "#sql3.sdi", "binlog.000005", "mysql.ibd"}; !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	if _, err := mysql.PrepareRestore(t.Context(), dir, fakeEvidence(t), nil); !errors.Is(err, mysql.ErrInconsistent) {
		t.Errorf("again: %v", err)
	}
}

func TestPrepareRestoreRefuses(t *testing.T) {
	write := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for name, tt := range map[string]struct {
		spoil    func(dir string) error
		evidence map[string]any
	}{
		"other server":      {spoil: write("auto.cnf", "[auto]\nserver-uuid=other\n")},
		"no uuid":           {spoil: write("auto.cnf", "")},
		"no dictionary":     {spoil: remove("mysql.ibd")},
		"no binlog":         {spoil: remove("binlog.000005")},
		"short binlog":      {spoil: write("binlog.000005", "x")},
		"link":              {spoil: func(dir string) error { return os.Symlink("/", filepath.Join(dir, "shop")) }},
		"unknown format":    {evidence: map[string]any{"format": 2}},
		"unknown method":    {evidence: map[string]any{"method": "hope"}},
		"no server":         {evidence: map[string]any{"server_uuid": ""}},
		"time runs back":    {evidence: map[string]any{"stop_lsn": 1}},
		"binlog climbs out": {evidence: map[string]any{"binlog_file": "../binlog"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, evidence := fakeData(t), maps.Clone(fakeEvidence(t))
			if tt.spoil != nil {
				if err := tt.spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
			if tt.evidence != nil {
				fields := map[string]any{}
				if err := json.Unmarshal(evidence["mysql.json"], &fields); err != nil {
					t.Fatal(err)
				}
				maps.Copy(fields, tt.evidence)
				evidence["mysql.json"], _ = json.Marshal(fields)
			}
			if _, err := mysql.PrepareRestore(t.Context(), dir, evidence, nil); !errors.Is(err, mysql.ErrInconsistent) {
				t.Errorf("error %v, want ErrInconsistent", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "#sql1-2.MYD")); err != nil {
				t.Errorf("the files were changed: %v", err)
			}
		})
	}
	_, err := mysql.PrepareRestore(t.Context(), fakeData(t), fakeEvidence(t), &mysql.RestoreOptions{Dirs: map[string]string{"innodb_undo_directory": "/x"}})
	if err == nil {
		t.Error("a directory that the server had not is accepted")
	}
	if _, err := mysql.Verify(t.Context(), "/usr/bin", t.TempDir(), nil); err == nil {
		t.Error("Verify without Info is accepted")
	}
}

// TestHostileSettings has evidence with settings that Verify would give to a
// server: one loads a library, one leads elsewhere.
func TestHostileSettings(t *testing.T) {
	parse := func(settings map[string]string) error {
		b, err := json.Marshal(map[string]any{
			"format": 1, "method": "backup", "server_uuid": "u", "start_lsn": 2, "stop_lsn": 2, "checkpoint_lsn": 1, "page_size": 16384, "settings": settings,
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = mysql.ParseEvidence(hooks.Evidence{"mysql.json": b})
		return err
	}
	if err := parse(map[string]string{"innodb_page_size": "16384", "innodb_data_file_path": "ibdata1:12M;ibdata2:10M:autoextend:max:1G"}); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"plugin-load-add": "evil.so", "init-file": "x", "innodb_data_file_path": "ibdata1:12M;/etc/passwd:1M", "lower_case_table_names": "0 --init-file=x",
	} {
		if err := parse(map[string]string{name: value}); !errors.Is(err, mysql.ErrInconsistent) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/mariadb"
)

var mdbCopies = flag.Int("mariadb.copies", 1, "known-bad copies of MariaDB of each kind")

// mdbCut runs a cut while a quiescer holds, and returns the evidence.
func mdbCut(t *testing.T, s *mdbServer, make mdbConstructor, cut func(context.Context)) hooks.Evidence {
	t.Helper()
	q, err := make(s.db, nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: hooks.MaxWindow})
	if err != nil {
		t.Fatal(err)
	}
	cut(t.Context())
	evidence, err := hold.Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return evidence
}

// mdbVerify prepares and verifies a copy.
func mdbVerify(t *testing.T, dir string, evidence hooks.Evidence, check func(context.Context, mariadb.Instance) error) error {
	t.Helper()
	info, err := mariadb.PrepareRestore(t.Context(), dir, evidence, &mariadb.RestoreOptions{Owner: new(mariadb.Owner(serverAccount(t)))})
	if err != nil {
		return err
	}
	_, err = mariadb.Verify(t.Context(), mdbBin, dir, &mariadb.VerifyOptions{Info: info, Check: check, Settings: mdbVerifySettings()})
	return err
}

// TestMariaDBRedoFirst cuts the redo log, the system tablespace and the binary log,
// and the tables seconds and checkpoints later, while a freeze is held that does
// not stop InnoDB. Such a cut is refused by the traits; here they are ignored.
func TestMariaDBRedoFirst(t *testing.T) {
	t.Parallel()
	for i := range *mdbCopies {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			mount := mountFS(t, "xfs")
			data := filepath.Join(own(t, filepath.Join(mount, "shop")), "data")
			initMDB(t, data)
			s := startMDB(t, data, "--log-bin=bin", "--innodb-max-dirty-pages-pct=0")
			load := startMDBLoad(t, s, 4, 5000, 0, false)
			load.waitMore(t, 20)
			copied := own(t, filepath.Join(mount, "copy"))
			evidence := mdbCut(t, s, mariadb.NewAtomic, func(context.Context) {
				system(t, "sh", "-c", "cd '"+data+"' && cp -a --reflink=always ib_logfile0 ibdata1 aria_log* bin.* '"+copied+"'")
				for range 3 {
					lsn := s.status(t, "Innodb_lsn_current")
					load.waitMore(t, 10)
					waitFor(t, func() bool { return s.status(t, "Innodb_lsn_last_checkpoint") > lsn })
				}
				system(t, "sh", "-c", "cd '"+data+"' && cp -a --reflink=always -n * '"+copied+"'")
			})
			load.stop()
			err := mdbVerify(t, copied, evidence, nil)
			t.Logf("%.400v", err)
			if !errors.Is(err, mariadb.ErrInconsistent) {
				t.Errorf("it passed: %v", err)
			}
		})
	}
}

// TestMariaDBRejects spoils a good copy in many ways. The good one passes.
func TestMariaDBRejects(t *testing.T) {
	t.Parallel()
	mount := mountFS(t, "xfs")
	data := filepath.Join(own(t, filepath.Join(mount, "shop")), "data")
	initMDB(t, data)
	s := startMDB(t, data, "--log-bin=bin")
	load := startMDBLoad(t, s, 2, 2000, time.Millisecond, true)
	load.waitMore(t, 20)
	before := load.seen()
	early := filepath.Join(mount, "early")
	system(t, "cp", "-a", "--reflink=always", data, early)
	load.waitMore(t, 20)
	good, late := filepath.Join(mount, "good"), filepath.Join(mount, "late")
	evidence := mdbCut(t, s, mariadb.NewStill, func(context.Context) { system(t, "cp", "-a", "--reflink=always", data, good) })
	load.waitMore(t, 20)
	load.stop()
	s.exec(t, "SET GLOBAL innodb_log_checkpoint_now = ON")
	system(t, "cp", "-a", "--reflink=always", data, late)
	other := filepath.Join(mount, "other")
	initMDB(t, other)

	in := func(name string) func(string) string {
		return func(dir string) string { return filepath.Join(dir, name) }
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(in(name)(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	take := func(name, from string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { system(t, "cp", "-a", in(name)(from), in(name)(dir)) }
	}
	overwrite := func(name string, at int64, bytes int) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			f, err := os.OpenFile(in(name)(dir), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			junk := make([]byte, bytes)
			for i := range junk {
				junk[i] = 0x5a
			}
			if _, err := f.WriteAt(junk, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		from  string
		spoil func(*testing.T, string)
	}{
		{"cut too early", early, nil},
		{"cut too late", late, nil},
		{"other server", other, nil},
		{"redo log is missing", good, remove("ib_logfile0")},
		{"redo log is older", good, take("ib_logfile0", early)},
		{"redo log is newer", good, take("ib_logfile0", late)},
		{"redo log is torn", good, overwrite("ib_logfile0", 4096, 8192)},
		{"tablespace is missing", good, remove("shop/ledger.ibd")},
		{"tablespace is newer", good, take("shop/ledger.ibd", late)},
		{"tablespace of another", good, func(t *testing.T, dir string) {
			system(t, "cp", "-a", filepath.Join(dir, "mysql/gtid_slave_pos.ibd"), filepath.Join(dir, "shop/ledger.ibd"))
		}},
		{"definition is missing", good, remove("shop/journal.frm")},
		{"page is damaged", good, overwrite("shop/account.ibd", 5*16384+100, 200)},
		{"index of MyISAM is damaged", good, overwrite("shop/journal.MYI", 1024, 300)},
		{"data of MyISAM is missing", good, remove("shop/journal.MYD")},
		{"binary log is missing", good, func(t *testing.T, dir string) { system(t, "sh", "-c", "rm '"+dir+"'/bin.0*") }},
		{"no data directory", good, func(t *testing.T, dir string) { system(t, "rm", "-r", filepath.Join(dir, "mysql")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := clone(t, tt.from, filepath.Join(mount, "spoilt"))
			defer os.RemoveAll(dir)
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			err := mdbVerify(t, dir, evidence, nil)
			t.Logf("%.300v", err)
			if !errors.Is(err, mariadb.ErrInconsistent) {
				t.Errorf("it passed: %v", err)
			}
		})
	}
	dir := clone(t, good, filepath.Join(mount, "checked"))
	failed := errors.New("the application says no")
	if err := mdbVerify(t, dir, evidence, func(context.Context, mariadb.Instance) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("the application's own check is not heard: %v", err)
	}
	if err := mdbVerify(t, good, evidence, load.check(t, before)); err != nil {
		t.Errorf("the good copy: %v", err)
	}
}

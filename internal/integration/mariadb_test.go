// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/hooks/mariadb"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

var mdbPoints = flag.Int("mariadb.points", 3, "recovery points of MariaDB under load, for each layout")

type mdbConstructor func(*sql.DB, *mariadb.Options) (*mariadb.Quiescer, error)

// mdbBlocked says whether commits are blocked: one that takes longer than half a
// second counts as such, and is taken back.
func mdbBlocked(db *sql.DB) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		write, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(write, "INSERT INTO probe.t VALUES (NULL)")
		if err == nil {
			return false, nil
		}
		if write.Err() != nil && ctx.Err() == nil {
			return true, nil
		}
		return false, err
	}
}

// TestMariaDBConformance takes "frozen" for what the server does itself: a commit
// of another session waits; for a cut at one instant, that our session exists.
func TestMariaDBConformance(t *testing.T) {
	t.Parallel()
	s := newMDB(t, "--innodb-stats-auto-recalc=OFF") // it writes in a freeze as well
	s.exec(t, "CREATE DATABASE probe", "CREATE TABLE probe.t (id int PRIMARY KEY AUTO_INCREMENT) ENGINE=InnoDB")
	probe := openMDB(t, s.socket, "root", "mysql")
	ours := "FROM information_schema.PROCESSLIST WHERE USER = 'keeper'"
	s.exec(t, "CREATE USER keeper@localhost", "GRANT RELOAD, PROCESS, SUPER, BINLOG MONITOR, SHOW VIEW ON *.* TO keeper@localhost")
	// A session that was closed is seen for a little longer.
	session := func(ctx context.Context) (found bool, err error) {
		for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
			if err := probe.QueryRowContext(ctx, "SELECT count(*) > 0 "+ours).Scan(&found); err != nil || !found {
				return false, err
			}
		}
		return true, nil
	}
	tests := map[string]struct {
		make   mdbConstructor
		frozen func(context.Context) (bool, error)
	}{
		"atomic": {mariadb.NewAtomic, session},
		"backup": {mariadb.NewBackup, mdbBlocked(probe)},
		"still":  {mariadb.NewStill, mdbBlocked(probe)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			db := openMDB(t, s.socket, "keeper", "")
			db.SetMaxIdleConns(0)
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				q, err := tt.make(db, nil)
				if err != nil {
					t.Fatal(err)
				}
				return hookstest.Harness{
					Quiescer: q, Frozen: tt.frozen, SelfThaws: true, Window: 3 * time.Second, Slack: 30 * time.Second,
					Lose: func(ctx context.Context) error { return killMDB(ctx, probe, ours) },
				}
			})
			if in := db.Stats().InUse; in != 0 {
				t.Errorf("%d connections are still in use", in)
			}
		})
	}
}

// killMDB ends sessions and waits until they have.
func killMDB(ctx context.Context, db *sql.DB, which string) error {
	for {
		var id int64
		err := db.QueryRowContext(ctx, "SELECT ID "+which+" LIMIT 1").Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			_, _ = db.ExecContext(ctx, fmt.Sprintf("KILL %d", id))
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestMariaDBPreflight gives permissions one by one, as the errors ask for them.
func TestMariaDBPreflight(t *testing.T) {
	t.Parallel()
	s := newMDB(t)
	s.exec(t, "CREATE USER keeper@localhost", "CREATE DATABASE shop", "CREATE TABLE shop.t (id int) ENGINE=InnoDB")
	db := openMDB(t, s.socket, "keeper", "")
	db.SetMaxIdleConns(0)
	prepare := func(make mdbConstructor, opts *mariadb.Options) error {
		q, err := make(db, opts)
		if err != nil {
			t.Fatal(err)
		}
		return q.Prepare(t.Context())
	}
	grants := []string{"PROCESS", "SHOW VIEW", "RELOAD", "BINLOG MONITOR", "SUPER"}
	for i, grant := range grants {
		err := prepare(mariadb.NewStill, nil)
		if !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("before %s: error %v, want fs.ErrPermission", grant, err)
		}
		for j, g := range grants {
			text := "GRANT " + g + " ON *.* TO 'keeper'@'localhost'"
			if named := strings.Contains(err.Error(), text); named != (j >= i) {
				t.Errorf("after %d grants, %q is named: %t\n%v", i, text, named, err)
			}
		}
		s.exec(t, "GRANT "+grant+" ON *.* TO 'keeper'@'localhost'") // the message is the command
	}
	for name, make := range map[string]mdbConstructor{"atomic": mariadb.NewAtomic, "backup": mariadb.NewBackup, "still": mariadb.NewStill} {
		if err := prepare(make, nil); err != nil {
			t.Errorf("%s with all that was asked for: %v", name, err)
		}
		mdbRefuses(t, name, db, make, nil, nil)
	}
	elsewhere := &mariadb.Options{Volumes: []string{"/srv/elsewhere"}}
	if err := prepare(mariadb.NewAtomic, elsewhere); !errors.Is(err, mariadb.ErrUnsafe) || !strings.Contains(err.Error(), s.data) {
		t.Errorf("data directory elsewhere: %v", err)
	}
	if err := prepare(mariadb.NewAtomic, &mariadb.Options{Volumes: []string{s.data}}); err != nil {
		t.Errorf("data directory in a volume: %v", err)
	}
	s.exec(t, "CREATE TABLE shop.old (id int) ENGINE=MyISAM")
	if err := prepare(mariadb.NewAtomic, nil); !errors.Is(err, mariadb.ErrUnsafe) || !strings.Contains(err.Error(), `"old"`) {
		t.Errorf("a MyISAM table in a cut at one instant: %v", err)
	}
	if err := prepare(mariadb.NewBackup, nil); err != nil {
		t.Errorf("a MyISAM table with BACKUP STAGE: %v", err)
	}
	s.exec(t, "DROP TABLE shop.old")
	place := own(t, filepath.Join(serverDir(t), "place"))
	s.exec(t, "CREATE TABLE shop.far (id int) ENGINE=InnoDB DATA DIRECTORY='"+place+"'")
	if err := prepare(mariadb.NewAtomic, nil); !errors.Is(err, mariadb.ErrUnsafe) || !strings.Contains(err.Error(), place) {
		t.Errorf("a tablespace elsewhere: %v", err)
	}
}

// TestMariaDBBusy has a statement that runs for long: nobody queues behind us.
func TestMariaDBBusy(t *testing.T) {
	t.Parallel()
	s := newMDB(t)
	s.exec(t, "CREATE DATABASE shop", "CREATE TABLE shop.t (id int) ENGINE=InnoDB")
	conn, err := s.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() {
		_, err := conn.ExecContext(t.Context(), "INSERT INTO shop.t SELECT SLEEP(4)")
		done <- err
	}()
	<-time.After(2 * time.Second)
	for name, make := range map[string]mdbConstructor{"backup": mariadb.NewBackup, "still": mariadb.NewStill} {
		mdbRefuses(t, name, s.db, make, &mariadb.Options{MaxStatement: time.Second}, mariadb.ErrBusy)
	}
	mdbRefuses(t, "atomic", s.db, mariadb.NewAtomic, &mariadb.Options{MaxStatement: time.Second}, nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestMariaDBRefuses starts servers whose settings do not allow a copy.
func TestMariaDBRefuses(t *testing.T) {
	t.Parallel()
	data := filepath.Join(serverDir(t), "data")
	initMDB(t, data)
	tests := []struct {
		name                  string
		settings              []string
		atomic, backup, still error
		fits                  *mariadb.Options // makes NewAtomic fit
	}{
		{
			name: "relaxed", settings: []string{"--log-bin=bin", "--innodb-flush-log-at-trx-commit=2"}, atomic: mariadb.ErrUnsafe,
			fits: &mariadb.Options{Relaxed: true},
		},
		{
			name: "binlog", settings: []string{"--log-bin=bin", "--sync-binlog=0"}, atomic: mariadb.ErrUnsafe, backup: mariadb.ErrUnsafe, still: mariadb.ErrUnsafe,
			fits: &mariadb.Options{Relaxed: true},
		},
		{
			name: "doublewrite", settings: []string{"--innodb-doublewrite=OFF"}, atomic: mariadb.ErrUnsafe, backup: mariadb.ErrUnsafe,
			fits: &mariadb.Options{AtomicPageWrites: true},
		},
		{name: "nosync", settings: []string{"--innodb-flush-method=nosync"}, atomic: mariadb.ErrUnsafe, backup: mariadb.ErrUnsafe, still: mariadb.ErrUnsafe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := startMDB(t, data, tt.settings...)
			t.Cleanup(s.stop)
			mdbRefuses(t, "atomic", s.db, mariadb.NewAtomic, nil, tt.atomic)
			mdbRefuses(t, "backup", s.db, mariadb.NewBackup, nil, tt.backup)
			mdbRefuses(t, "still", s.db, mariadb.NewStill, nil, tt.still)
			if tt.fits != nil {
				mdbRefuses(t, "atomic with options", s.db, mariadb.NewAtomic, tt.fits, nil)
			}
		})
	}
}

// mdbRefuses checks what Prepare and Quiesce say of a server.
func mdbRefuses(t *testing.T, name string, db *sql.DB, make mdbConstructor, opts *mariadb.Options, want error) {
	t.Helper()
	q, err := make(db, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); !errors.Is(err, want) {
		t.Errorf("%s: Prepare: %v, want %v", name, err, want)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if !errors.Is(err, want) {
		t.Errorf("%s: Quiesce: %v, want %v", name, err, want)
	}
	if err == nil {
		if _, err := hold.Thaw(t.Context()); err != nil {
			t.Errorf("%s: Thaw: %v", name, err)
		}
	}
}

// TestMariaDBAtomic takes points of a busy server, with its redo and binary logs
// in other directories of one btrfs subvolume, without any freeze.
func TestMariaDBAtomic(t *testing.T) {
	mount := mountFS(t, "btrfs")
	sub := filepath.Join(mount, "shop")
	system(t, "btrfs", "subvolume", "create", sub)
	own(t, sub)
	data, logs := filepath.Join(sub, "data"), own(t, filepath.Join(sub, "logs"))
	redo := "--innodb-log-group-home-dir=" + logs
	initMDB(t, data, redo)
	s := startMDB(t, data, redo, "--log-bin="+filepath.Join(logs, "bin"))
	load := startMDBLoad(t, s, 4, 5000, time.Millisecond, false)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := mariadb.NewAtomic(s.db, &mariadb.Options{Volumes: []string{sub}})
	if err != nil {
		t.Fatal(err)
	}
	takeMDBPoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}, {Name: "logs", ID: snapshot.VolumeID(logs)}},
		Members: []protect.Member{{Name: "mariadb", Quiescer: q}},
		Require: protect.ApplicationConsistent,
	}, "innodb_log_group_home_dir", "log_bin")
}

// TestMariaDBBackup takes points of a busy server that also writes a MyISAM
// table, in one btrfs subvolume.
func TestMariaDBBackup(t *testing.T) {
	mount := mountFS(t, "btrfs")
	sub := filepath.Join(mount, "shop")
	system(t, "btrfs", "subvolume", "create", sub)
	own(t, sub)
	data := filepath.Join(sub, "data")
	initMDB(t, data)
	s := startMDB(t, data, "--log-bin=bin")
	load := startMDBLoad(t, s, 4, 5000, time.Millisecond, true)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := mariadb.NewBackup(s.db, &mariadb.Options{Volumes: []string{sub}})
	if err != nil {
		t.Fatal(err)
	}
	takeMDBPoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}},
		Members: []protect.Member{{Name: "mariadb", Quiescer: q}},
		Require: protect.ApplicationConsistent,
	})
}

// TestMariaDBStill takes points of a busy server that also writes a MyISAM
// table, by cloning its files one by one.
func TestMariaDBStill(t *testing.T) {
	mount := mountFS(t, "xfs")
	data := filepath.Join(own(t, filepath.Join(mount, "shop")), "data")
	initMDB(t, data)
	s := startMDB(t, data, "--log-bin=bin")
	load := startMDBLoad(t, s, 4, 5000, time.Millisecond, true)
	drv, err := reflink.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := mariadb.NewStill(s.db, &mariadb.Options{Volumes: []string{data}})
	if err != nil {
		t.Fatal(err)
	}
	takeMDBPoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}},
		Members: []protect.Member{{Name: "mariadb", Quiescer: q}},
		Window:  hooks.MaxWindow,
		Require: protect.ApplicationConsistent,
	})
}

// takeMDBPoints takes recovery points, restores and verifies each. The settings
// name what was restored to the volume of the logs.
func takeMDBPoints(t *testing.T, p *protect.Protector, load *mdbLoad, app protect.Application, settings ...string) {
	t.Helper()
	owner := mariadb.Owner(serverAccount(t))
	for i := range *mdbPoints {
		load.waitMore(t, 20)
		before := load.seen()
		rp, err := p.Run(t.Context(), app, fmt.Sprint("point-", i))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(serverDir(t), "restored")
		if _, err := p.Restore(t.Context(), rp.ID, target, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(target, 0o711); err != nil {
			t.Fatal(err)
		}
		o := &mariadb.RestoreOptions{Owner: &owner, Dirs: map[string]string{}}
		for _, name := range settings {
			o.Dirs[name] = filepath.Join(target, "logs")
		}
		dir := filepath.Join(target, "data")
		info, err := mariadb.PrepareRestore(t.Context(), dir, rp.Point.Evidence["mariadb"], o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := mariadb.Verify(t.Context(), mdbBin, dir, &mariadb.VerifyOptions{Info: info, Check: load.check(t, before), Settings: mdbVerifySettings()})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s, frozen %v, LSN %d to %d, recovered to %d in %v; GTID %s, now %s; %d pages, %d tables of %d databases in %v; acknowledged %v",
			rp.ID, rp.Level, rp.Frozen, info.StartLSN, info.StopLSN, v.Recovered, v.Recovery, info.GTID, v.GTID, v.Pages, v.Tables, v.Databases, v.Took, before)
		_ = os.RemoveAll(target) // there may be many
	}
}

// mdbVerifySettings keep the instances of Verify small.
func mdbVerifySettings() map[string]string {
	return map[string]string{"innodb-log-file-size": "10M", "innodb-buffer-pool-size": "24M"}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
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
	"github.com/stillpoint-go/protect/hooks/postgres"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

var pgPoints = flag.Int("pg.points", 5, "recovery points of PostgreSQL under load, for each layout")

func newPG(t *testing.T) *pgServer {
	t.Helper()
	data := filepath.Join(serverDir(t), "data")
	initPG(t, data, "")
	return startPG(t, data)
}

// TestPostgresConformance takes "frozen" for what the server says itself: a
// session of ours exists, and in a backup also its replication slot.
func TestPostgresConformance(t *testing.T) {
	s := newPG(t)
	probe := s.open(t, "postgres", "postgres")
	frozen := func(query string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (found bool, err error) {
			return found, probe.QueryRowContext(ctx, query).Scan(&found)
		}
	}
	tests := map[string]struct {
		make   func() (*postgres.Quiescer, error)
		frozen string
	}{
		"atomic": {
			func() (*postgres.Quiescer, error) { return postgres.NewAtomic(s.db, nil) },
			"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'protect epoch %'",
		},
		"backup": {
			func() (*postgres.Quiescer, error) {
				return postgres.NewBackup(s.db, postgres.Directory(t.TempDir()), nil)
			},
			"SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name LIKE 'protect_%' AND active",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				q, err := tt.make()
				if err != nil {
					t.Fatal(err)
				}
				return hookstest.Harness{
					Quiescer: q, Frozen: frozen(tt.frozen), SelfThaws: true, Window: 3 * time.Second, Slack: 30 * time.Second,
					Lose: func(ctx context.Context) error {
						_, err := probe.ExecContext(ctx, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name LIKE 'protect epoch %'")
						return err
					},
				}
			})
		})
	}
	if in := s.db.Stats().InUse; in != 0 {
		t.Errorf("%d connections are still in use", in)
	}
}

// TestPostgresPreflight takes permissions and settings away, one by one.
func TestPostgresPreflight(t *testing.T) {
	s := newPG(t)
	s.exec(t, "CREATE ROLE keeper LOGIN")
	db := s.open(t, "keeper", "postgres")
	db.SetMaxIdleConns(0) // roles and settings are those of new sessions
	keep := postgres.Directory(t.TempDir())
	prepare := func(opts *postgres.Options) error {
		q, err := postgres.NewBackup(db, keep, opts)
		if err != nil {
			t.Fatal(err)
		}
		return q.Prepare(t.Context())
	}
	volumes := &postgres.Options{Volumes: []string{s.data}}
	grants := []string{
		"GRANT pg_checkpoint TO keeper", "GRANT pg_read_all_settings TO keeper",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO keeper",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean) TO keeper",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO keeper",
		"ALTER ROLE keeper REPLICATION",
	}
	for i, grant := range grants {
		err := prepare(volumes)
		if !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("before %s: error %v, want fs.ErrPermission", grant, err)
		}
		for j, g := range grants {
			if named := strings.Contains(err.Error(), g); named != (j >= i) {
				t.Errorf("after %d grants, %q is named: %t\n%v", i, g, named, err)
			}
		}
		s.exec(t, grant) // the message is the command
	}
	if err := prepare(volumes); err != nil {
		t.Errorf("with all that was asked for: %v", err)
	}
	q, err := postgres.NewBackup(db, keep, volumes)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatalf("the role cannot do what Prepare said it can: %v", err)
	}
	if _, err := hold.Thaw(t.Context()); err != nil {
		t.Error(err)
	}

	if err := prepare(&postgres.Options{Volumes: []string{"/srv/elsewhere"}}); !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), s.data) {
		t.Errorf("data directory elsewhere: %v", err)
	}
	space := own(t, filepath.Join(serverDir(t), "space"))
	s.exec(t, "CREATE TABLESPACE extra LOCATION '"+space+"'")
	for _, opts := range []*postgres.Options{nil, volumes} {
		if err := prepare(opts); !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), space) {
			t.Errorf("tablespace elsewhere: %v", err)
		}
	}
	if err := prepare(&postgres.Options{Volumes: []string{s.data, space}}); err != nil {
		t.Errorf("tablespace in a volume: %v", err)
	}
}

// TestPostgresRefuses starts servers that must not be copied.
func TestPostgresRefuses(t *testing.T) {
	data := filepath.Join(serverDir(t), "data")
	initPG(t, data, "")
	tests := []struct {
		name           string
		settings       []string
		standby        bool
		atomic, backup error
		fits           *postgres.Options
	}{
		{name: "fsync", settings: []string{"fsync=off"}, atomic: postgres.ErrUnsafe, backup: postgres.ErrUnsafe},
		{name: "full_page_writes", settings: []string{"full_page_writes=off"}, atomic: postgres.ErrUnsafe, fits: &postgres.Options{AtomicPageWrites: true}},
		{name: "wal_level", settings: []string{"wal_level=minimal", "max_wal_senders=0"}, backup: postgres.ErrUnsafe},
		{name: "slots", settings: []string{"max_replication_slots=0"}, backup: postgres.ErrUnsafe},
		{name: "standby", standby: true, atomic: errors.ErrUnsupported, backup: errors.ErrUnsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.standby {
				if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := startPG(t, data, tt.settings...)
			t.Cleanup(func() { s.stop() })
			for _, q := range []struct {
				name string
				keep postgres.Keeper
				want error
			}{{"atomic", nil, tt.atomic}, {"backup", postgres.Directory(t.TempDir()), tt.backup}} {
				refuses(t, s, q.name, q.keep, nil, q.want)
			}
			if tt.fits != nil {
				refuses(t, s, "atomic with options", nil, tt.fits, nil)
			}
			if !tt.standby {
				refuses(t, s, "archive", postgres.Archive{}, nil, postgres.ErrUnsafe) // archive_mode is off
			}
		})
	}
}

// refuses checks what Prepare and Quiesce say of a server. Slots are seen by
// Prepare only, and Quiesce fails on them with the server's words.
func refuses(t *testing.T, s *pgServer, name string, keep postgres.Keeper, opts *postgres.Options, want error) {
	t.Helper()
	q, err := postgres.NewAtomic(s.db, opts)
	if keep != nil {
		q, err = postgres.NewBackup(s.db, keep, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Prepare(t.Context()); !errors.Is(err, want) {
		t.Errorf("%s: Prepare: %v, want %v", name, err, want)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if (err == nil) != (want == nil) {
		t.Errorf("%s: Quiesce: %v, want %v", name, err, want)
	}
	if err == nil {
		if _, err := hold.Thaw(t.Context()); err != nil {
			t.Errorf("%s: Thaw: %v", name, err)
		}
	}
}

// newProtector returns a Protector with a new repository.
func newProtector(t *testing.T, drv driver.Provider) *protect.Protector {
	t.Helper()
	bucket, err := dirbucket.OpenBucket(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bucket.Close() })
	r, err := repo.Init(t.Context(), bucket, repo.Passphrase("secret").WithKDF(1, 8, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(drv, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPostgresAtomic takes points of a busy server, with its WAL in another
// directory of one btrfs subvolume, without any freeze.
func TestPostgresAtomic(t *testing.T) {
	mount := mountFS(t, "btrfs")
	sub := filepath.Join(mount, "shop")
	system(t, "btrfs", "subvolume", "create", sub)
	own(t, sub)
	data, wal := filepath.Join(sub, "data"), filepath.Join(sub, "wal")
	initPG(t, data, own(t, wal))
	s := startPG(t, data)
	load := startLoad(t, s, 4, 5000, time.Millisecond)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := postgres.NewAtomic(s.db, &postgres.Options{Volumes: []string{sub}})
	if err != nil {
		t.Fatal(err)
	}
	takePoints(t, newProtector(t, drv), load, protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}, {Name: "wal", ID: snapshot.VolumeID(wal)}},
		Members: []protect.Member{{Name: "postgres", Quiescer: q}},
		Require: protect.ApplicationConsistent,
	}, func(target string) *postgres.RestoreOptions {
		return &postgres.RestoreOptions{WALVolume: filepath.Join(target, "wal")}
	})
}

// TestPostgresBackup takes points of a busy server by cloning the files of its
// data directory, one by one, with a tablespace on another file system. Each
// point holds the WAL that it needs.
func TestPostgresBackup(t *testing.T) {
	mount, second := mountFS(t, "xfs"), mountFS(t, "xfs")
	data, space := filepath.Join(own(t, filepath.Join(mount, "shop")), "data"), own(t, filepath.Join(second, "space"))
	initPG(t, data, "")
	s := startPG(t, data)
	s.exec(t, "CREATE TABLESPACE extra LOCATION '"+space+"'", "ALTER ROLE postgres SET default_tablespace = extra")
	s.db.SetMaxIdleConns(0) // it is a setting of new sessions
	load := startLoad(t, s, 4, 5000, time.Millisecond)
	s.db.SetMaxIdleConns(10)
	var oid string
	if err := s.db.QueryRowContext(t.Context(), "SELECT oid::text FROM pg_tablespace WHERE spcname = 'extra'").Scan(&oid); err != nil {
		t.Fatal(err)
	}
	drv, err := reflink.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	wal := own(t, filepath.Join(mount, "wal"))
	q, err := postgres.NewBackup(s.db, postgres.Staging(wal), &postgres.Options{Volumes: []string{data, space}})
	if err != nil {
		t.Fatal(err)
	}
	takePoints(t, newProtector(t, drv), load, protect.Application{
		Name: "shop",
		Volumes: []protect.Volume{
			{Name: "data", ID: snapshot.VolumeID(data)},
			{Name: "space", ID: snapshot.VolumeID(space)},
			{Name: "wal", ID: snapshot.VolumeID(wal), AfterThaw: true},
		},
		Members: []protect.Member{{Name: "postgres", Quiescer: q}},
		Window:  hooks.MaxWindow,
		Require: protect.ApplicationConsistent,
	}, func(target string) *postgres.RestoreOptions {
		return &postgres.RestoreOptions{WAL: os.DirFS(filepath.Join(target, "wal")), Tablespaces: map[string]string{oid: filepath.Join(target, "space")}}
	})
}

// takePoints takes recovery points, restores and verifies each.
func takePoints(t *testing.T, p *protect.Protector, load *pgLoad, app protect.Application, opts func(target string) *postgres.RestoreOptions) {
	t.Helper()
	owner := postgres.Owner(serverAccount(t))
	for i := range *pgPoints {
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
		o := opts(target)
		o.Owner = &owner
		dir := filepath.Join(target, "data")
		info, err := postgres.PrepareRestore(t.Context(), dir, rp.Point.Evidence["postgres"], o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := postgres.Verify(t.Context(), pgBin(t), dir, &postgres.VerifyOptions{Info: info, Check: load.check(t, before)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s, window %v, WAL %s to %s, recovered to %s in %v; %d pages, %d tables, %d indexes, %d checksums in %v; acknowledged %v",
			rp.ID, rp.Level, rp.Frozen, info.Start, info.Stop, v.Recovered, v.Recovery, v.Pages, v.Tables, v.Indexes, v.ChecksummedBlocks, v.Took, before)
	}
}

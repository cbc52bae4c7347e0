// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks/postgres"
	"github.com/stillpoint-go/protect/hooks/redis"
	"github.com/stillpoint-go/protect/hooks/sqlite"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

var servicePoints = flag.Int("services.points", 5, "recovery points of three services together, for each layout")

// services are three that money moves between. Each worker takes one step after
// another, each in the next service, and begins none before the one before it
// is acknowledged: it takes money out of one service, then puts it into the
// next. So whatever the instant, the steps in all services together are
// 1, 2, 3, … without a gap, and no money is missing but what a worker has in
// its hands.
type services struct {
	*workers
	pg     *pgServer
	redis  *goredis.Client
	sqlite *sql.DB
}

// amount is what step n adds to its service.
func amount(n int64) int64 {
	if n%2 == 1 {
		return -n
	}
	return n - 1 // what the step before took
}

func startServices(t *testing.T, pg *pgServer, rd *goredis.Client, lite *sql.DB, workers int) *services {
	t.Helper()
	s := &services{pg: pg, redis: rd, sqlite: lite}
	const table = "CREATE TABLE step (worker int, n bigint, amount bigint, PRIMARY KEY (worker, n))"
	pg.exec(t, table)
	if _, err := lite.ExecContext(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	s.workers = startWorkers(t, workers, 0, s.step)
	return s
}

func (s *services) step(ctx context.Context, worker int, n int64) (err error) {
	switch n % 3 {
	case 0:
		_, err = s.pg.db.ExecContext(ctx, "INSERT INTO step VALUES ($1, $2, $3)", worker, n, amount(n))
	case 1:
		err = s.redis.RPush(ctx, fmt.Sprint("step:", worker), fmt.Sprintf("%d %d", n, amount(n))).Err()
	default:
		_, err = s.sqlite.ExecContext(ctx, "INSERT INTO step VALUES ($1, $2, $3)", worker, n, amount(n))
	}
	return err
}

// steps are those found in restored services, by worker and number, with their
// amounts.
type steps map[int]map[int64]int64

func (s steps) add(worker int, n, amount int64) {
	if s[worker] == nil {
		s[worker] = map[int64]int64{}
	}
	s[worker][n] = amount
}

// together returns the steps of several services.
func together(parts ...steps) steps {
	all := steps{}
	for _, part := range parts {
		for worker, list := range part {
			for n, sum := range list {
				all.add(worker, n, sum)
			}
		}
	}
	return all
}

func (s steps) addTable(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT worker, n, amount FROM step")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var worker int
		var n, sum int64
		if err := rows.Scan(&worker, &n, &sum); err != nil {
			return err
		}
		s.add(worker, n, sum)
	}
	return rows.Err()
}

func (s steps) addLists(ctx context.Context, c *goredis.Client, workers int) error {
	for w := range workers {
		list, err := c.LRange(ctx, fmt.Sprint("step:", w), 0, -1).Result()
		if err != nil {
			return err
		}
		for _, text := range list {
			left, right, _ := strings.Cut(text, " ")
			n, err1 := strconv.ParseInt(left, 10, 64)
			sum, err2 := strconv.ParseInt(right, 10, 64)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("step %q", text)
			}
			s.add(w, n, sum)
		}
	}
	return nil
}

// check checks the invariant across all services.
func (s steps) check(before []int64) error {
	for w, acked := range before {
		var sum int64
		last := int64(len(s[w]))
		for n := range last {
			v, ok := s[w][n+1]
			if !ok {
				return fmt.Errorf("worker %d has %d steps, and number %d is missing", w, last, n+1)
			}
			sum += v
		}
		if inHand := min(0, amount(last)); sum != inHand {
			return fmt.Errorf("worker %d: money of %d after step %d, want %d", w, sum, last, inHand)
		}
		if last < acked {
			return fmt.Errorf("worker %d has %d steps, and %d were acknowledged before the cut", w, last, acked)
		}
	}
	return nil
}

// TestServicesAtomic takes points of three services in one cut at one instant.
func TestServicesAtomic(t *testing.T) {
	mount := mountFS(t, "btrfs")
	sub := filepath.Join(mount, "shop")
	system(t, "btrfs", "subvolume", "create", sub)
	own(t, sub)
	l := newLayout(t, sub)
	drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	pg, err := postgres.NewAtomic(l.services.pg.db, &postgres.Options{Volumes: []string{sub}})
	if err != nil {
		t.Fatal(err)
	}
	rd, err := redis.NewAtomic(redisConn(l.services.redis), &redis.Options{Volumes: []string{sub}})
	if err != nil {
		t.Fatal(err)
	}
	l.takePoints(t, newProtector(t, drv), protect.Application{
		Volumes: []protect.Volume{{Name: "shop", ID: snapshot.VolumeID(sub)}},
		Members: []protect.Member{{Name: "postgres", Quiescer: pg}, {Name: "redis", Quiescer: rd}, {Name: "sqlite", Quiescer: newSQLite(t, l.services.sqlite)}},
	}, func(target string) (string, *postgres.RestoreOptions) { return filepath.Join(target, "shop"), nil })
}

// TestServicesClones takes points of three services whose files are cloned one
// by one. PostgreSQL goes on writing while it is in backup mode, and recovers to
// the end of it: it is the last to freeze and the first to thaw, while the
// others hold.
func TestServicesClones(t *testing.T) {
	mount := mountFS(t, "xfs")
	dir, wal := own(t, filepath.Join(mount, "shop")), own(t, filepath.Join(mount, "wal"))
	drv, err := reflink.New(own(t, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Of the database of this process the driver keeps files open, until a
		// snapshot after it is closed.
		if _, err := drv.Create(context.WithoutCancel(t.Context()), snapshot.VolumeID(wal), "last"); err != nil {
			t.Error(err)
		}
	})
	l := newLayout(t, dir)
	pg, err := postgres.NewBackup(l.services.pg.db, postgres.Staging(wal), nil)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := redis.NewPaused(redisConn(l.services.redis), nil)
	if err != nil {
		t.Fatal(err)
	}
	app := protect.Application{
		Volumes: []protect.Volume{{Name: "wal", ID: snapshot.VolumeID(wal), AfterThaw: true}},
		Members: []protect.Member{
			{Name: "sqlite", Quiescer: newSQLite(t, l.services.sqlite), Volumes: []string{"sqlite"}},
			{Name: "redis", Quiescer: rd, Volumes: []string{"redis"}},
			{Name: "postgres", Quiescer: pg, Volumes: []string{"postgres"}},
		},
		Window: time.Minute,
	}
	for _, name := range []string{"postgres", "redis", "sqlite"} {
		app.Volumes = append(app.Volumes, protect.Volume{Name: name, ID: snapshot.VolumeID(filepath.Join(dir, name))})
	}
	l.takePoints(t, newProtector(t, drv), app, func(target string) (string, *postgres.RestoreOptions) {
		return target, &postgres.RestoreOptions{WAL: os.DirFS(filepath.Join(target, "wal"))}
	})
}

// layout is where three services keep their data.
type layout struct {
	services *services
	dir      string
}

func newLayout(t *testing.T, dir string) *layout {
	t.Helper()
	l := &layout{dir: dir}
	data := filepath.Join(dir, "postgres")
	initPG(t, data, "")
	rd := startRedis(t, own(t, filepath.Join(dir, "redis")), "--appendonly", "yes", "--appendfsync", "always")
	lite := openSQLite(t, filepath.Join(own(t, filepath.Join(dir, "sqlite")), "db"), "wal", time.Minute)
	l.services = startServices(t, startPG(t, data), rd.client, lite, 4)
	return l
}

// takePoints takes recovery points, restores each, and verifies all services.
func (l *layout) takePoints(t *testing.T, p *protect.Protector, app protect.Application, place func(target string) (string, *postgres.RestoreOptions)) {
	t.Helper()
	app.Name, app.Require = "shop", protect.ApplicationConsistent
	var last [3]steps
	for i := range *servicePoints {
		l.services.waitMore(t, 9)
		before := l.services.seen()
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
		dir, opts := place(target)
		found := l.bringBack(t, rp, dir, opts)
		all := together(found[:]...)
		if err := all.check(before); err != nil {
			t.Error(err)
		}
		// Services of two points, as if they had been cut one after another.
		if i > 0 {
			if err := together(last[0], found[1], found[2]).check(before); err == nil {
				t.Error("a torn cut goes unnoticed")
			}
		}
		last = found
		var counts []int
		for w := range before {
			counts = append(counts, len(all[w]))
		}
		t.Logf("%s: %s, window %v, steps %d, acknowledged before %v", rp.ID, rp.Level, rp.Frozen, counts, before)
	}
}

// bringBack verifies what was restored to dir, and returns the steps in each
// service.
func (l *layout) bringBack(t *testing.T, rp *protect.RecoveryPoint, dir string, opts *postgres.RestoreOptions) [3]steps {
	t.Helper()
	found := [3]steps{{}, {}, {}}
	owner := serverAccount(t)
	if opts == nil {
		opts = &postgres.RestoreOptions{}
	}
	opts.Owner = new(postgres.Owner(owner))
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "postgres")
	info, err := postgres.PrepareRestore(t.Context(), data, rp.Point.Evidence["postgres"], opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Verify(t.Context(), pgBin(t), data, &postgres.VerifyOptions{Info: info, Check: func(ctx context.Context, i postgres.Instance) error {
		return found[0].addTable(ctx, openPG(t, i.Socket, i.Port, i.User, "postgres"))
	}}); err != nil {
		t.Fatal(err)
	}
	data = filepath.Join(dir, "redis")
	rinfo, err := redis.PrepareRestore(t.Context(), data, rp.Point.Evidence["redis"], &redis.RestoreOptions{Owner: new(redis.Owner(owner))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redis.Verify(t.Context(), redisBin(t), data, rinfo, &redis.VerifyOptions{Check: func(ctx context.Context, i redis.Instance) error {
		return found[1].addLists(ctx, openRedis(t, i.Socket, "", ""), len(l.services.acked))
	}}); err != nil {
		t.Fatal(err)
	}
	lite := openSQLite(t, filepath.Join(dir, "sqlite", "db"), "wal", time.Minute)
	if _, err := sqlite.Verify(t.Context(), lite, &sqlite.VerifyOptions{Check: found[2].addTable}); err != nil {
		t.Fatal(err)
	}
	return found
}

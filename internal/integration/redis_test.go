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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/hooks/redis"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

var redisPoints = flag.Int("redis.points", 3, "recovery points of Redis under load, for each layout")

// TestRedisConformance asks the server itself whether writes are held back.
func TestRedisConformance(t *testing.T) {
	for name, settings := range map[string][]string{
		"aof": {"--appendonly", "yes"},
		"rdb": {"--save", "3600 1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t, serverDir(t), settings...)
			admin := openRedis(t, s.socket, "", "")
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), nil)
				if err != nil {
					t.Fatal(err)
				}
				return hookstest.Harness{
					Quiescer: q, Frozen: s.paused, SelfThaws: true, Window: 2 * time.Second, Slack: 30 * time.Second,
					Lose: func(ctx context.Context) error { return admin.Do(ctx, "CLIENT", "UNPAUSE").Err() },
				}
			})
		})
	}
}

// TestRedisAtomicHold goes through what hookstest asks of a freeze and that
// makes sense where nothing is frozen.
func TestRedisAtomicHold(t *testing.T) {
	dir := serverDir(t)
	s := startRedis(t, dir, "--appendonly", "yes")
	q, err := redis.NewAtomic(redisConn(s.client), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}); q.Traits() != want {
		t.Errorf("Traits %+v", q.Traits())
	}
	quiesce := func() hooks.Hold {
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := hold.Held(t.Context()); err != nil {
			t.Errorf("Held: %v", err)
		}
		if paused, err := s.paused(t.Context()); paused || err != nil {
			t.Errorf("writes are paused: %t, %v", paused, err)
		}
		return hold
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if hold, err := q.Quiesce(ended, hooks.FreezeRequest{Epoch: 1}); hold != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Quiesce with an ended context: %v, %v", hold, err)
	}
	hold := quiesce()
	if _, err := hold.Thaw(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Thaw with an ended context: %v", err)
	}
	for range 2 {
		if evidence, err := hold.Thaw(t.Context()); err != nil || len(evidence) != 1 {
			t.Errorf("Thaw: %v, %v", evidence, err)
		}
	}
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Held after Thaw: %v", err)
	}
	for name, during := range map[string]func(){
		"appendonly":  func() { s.do(t, "CONFIG", "SET", "appendonly", "no") },
		"appendfsync": func() { s.do(t, "CONFIG", "SET", "appendfsync", "no") },
	} {
		hold := quiesce()
		during()
		lostHold(t, name, hold)
		s.do(t, "CONFIG", "SET", "appendonly", "yes")
		s.do(t, "CONFIG", "SET", "appendfsync", "everysec")
		waitFor(t, func() bool { return q.Prepare(t.Context()) == nil }) // the first rewrite
	}
	hold = quiesce()
	s.stop()
	startRedisAt(t, s.socket, dir, "--appendonly", "yes")
	lostHold(t, "restart", hold)
}

func lostHold(t *testing.T, name string, hold hooks.Hold) {
	t.Helper()
	if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("%s: Held: %v", name, err)
	}
	if evidence, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) || evidence != nil {
		t.Errorf("%s: Thaw: %v, %v", name, evidence, err)
	}
}

// TestRedisPreflight takes permissions and settings away, one by one.
func TestRedisPreflight(t *testing.T) {
	dir := serverDir(t)
	s := startRedis(t, dir, "--save", "3600 1")
	s.do(t, "ACL", "SETUSER", "keeper", "on", ">secret", "resetchannels")
	prepare := func(opts *redis.Options) error {
		q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "keeper", "secret")), opts)
		if err != nil {
			t.Fatal(err)
		}
		return q.Prepare(t.Context())
	}
	rules := []string{"+info", "+config|get", "+client|pause", "+bgsave", "+publish &protect:probe", "+client|unpause"}
	for i, rule := range rules {
		err := prepare(nil)
		if !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("before %s: error %v, want fs.ErrPermission", rule, err)
		}
		// Whether writes may be unpaused is tried when it is known that nobody
		// has paused them.
		for j, r := range rules[:len(rules)-1] {
			if named := strings.Contains(err.Error(), r); named != (j >= i) {
				t.Errorf("after %d rules, %q is named: %t\n%v", i, r, named, err)
			}
		}
		if !strings.Contains(err.Error(), rule) {
			t.Errorf("%q is not named: %v", rule, err)
		}
		for r := range strings.FieldsSeq(rule) {
			s.do(t, "ACL", "SETUSER", "keeper", r) // the message is the command
		}
	}
	if err := prepare(&redis.Options{Volumes: []string{dir}}); err != nil {
		t.Errorf("with all that was asked for: %v", err)
	}
	q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "keeper", "secret")), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatalf("the user cannot do what Prepare said it can: %v", err)
	}
	if _, err := hold.Thaw(t.Context()); err != nil {
		t.Error(err)
	}
	if err := prepare(&redis.Options{Volumes: []string{"/srv/elsewhere"}}); !errors.Is(err, redis.ErrUnsafe) || !strings.Contains(err.Error(), dir) {
		t.Errorf("dir elsewhere: %v", err)
	}
	s.do(t, "CLIENT", "PAUSE", "60000", "WRITE")
	if err := prepare(nil); !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("Prepare while somebody has paused writes: %v", err)
	}
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 2, Window: time.Minute}); !errors.Is(err, hooks.ErrForeignFreeze) {
		t.Errorf("Quiesce while somebody has paused writes: %v", err)
	}
	if paused, err := s.paused(t.Context()); !paused || err != nil {
		t.Errorf("somebody else's pause was ended: %v", err)
	}
	s.do(t, "CLIENT", "UNPAUSE")
}

// TestRedisRefuses starts servers that must not be copied.
func TestRedisRefuses(t *testing.T) {
	primary := startRedis(t, serverDir(t), "--save", "3600 1")
	tests := []struct {
		name     string
		settings []string
		spoil    func(t *testing.T, s *redisServer)
		want     error
	}{
		{name: "no persistence", settings: []string{"--save", ""}, want: redis.ErrUnsafe},
		{name: "replica", settings: []string{"--appendonly", "yes", "--replicaof", "127.0.0.1", "1"}, want: errors.ErrUnsupported},
		{name: "failed save", settings: []string{"--save", "3600 1"}, want: redis.ErrUnsafe, spoil: func(t *testing.T, s *redisServer) {
			if err := os.Chown(s.data, 0, 0); err != nil {
				t.Fatal(err)
			}
			_ = s.client.Do(t.Context(), "BGSAVE").Err()
			waitFor(t, func() bool {
				return strings.Contains(s.client.Info(t.Context(), "persistence").Val(), "rdb_last_bgsave_status:err")
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := startRedis(t, serverDir(t), tt.settings...)
			if tt.spoil != nil {
				tt.spoil(t, s)
			}
			redisRefuses(t, s, tt.want)
		})
	}
	redisRefuses(t, primary, nil)
}

func redisRefuses(t *testing.T, s *redisServer, want error) {
	t.Helper()
	atomic, err := redis.NewAtomic(redisConn(s.client), nil)
	if err != nil {
		t.Fatal(err)
	}
	paused, err := redis.NewPaused(redisConn(s.client), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []interface {
		hooks.Quiescer
		hooks.Preparer
	}{atomic, paused} {
		if err := q.Prepare(t.Context()); !errors.Is(err, want) {
			t.Errorf("%T: Prepare: %v, want %v", q, err, want)
		}
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
		if !errors.Is(err, want) {
			t.Errorf("%T: Quiesce: %v, want %v", q, err, want)
		}
		if err == nil {
			if _, err := hold.Thaw(t.Context()); err != nil {
				t.Errorf("%T: Thaw: %v", q, err)
			}
		}
	}
}

// TestRedisAtomic takes points of busy servers on a btrfs subvolume, without any
// freeze, while the AOF is rewritten all the time. They have what appendfsync
// promises.
func TestRedisAtomic(t *testing.T) {
	for fsync, ago := range map[string]time.Duration{"always": 0, "everysec": 3 * time.Second} {
		t.Run(fsync, func(t *testing.T) {
			mount := mountFS(t, "btrfs")
			sub := filepath.Join(mount, "shop")
			system(t, "btrfs", "subvolume", "create", sub)
			data := own(t, filepath.Join(own(t, sub), "data"))
			s := startRedis(t, data, "--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-min-size", "64kb", "--auto-aof-rewrite-percentage", "50")
			load := startRedisLoad(t, s, 4, 500, time.Millisecond)
			drv, err := btrfs.New(own(t, filepath.Join(mount, "snapshots")), nil)
			if err != nil {
				t.Fatal(err)
			}
			q, err := redis.NewAtomic(redisConn(openRedis(t, s.socket, "", "")), &redis.Options{Volumes: []string{sub}})
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return !slices.Contains(load.before(ago), 0) })
			takeRedisPoints(t, newProtector(t, drv), &noting{Quiescer: q, load: load, ago: ago}, data)
		})
	}
}

// TestRedisPaused takes points of busy servers by cloning the files, one by one.
func TestRedisPaused(t *testing.T) {
	for name, settings := range map[string][]string{
		"aof": {"--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-min-size", "64kb", "--auto-aof-rewrite-percentage", "50", "--save", "1 1"},
		"rdb": {"--appendonly", "no", "--save", "1 1"},
	} {
		t.Run(name, func(t *testing.T) {
			mount := mountFS(t, "xfs")
			data := own(t, filepath.Join(own(t, filepath.Join(mount, "shop")), "data"))
			s := startRedis(t, data, settings...)
			load := startRedisLoad(t, s, 4, 500, time.Millisecond)
			drv, err := reflink.New(own(t, filepath.Join(mount, "snapshots")), nil)
			if err != nil {
				t.Fatal(err)
			}
			q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), &redis.Options{Volumes: []string{data}})
			if err != nil {
				t.Fatal(err)
			}
			takeRedisPoints(t, newProtector(t, drv), &noting{Quiescer: q, load: load}, data)
			t.Logf("the longest transfer took %v", time.Duration(load.longest.Load()))
		})
	}
}

// takeRedisPoints takes recovery points, restores and verifies each.
func takeRedisPoints(t *testing.T, p *protect.Protector, note *noting, data string) {
	t.Helper()
	app := protect.Application{
		Name:    "shop",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}},
		Members: []protect.Member{{Name: "redis", Quiescer: note}},
		Window:  hooks.MaxWindow,
		Require: protect.ApplicationConsistent,
	}
	for i := range *redisPoints {
		note.load.waitMore(t, 20)
		rp, err := p.Run(t.Context(), app, fmt.Sprint("point-", i))
		if err != nil {
			t.Fatal(err)
		}
		dir := restoreRedis(t, p, rp.ID)
		info, err := redis.PrepareRestore(t.Context(), dir, rp.Point.Evidence["redis"], &redis.RestoreOptions{Owner: new(redis.Owner(serverAccount(t)))})
		if err != nil {
			t.Fatal(err)
		}
		v, err := redis.Verify(t.Context(), redisBin(t), dir, info, &redis.VerifyOptions{Check: note.load.check(t, note.at)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s, window %v; %d keys (%d then) of %d files with %d bytes, %d dropped, loaded in %v of %v; acknowledged %v",
			rp.ID, rp.Level, rp.Frozen, v.Keys, info.Keys, v.Files, v.Bytes, v.Dropped, v.Load, v.Took, note.at)
	}
}

// restoreRedis restores a point and returns the data directory.
func restoreRedis(t *testing.T, p *protect.Protector, id string) string {
	t.Helper()
	target := filepath.Join(serverDir(t), "restored")
	if _, err := p.Restore(t.Context(), id, target, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(target, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(target, "data")
}

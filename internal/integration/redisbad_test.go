// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/redis"
)

// redisCopy pauses a busy server, copies its files, and returns the copy, its
// evidence, and what was acknowledged.
func redisCopy(t *testing.T, s *redisServer, load *redisLoad) (string, hooks.Evidence, []int64) {
	t.Helper()
	q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	before := load.seen()
	dir := filepath.Join(serverDir(t), "copy")
	system(t, "cp", "-a", s.data, dir)
	evidence, err := hold.Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir, evidence, before
}

// verifyRedis prepares and verifies a copy of a copy.
func verifyRedis(t *testing.T, dir string, evidence hooks.Evidence, check func(context.Context, redis.Instance) error) error {
	t.Helper()
	info, err := redis.PrepareRestore(t.Context(), dir, evidence, &redis.RestoreOptions{Owner: new(redis.Owner(serverAccount(t)))})
	if err != nil {
		return err
	}
	_, err = redis.Verify(t.Context(), redisBin(t), dir, info, &redis.VerifyOptions{Check: check})
	return err
}

// glob returns the only file of that name, or the newest.
func glob(t *testing.T, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	return names[len(names)-1]
}

// change rewrites a file.
func change(t *testing.T, name string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, f(b), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func cutOff(b []byte) []byte { return b[:len(b)-7] }

// TestRedisBadCopies damages good copies in ways that copies are damaged.
func TestRedisBadCopies(t *testing.T) {
	const base, incr, manifest = "appendonlydir/*.base.rdb", "appendonlydir/*.incr.aof", "appendonlydir/*.manifest"
	s := startRedis(t, serverDir(t), "--appendonly", "yes")
	load := startRedisLoad(t, s, 4, 200, 0)
	load.waitMore(t, 100)
	s.do(t, "BGREWRITEAOF")
	load.waitMore(t, 100)
	early, _, _ := redisCopy(t, s, load)
	s.do(t, "BGREWRITEAOF")
	load.waitMore(t, 500)
	copied, evidence, before := redisCopy(t, s, load)
	replace := func(t *testing.T, dir, pattern string) {
		b, err := os.ReadFile(glob(t, early, pattern))
		if err != nil {
			t.Fatal(err)
		}
		change(t, glob(t, dir, pattern), func([]byte) []byte { return b })
	}
	bad := map[string]func(t *testing.T, dir string){
		"incr missing":           func(t *testing.T, dir string) { remove(t, glob(t, dir, incr)) },
		"base missing":           func(t *testing.T, dir string) { remove(t, glob(t, dir, base)) },
		"manifest missing":       func(t *testing.T, dir string) { remove(t, glob(t, dir, manifest)) },
		"manifest cut off":       func(t *testing.T, dir string) { change(t, glob(t, dir, manifest), cutOff) },
		"manifest of old":        func(t *testing.T, dir string) { replace(t, dir, manifest) },
		"base of another time":   func(t *testing.T, dir string) { replace(t, dir, base) },
		"incr of another time":   func(t *testing.T, dir string) { replace(t, dir, incr) },
		"incr cut off":           func(t *testing.T, dir string) { change(t, glob(t, dir, incr), cutOff) },
		"base cut off":           func(t *testing.T, dir string) { change(t, glob(t, dir, base), cutOff) },
		"base with a wrong byte": func(t *testing.T, dir string) { change(t, glob(t, dir, base), flip) },
		"incr with zeros": func(t *testing.T, dir string) {
			change(t, glob(t, dir, incr), func(b []byte) []byte { clear(b[len(b)/2 : len(b)/2+4096]); return b })
		},
	}
	redisBad(t, load, copied, evidence, before, bad)

	// Without the promise of a pause the end may be half a command, but no more.
	atomic := hooks.Evidence{"redis.json": []byte(`{"format":1,"method":"atomic","appendonly":true,"appendfilename":"appendonly.aof","appenddirname":"appendonlydir"}`)}
	for name, pass := range map[string]bool{"incr cut off": true, "incr missing": false, "base cut off": false, "base with a wrong byte": false, "incr with zeros": false, "manifest missing": false} {
		dir := filepath.Join(serverDir(t), "copy")
		system(t, "cp", "-a", copied, dir)
		bad[name](t, dir)
		if err := verifyRedis(t, dir, atomic, nil); (err == nil) != pass || !pass && !errors.Is(err, redis.ErrInconsistent) {
			t.Errorf("%s in a cut at one instant: %v", name, err)
		}
	}
	// A base of another time loads there; the application's own check tells.
	dir := filepath.Join(serverDir(t), "copy")
	system(t, "cp", "-a", copied, dir)
	bad["base of another time"](t, dir)
	if err := verifyRedis(t, dir, atomic, load.check(t, before)); err == nil {
		t.Error("a base of another time passed the application's check")
	}
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 0x10
	return b
}

// redisBad checks that a copy is good, and that none of its bad copies is.
func redisBad(t *testing.T, load *redisLoad, copied string, evidence hooks.Evidence, before []int64, bad map[string]func(t *testing.T, dir string)) {
	t.Helper()
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(serverDir(t), "copy")
			system(t, "cp", "-a", copied, dir)
			spoil(t, dir)
			err := verifyRedis(t, dir, evidence, nil)
			t.Logf("%.200v", err)
			if !errors.Is(err, redis.ErrInconsistent) {
				t.Errorf("it passed: %v", err)
			}
		})
	}
	dir := filepath.Join(serverDir(t), "copy")
	system(t, "cp", "-a", copied, dir)
	if err := verifyRedis(t, dir, evidence, load.check(t, before)); err != nil {
		t.Errorf("the good copy: %v", err)
	}
}

// TestRedisBadDumps does the same with a server that has RDB only.
func TestRedisBadDumps(t *testing.T) {
	s := startRedis(t, serverDir(t), "--save", "3600 1")
	load := startRedisLoad(t, s, 4, 200, 0)
	load.waitMore(t, 50)
	early, _, _ := redisCopy(t, s, load)
	s.do(t, "SET", "late", "x")
	load.waitMore(t, 200)
	copied, evidence, before := redisCopy(t, s, load)
	info, err := redis.PrepareRestore(t.Context(), copied, evidence, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redis.Verify(t.Context(), t.TempDir(), copied, info, nil); err == nil || errors.Is(err, redis.ErrInconsistent) {
		t.Errorf("Verify without the programs blames the files: %v", err)
	}
	redisBad(t, load, copied, evidence, before, map[string]func(t *testing.T, dir string){
		"missing": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "dump.rdb")) },
		"empty": func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "dump.rdb"), func([]byte) []byte { return nil })
		},
		"cut off":           func(t *testing.T, dir string) { change(t, filepath.Join(dir, "dump.rdb"), cutOff) },
		"with a wrong byte": func(t *testing.T, dir string) { change(t, filepath.Join(dir, "dump.rdb"), flip) },
		"of another time": func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(early, "dump.rdb"))
			if err != nil {
				t.Fatal(err)
			}
			change(t, filepath.Join(dir, "dump.rdb"), func([]byte) []byte { return b })
		},
	})
}

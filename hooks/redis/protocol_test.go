// SPDX-License-Identifier: Apache-2.0

package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/redis"
)

// fakeServer answers as a server of some version would, for the versions that no
// test machine has. What it says is from the manuals, not from a server.
type fakeServer struct {
	info    string // appended to what all servers say; the last one counts
	reply   func(name, value string) any
	denied  string // a command
	started time.Time

	mu               sync.Mutex
	log              []string
	pauses, unpauses int
	saves            int
}

const fakeInfo = "# Server\r\nredis_version:7.2.4\r\nrun_id:abc\r\nrole:master\r\nloading:0\r\naof_enabled:1\r\naof_last_write_status:ok\r\n" +
	"aof_last_bgrewrite_status:ok\r\nrdb_last_bgsave_status:ok\r\naof_current_size:100\r\naof_base_size:80\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb11:keys=2,expires=0\r\n"

func (f *fakeServer) Do(_ context.Context, args ...any) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	command := strings.TrimSpace(fmt.Sprintln(args...))
	f.log = append(f.log, command)
	if f.denied != "" && strings.HasPrefix(command, f.denied) {
		return nil, errors.New("NOPERM this user has no permissions")
	}
	switch {
	case command == "INFO all":
		stats := fmt.Sprintf("server_time_usec:%d\r\ncmdstat_client|pause:calls=%d,usec=1\r\ncmdstat_client|unpause:calls=%d,usec=1\r\n",
			f.started.UnixMicro()+int64(len(f.log)), f.pauses, f.unpauses)
		return []byte(fakeInfo + stats + f.info), nil
	case strings.HasPrefix(command, "CONFIG GET "):
		name := args[2].(string)
		value := map[string]string{"dir": "/data", "dbfilename": "dump.rdb", "save": "3600 1", "appendfsync": "everysec", "appendfilename": "appendonly.aof", "appenddirname": "appendonlydir"}[name]
		return f.reply(name, value), nil
	case strings.HasPrefix(command, "CLIENT PAUSE") && args[len(args)-1] == "WRITE":
		f.pauses++
		return "OK", nil
	case command == "CLIENT UNPAUSE":
		f.unpauses++
		return "OK", nil
	case command == "BGSAVE":
		f.saves++
		return "Background saving started", nil
	case strings.HasPrefix(command, "PUBLISH protect:probe"):
		return int64(0), nil
	}
	return nil, errors.New("ERR syntax error")
}

func (f *fakeServer) called(command string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.log, func(c string) bool { return strings.HasPrefix(c, command) })
}

func list(name, value string) any   { return []any{name, value} }
func octets(name, value string) any { return []any{[]byte(name), []byte(value)} }
func object(name, value string) any { return map[any]any{name: value} }

// TestReplies takes a pause through what clients make of the two versions of the
// protocol, and through what Valkey says of itself.
func TestReplies(t *testing.T) {
	for name, tt := range map[string]struct {
		reply            func(string, string) any
		info             string
		product, version string
	}{
		"RESP2 strings": {list, "", "redis", "7.2.4"},
		"RESP2 bytes":   {octets, "", "redis", "7.2.4"},
		"RESP3":         {object, "redis_version:8.4.0\r\n", "redis", "8.4.0"},
		"Valkey":        {object, "server_name:valkey\r\nvalkey_version:8.1.1\r\nmodule:name=json,ver=10002,api=1\r\ncluster_enabled:1\r\n", "valkey", "8.1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeServer{reply: tt.reply, info: tt.info, started: time.Now()}
			q, err := redis.NewPaused(f, &redis.Options{Volumes: []string{"/data"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
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
			info, err := redis.ParseEvidence(evidence)
			if err != nil {
				t.Fatal(err)
			}
			if info.Product != tt.product || info.Version != tt.version || info.Dir != "/data" || info.Keys != 5 || info.Expires != 1 || info.Databases != 2 || info.AOFLeast != 100 {
				t.Errorf("%+v", info)
			}
			if name == "Valkey" && (!info.Cluster || len(info.Modules) != 1) {
				t.Errorf("%+v", info)
			}
			if f.called("BGSAVE") && !f.called("BGSAVE ?") || f.called("CONFIG SET") || f.called("BACKUP") {
				t.Errorf("called %q", f.log)
			}
		})
	}
}

// TestVersions asks which servers are taken.
func TestVersions(t *testing.T) {
	const rdb = "aof_enabled:0\r\n"
	for name, tt := range map[string]struct {
		info, denied   string
		atomic, paused error
		says           string
	}{
		"5.0":           {info: "redis_version:5.0.14\r\n", atomic: errors.ErrUnsupported, paused: errors.ErrUnsupported, says: "5.0"},
		"6.2":           {info: "redis_version:6.2.14\r\n", paused: errors.ErrUnsupported, says: "6.2"},
		"RDB only":      {info: rdb},
		"replica":       {info: "role:slave\r\n", atomic: errors.ErrUnsupported, paused: errors.ErrUnsupported, says: "replica"},
		"loading":       {info: "loading:1\r\n", atomic: redis.ErrUnsafe, paused: redis.ErrUnsafe, says: "loading"},
		"AOF write":     {info: "aof_last_write_status:err\r\n", atomic: redis.ErrUnsafe, paused: redis.ErrUnsafe, says: "aof_last_write_status"},
		"AOF rewrite":   {info: "aof_last_bgrewrite_status:err\r\n", atomic: redis.ErrUnsafe, paused: redis.ErrUnsafe, says: "aof_last_bgrewrite_status"},
		"save":          {info: rdb + "rdb_last_bgsave_status:err\r\n", atomic: redis.ErrUnsafe, paused: redis.ErrUnsafe, says: "rdb_last_bgsave_status"},
		"no INFO":       {denied: "INFO", atomic: fs.ErrPermission, paused: fs.ErrPermission, says: "+info"},
		"no CONFIG":     {denied: "CONFIG", atomic: fs.ErrPermission, paused: fs.ErrPermission, says: "+config|get"},
		"RDB no BGSAVE": {info: rdb, denied: "BGSAVE", atomic: fs.ErrPermission, paused: fs.ErrPermission, says: "+bgsave"},
		"AOF no BGSAVE": {denied: "BGSAVE"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeServer{reply: list, info: tt.info, denied: tt.denied, started: time.Now()}
			atomic, err := redis.NewAtomic(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			paused, err := redis.NewPaused(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				err, want error
			}{{atomic.Prepare(t.Context()), tt.atomic}, {paused.Prepare(t.Context()), tt.paused}} {
				if !errors.Is(c.err, c.want) || c.err != nil && !strings.Contains(c.err.Error(), tt.says) {
					t.Errorf("Prepare: %v, want %v with %q", c.err, c.want, tt.says)
				}
			}
			if want := strings.Contains(tt.info, rdb) && tt.atomic == nil; (f.saves > 0) != want {
				t.Errorf("Prepare has saved: %d, want %t", f.saves, want)
			}
		})
	}
}

// TestRewriteDue waits while the server is about to rewrite its AOF.
func TestRewriteDue(t *testing.T) {
	f := &fakeServer{info: "aof_current_size:200\r\naof_base_size:100\r\n", started: time.Now(), reply: func(name, value string) any {
		return []any{name, map[string]string{"auto-aof-rewrite-percentage": "100", "auto-aof-rewrite-min-size": "150"}[name] + value}
	}}
	q, err := redis.NewPaused(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Quiesce: %v", err)
	}
	if f.pauses != 0 {
		t.Error("writes were paused while a rewrite was due")
	}
}

func TestParseEvidence(t *testing.T) {
	good := map[string]any{"format": 1, "method": "paused", "appendonly": true, "appendfilename": "a.aof", "appenddirname": "d", "dbfilename": "dump.rdb"}
	for name, tt := range map[string]struct {
		key   string
		value any
		ok    bool
	}{
		"good": {"format", 1, true}, "format": {"format", 2, false}, "method": {"method", "x", false},
		"file": {"appendfilename", "../a.aof", false}, "directory": {"appenddirname", "/etc", false}, "parent": {"appenddirname", "..", false},
		"an option": {"appendfilename", "--loadmodule", false}, "single file": {"appenddirname", "", true}, "no AOF": {"appendonly", false, true},
	} {
		m := maps.Clone(good)
		m[tt.key] = tt.value
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := redis.ParseEvidence(hooks.Evidence{"redis.json": b}); (err == nil) != tt.ok || err != nil && !errors.Is(err, redis.ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := redis.ParseEvidence(nil); !errors.Is(err, redis.ErrInconsistent) {
		t.Errorf("no evidence: %v", err)
	}
}

func TestNew(t *testing.T) {
	for name, err := range map[string]error{
		"nil":      second(redis.NewAtomic(nil, nil)),
		"relative": second(redis.NewAtomic(new(fakeServer), &redis.Options{Volumes: []string{"data"}})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_ *redis.Atomic, err error) error { return err }

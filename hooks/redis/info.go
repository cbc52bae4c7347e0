// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// server is what INFO says at one moment.
type server struct {
	product, version  string // "redis" or "valkey"; the version of Redis that it is compatible with
	major, minor      int
	runID, replID     string
	offset            int64
	master, loading   bool
	cluster           bool
	now               time.Time // by the server's clock
	saving, rewriting bool      // rewriting is also true if a rewrite is to begin
	forked            bool      // a module has a child
	saveOK, rewriteOK bool
	writeOK           bool
	changes           int64 // since the last save
	lastSave          int64
	saves, rewrites   int64
	aof               bool
	aofSize, aofBase  int64
	aofBuffer         int64 // bytes that are not written yet
	pauses, unpauses  int64 // how often the commands were called
	resets, commands  int64 // the same, of CONFIG RESETSTAT, which forgets it, and of all
	databases         int
	keys, expires     int64
	modules           []string
}

// parseInfo reads the reply of INFO. What a server does not say is zero.
func parseInfo(info string) (*server, error) {
	f := make(map[string]string)
	s := new(server)
	for line := range strings.Lines(info) {
		k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if !ok {
			continue
		}
		if k == "module" {
			s.modules = append(s.modules, v)
			continue
		}
		if _, err := strconv.Atoi(strings.TrimPrefix(k, "db")); err == nil && strings.HasPrefix(k, "db") {
			s.databases++
			s.keys += part(v, "keys")
			s.expires += part(v, "expires")
			continue
		}
		f[k] = v
	}
	if f["run_id"] == "" || f["role"] == "" || f["aof_enabled"] == "" {
		return nil, errors.New("INFO: the reply lacks run_id, role or aof_enabled")
	}
	if _, err := fmt.Sscanf(f["redis_version"], "%d.%d", &s.major, &s.minor); err != nil {
		return nil, fmt.Errorf("INFO: version %.40q: %w", f["redis_version"], err)
	}
	s.fill(f)
	return s, nil
}

func (s *server) fill(f map[string]string) {
	num := func(name string) int64 {
		n, _ := strconv.ParseInt(f[name], 10, 64)
		return n
	}
	yes := func(name string) bool { return num(name) != 0 }
	s.product, s.version = "redis", f["redis_version"]
	if f["server_name"] == "valkey" {
		s.product, s.version = "valkey", f["valkey_version"]
	}
	s.runID, s.replID, s.offset = f["run_id"], f["master_replid"], num("master_repl_offset")
	s.master, s.cluster = f["role"] == "master", yes("cluster_enabled")
	s.loading = yes("loading") || yes("async_loading")
	s.now = time.UnixMicro(num("server_time_usec"))
	s.saving, s.forked = yes("rdb_bgsave_in_progress"), yes("module_fork_in_progress")
	s.rewriting = yes("aof_rewrite_in_progress") || yes("aof_rewrite_scheduled")
	s.saveOK, s.rewriteOK = f["rdb_last_bgsave_status"] == "ok", f["aof_last_bgrewrite_status"] == "ok"
	s.writeOK = f["aof_last_write_status"] == "ok"
	s.changes, s.lastSave = num("rdb_changes_since_last_save"), num("rdb_last_save_time")
	s.saves, s.rewrites = num("rdb_saves"), num("aof_rewrites")
	s.aof, s.aofSize, s.aofBase, s.aofBuffer = yes("aof_enabled"), num("aof_current_size"), num("aof_base_size"), num("aof_buffer_length")
	s.resets, s.commands = part(f["cmdstat_config|resetstat"], "calls"), num("total_commands_processed")
	s.pauses, s.unpauses = part(f["cmdstat_client|pause"], "calls"), part(f["cmdstat_client|unpause"], "calls")
}

// part returns a number out of "a=1,b=2".
func part(list, name string) int64 {
	for p := range strings.SplitSeq(list, ",") {
		if k, v, _ := strings.Cut(p, "="); k == name {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// busy says whether a child of the server is writing files.
func (s *server) busy() bool { return s.saving || s.rewriting || s.forked }

// firstRewrite says whether this may be the rewrite without which there is no
// complete AOF: it has been switched on.
func (s *server) firstRewrite() bool { return s.aof && s.rewriting && s.aofBase == 0 }

// rewriteDue says whether the server will start to rewrite its AOF by itself:
// it looks several times a second, and at nothing but these numbers.
func (s *server) rewriteDue(set settings) bool {
	percentage, _ := strconv.ParseInt(set.rewritePercentage, 10, 64)
	least, _ := strconv.ParseInt(set.rewriteMinSize, 10, 64)
	if !s.aof || percentage == 0 || s.aofSize <= least {
		return false
	}
	return s.aofSize*100/max(1, s.aofBase)-100 >= percentage
}

// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/stillpoint-go/protect/hooks"
)

// Method says how the files were held.
type Method string

const (
	// MethodAtomic is a cut at one instant of a server that went on writing.
	MethodAtomic Method = "atomic"
	// MethodPaused is a cut while writes were paused.
	MethodPaused Method = "paused"
)

const (
	infoFormat   = 1
	evidenceInfo = "redis.json"
	maxModules   = 32  // in evidence
	maxModule    = 100 // bytes of each
)

// Info is what a hold has recorded of the server, its evidence.
type Info struct {
	Format  int    `json:"format"`
	Method  Method `json:"method"`
	Product string `json:"product"` // "redis" or "valkey"
	Version string `json:"version"`
	// RunID is that of the server's process, ReplicationID and Offset are those
	// of its stream of writes. A server that never had a replica may count none.
	RunID         string `json:"run_id"`
	ReplicationID string `json:"replication_id"`
	Offset        int64  `json:"offset"`
	Cluster       bool   `json:"cluster,omitempty"`
	// Modules are those that the server had loaded, the first 32.
	Modules []string `json:"modules,omitempty"`
	// Dir and the names of the files in it are settings of the server.
	Dir            string `json:"dir"`
	DBFilename     string `json:"dbfilename"`
	AppendOnly     bool   `json:"appendonly"`
	AppendFsync    string `json:"appendfsync"`
	AppendFilename string `json:"appendfilename"`
	AppendDir      string `json:"appenddirname,omitempty"` // empty before version 7
	// AOFLeast and AOFMost bound the size of the AOF in the cut, in bytes, by what
	// the server said before and after; 0 is no bound. It does not count the base
	// file that it made when it was started without any.
	AOFLeast int64 `json:"aof_least"`
	AOFMost  int64 `json:"aof_most"`
	// LastSave is when the last RDB was saved, in seconds since 1970, and Changes
	// how many changes there were since.
	LastSave int64 `json:"last_save"`
	Changes  int64 `json:"changes"`
	// Databases, Keys and Expires are what the server held: exactly what the cut
	// has if writes were paused, and before the cut otherwise. Expires of the
	// keys have an end.
	Databases int   `json:"databases"`
	Keys      int64 `json:"keys"`
	Expires   int64 `json:"expires"`
}

func newInfo(m Method, srv *server, set settings) *Info {
	i := &Info{
		Format: infoFormat, Method: m, Product: srv.product, Version: srv.version,
		RunID: srv.runID, ReplicationID: srv.replID, Offset: srv.offset, Cluster: srv.cluster,
		Dir: set.dir, DBFilename: set.dbFilename, AppendOnly: srv.aof, AppendFsync: set.appendFsync,
		AppendFilename: set.appendFilename, AppendDir: set.appendDir,
		LastSave: srv.lastSave, Changes: srv.changes, Databases: srv.databases, Keys: srv.keys, Expires: srv.expires,
	}
	if m == MethodPaused && srv.aof {
		i.AOFLeast, i.AOFMost = srv.aofSize, srv.aofSize
	}
	for _, m := range srv.modules[:min(maxModules, len(srv.modules))] {
		i.Modules = append(i.Modules, strings.ToValidUTF8(m[:min(maxModule, len(m))], "?"))
	}
	return i
}

// evidence returns what is stored with the recovery point.
func (i *Info) evidence() (hooks.Evidence, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	return hooks.Evidence{evidenceInfo: b}, nil
}

// ParseEvidence returns what Thaw has returned: the evidence of this member
// that is stored with the recovery point. The error matches ErrInconsistent.
func ParseEvidence(e hooks.Evidence) (*Info, error) {
	i := new(Info)
	if err := json.Unmarshal(e[evidenceInfo], i); err != nil {
		return nil, fmt.Errorf("%w: the evidence has no %s that can be read: %w", ErrInconsistent, evidenceInfo, err)
	}
	if i.Format != infoFormat {
		return nil, fmt.Errorf("%w: evidence of format %d, this release reads %d", ErrInconsistent, i.Format, infoFormat)
	}
	if i.Method != MethodAtomic && i.Method != MethodPaused {
		return nil, fmt.Errorf("%w: unknown method %.40q", ErrInconsistent, i.Method)
	}
	names := []string{i.DBFilename}
	if i.AppendOnly {
		names = []string{i.AppendFilename}
		if i.AppendDir != "" {
			names = append(names, i.AppendDir)
		}
	}
	for _, name := range names {
		// They become options of a program, too.
		if name == "" || name == "." || name == ".." || name[0] == '-' || name != filepath.Base(name) {
			return nil, fmt.Errorf("%w: %.100q is no name of a file", ErrInconsistent, name)
		}
	}
	return i, nil
}

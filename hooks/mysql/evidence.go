// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// Method says what was frozen.
type Method string

const (
	// MethodAtomic freezes nothing: the cut recovers as from a power failure.
	MethodAtomic Method = "atomic"
	// MethodBackup blocks DDL, and all writes if other engines need it.
	MethodBackup Method = "backup"
)

// infoFormat is the version of Info in evidence.
const infoFormat = 1

// The names in hooks.Evidence.
const (
	evidenceInfo = "mysql.json"
	evidenceLog  = "log_status.json"
)

// Info is what a hold has recorded of the server, its evidence.
type Info struct {
	Format     int    `json:"format"`
	Method     Method `json:"method"`
	Version    string `json:"version"`
	ServerUUID string `json:"server_uuid"`
	ServerID   int64  `json:"server_id"`
	// Blocked says that all writes were blocked, so that GTID and the position
	// in the binary log are those of the cut; else the cut has at least these.
	Blocked    bool   `json:"blocked"`
	GTID       string `json:"gtid_executed,omitempty"`
	BinlogFile string `json:"binlog_file,omitempty"`
	BinlogPos  int64  `json:"binlog_pos,omitempty"`
	// BinlogName is the base name of the files, and BinlogIndex that of their
	// index: the first start has to find them.
	BinlogName  string `json:"binlog_name,omitempty"`
	BinlogIndex string `json:"binlog_index,omitempty"`
	// StartLSN and StopLSN are how far InnoDB was before and after the cut.
	StartLSN uint64 `json:"start_lsn"`
	StopLSN  uint64 `json:"stop_lsn"`
	// PageSize is that of InnoDB, in bytes.
	PageSize int64 `json:"page_size"`
	// Settings are those without which the files are not read, or not rightly.
	Settings map[string]string `json:"settings"`
	// Dirs are places outside of the data directory, by the setting that names
	// them; "log_bin" is where the binary log is.
	Dirs map[string]string `json:"dirs,omitempty"`
	// LogStatus is the row of performance_schema.log_status, as JSON, with the
	// channels of replication.
	LogStatus []byte `json:"-"`

	restored map[string]string // Dirs of the restored server
}

// settingsKept are the names of Info.Settings.
func settingsKept() []string {
	return []string{"innodb_page_size", "innodb_data_file_path", "lower_case_table_names", "gtid_mode", "enforce_gtid_consistency"}
}

// logStatus is the row of performance_schema.log_status.
type logStatus struct {
	ServerUUID string          `json:"server_uuid"`
	Local      json.RawMessage `json:"local"`
	Channels   json.RawMessage `json:"replication"`
	Engines    json.RawMessage `json:"storage_engines"`

	local struct {
		GTID string `json:"gtid_executed"`
		File string `json:"binary_log_file"`
		Pos  int64  `json:"binary_log_position"`
	}
	lsn uint64
}

func readLogStatus(ctx context.Context, s *innodb.Session) (*logStatus, error) {
	l := new(logStatus)
	var local, channels, engines []byte
	err := s.Row(ctx, "SELECT SERVER_UUID, LOCAL, REPLICATION, STORAGE_ENGINES FROM performance_schema.log_status", &l.ServerUUID, &local, &channels, &engines)
	if err != nil {
		return nil, err
	}
	l.Local, l.Channels, l.Engines = local, channels, engines
	return l, l.parse()
}

func (l *logStatus) parse() error {
	if err := json.Unmarshal(l.Local, &l.local); err != nil {
		return fmt.Errorf("log_status: LOCAL: %w", err)
	}
	var engines struct {
		InnoDB struct{ LSN uint64 }
	}
	if err := json.Unmarshal(l.Engines, &engines); err != nil {
		return fmt.Errorf("log_status: STORAGE_ENGINES: %w", err)
	}
	l.lsn = engines.InnoDB.LSN
	return nil
}

// read returns what is to be known of the server in this freeze.
func (h *hold) read(ctx context.Context) (*Info, error) {
	l, err := readLogStatus(ctx, h.s)
	if err != nil {
		return nil, err
	}
	set := h.srv.Settings
	i := &Info{
		Format: infoFormat, Method: h.q.method, Version: h.srv.text, ServerUUID: l.ServerUUID, ServerID: set.Int("server_id"),
		Blocked: h.blocked(), GTID: l.local.GTID, StartLSN: l.lsn, PageSize: set.Int("innodb_page_size"), Settings: make(map[string]string), Dirs: set.Dirs(),
	}
	for _, name := range settingsKept() {
		if v := set[name]; v != "" {
			i.Settings[name] = v
		}
	}
	if set.On("log_bin") {
		i.BinlogFile, i.BinlogPos = l.local.File, l.local.Pos
		i.BinlogName, i.BinlogIndex = path.Base(set["log_bin_basename"]), path.Base(set["log_bin_index"])
	}
	i.LogStatus, err = json.Marshal(l)
	return i, err
}

// evidence returns what is stored with the recovery point.
func (i *Info) evidence() (hooks.Evidence, error) {
	b, err := json.Marshal(i)
	return hooks.Evidence{evidenceInfo: b, evidenceLog: i.LogStatus}, err
}

// ParseEvidence returns what Thaw has returned: the evidence of this member that
// is stored with the recovery point. The error matches ErrInconsistent.
func ParseEvidence(e hooks.Evidence) (*Info, error) {
	i := new(Info)
	if err := json.Unmarshal(e[evidenceInfo], i); err != nil {
		return nil, fmt.Errorf("%w: the evidence has no %s that can be read: %w", ErrInconsistent, evidenceInfo, err)
	}
	if i.Format != infoFormat {
		return nil, inconsistent("evidence of format %d, this release reads %d", i.Format, infoFormat)
	}
	if i.Method != MethodAtomic && i.Method != MethodBackup {
		return nil, inconsistent("unknown method %.40q", i.Method)
	}
	if i.ServerUUID == "" || i.StartLSN == 0 || i.StartLSN > i.StopLSN || i.PageSize < 4<<10 || i.PageSize > 64<<10 || i.PageSize&(i.PageSize-1) != 0 {
		return nil, inconsistent("the evidence makes no sense: server %.40q, LSN %d to %d, pages of %d bytes", i.ServerUUID, i.StartLSN, i.StopLSN, i.PageSize)
	}
	if err := innodb.CheckKept(i.Settings, settingsKept()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	for _, name := range []string{i.BinlogFile, i.BinlogName, i.BinlogIndex} {
		if name != "" && (path.Base(name) != name || name == "." || name == "..") {
			return nil, inconsistent("the evidence names a binary log %.80q", name)
		}
	}
	i.LogStatus = e[evidenceLog]
	return i, nil
}

// SPDX-License-Identifier: Apache-2.0

package mariadb

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// Method says what was frozen.
type Method string

const (
	// MethodAtomic freezes nothing: the cut recovers as from a power failure.
	MethodAtomic Method = "atomic"
	// MethodBackup blocks commits while the volumes are cut at one instant.
	MethodBackup Method = "backup"
	// MethodStill has the server write nothing while the volumes are cut.
	MethodStill Method = "still"
)

// freeze returns the statements that begin the freeze. The last one makes sure
// that what was acknowledged is on disk.
func (m Method) freeze() []string {
	switch m {
	case MethodBackup:
		return []string{"BACKUP STAGE START", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL", "BACKUP STAGE BLOCK_COMMIT", "FLUSH ENGINE LOGS"}
	case MethodStill:
		return []string{"FLUSH TABLES WITH READ LOCK", "FLUSH ENGINE LOGS"}
	default:
		return nil
	}
}

// thaw returns the statement that ends the freeze.
func (m Method) thaw() string {
	if m == MethodStill {
		return "UNLOCK TABLES"
	}
	return "BACKUP STAGE END"
}

// infoFormat is the version of Info in evidence.
const infoFormat = 1

// evidenceInfo is the name in hooks.Evidence.
const evidenceInfo = "mariadb.json"

// Info is what a hold has recorded of the server, its evidence.
type Info struct {
	Format  int    `json:"format"`
	Method  Method `json:"method"`
	Version string `json:"version"`
	// ServerID is the setting server_id, and ServerUID that of the
	// installation, for people; a restored server gets another one.
	ServerID  int64  `json:"server_id"`
	ServerUID string `json:"server_uid,omitempty"`
	// GTID is gtid_binlog_pos: all of it is in the cut. After NewAtomic there
	// may be more.
	GTID        string `json:"gtid_binlog_pos,omitempty"`
	GTIDCurrent string `json:"gtid_current_pos,omitempty"` // with what a replica has applied
	// BinlogFile and BinlogPos are where the binary log was; empty and 0
	// without one. For point-in-time recovery, replay from there.
	BinlogFile string `json:"binlog_file,omitempty"`
	BinlogPos  int64  `json:"binlog_pos,omitempty"`
	// BinlogName is the base name of the files, and BinlogIndex that of their
	// index: the first start has to find them.
	BinlogName  string `json:"binlog_name,omitempty"`
	BinlogIndex string `json:"binlog_index,omitempty"`
	// CheckpointLSN, StartLSN and StopLSN are positions of InnoDB's redo log:
	// the newest checkpoint before the cut, how far it was on disk before, and
	// how far it was after.
	CheckpointLSN uint64 `json:"checkpoint_lsn"`
	StartLSN      uint64 `json:"start_lsn"`
	StopLSN       uint64 `json:"stop_lsn"`
	// TablespaceCount is how many tablespaces there are, TablespaceNames the
	// SHA-256 of their names, and Tablespaces that of names and numbers; 0 and
	// empty if tables were created or dropped during the cut.
	TablespaceCount int    `json:"tablespace_count,omitempty"`
	TablespaceNames string `json:"tablespace_names,omitempty"`
	Tablespaces     string `json:"tablespaces,omitempty"`
	// TableCount is how many tables and views there are, of all engines; 0 if
	// that changed during the cut.
	TableCount int `json:"table_count,omitempty"`
	// PageSize is that of InnoDB, in bytes.
	PageSize int64 `json:"page_size"`
	// Settings are those without which the files are not read, or not rightly.
	Settings map[string]string `json:"settings"`
	// Dirs are places outside of the data directory, by the setting that names
	// them; "log_bin" is where the binary log is.
	Dirs map[string]string `json:"dirs,omitempty"`

	restored map[string]string // Dirs of the restored server
}

// settingsKept are the names of Info.Settings.
func settingsKept() []string {
	return []string{"innodb_page_size", "innodb_data_file_path", "innodb_undo_tablespaces", "lower_case_table_names"}
}

// gtid returns how far the binary log is.
func (h *hold) gtid(ctx context.Context) (gtid string, err error) {
	return gtid, h.s.Row(ctx, "SELECT @@GLOBAL.gtid_binlog_pos", &gtid)
}

// read returns what is to be known of the server in this freeze.
func (h *hold) read(ctx context.Context) (*Info, error) {
	set := h.srv.Settings
	i := &Info{
		Format: infoFormat, Method: h.q.method, Version: h.srv.text, ServerID: set.Int("server_id"), ServerUID: set["server_uid"],
		CheckpointLSN: h.began.checkpoint, StartLSN: h.began.flushed,
		PageSize: set.Int("innodb_page_size"), Settings: make(map[string]string), Dirs: set.Dirs(),
	}
	for _, name := range settingsKept() {
		if v := set[name]; v != "" {
			i.Settings[name] = v
		}
	}
	var err error
	if i.GTID, err = h.gtid(ctx); err != nil {
		return nil, err
	}
	if err := h.s.Row(ctx, "SELECT @@GLOBAL.gtid_current_pos", &i.GTIDCurrent); err != nil {
		return nil, err
	}
	if set.On("log_bin") {
		rows, err := h.s.Rows(ctx, "SHOW MASTER STATUS")
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			i.BinlogFile = rows[0][0]
			if i.BinlogPos, err = strconv.ParseInt(rows[0][1], 10, 64); err != nil {
				return nil, fmt.Errorf("position of the binary log: %w", err)
			}
		}
		i.BinlogName, i.BinlogIndex = path.Base(set["log_bin_basename"]), path.Base(set["log_bin_index"])
	}
	if i.TableCount, err = readTableCount(ctx, h.s); err != nil {
		return nil, err
	}
	spaces, err := readSpaces(ctx, h.s)
	i.TablespaceCount, i.TablespaceNames, i.Tablespaces = len(spaces), innodb.DigestNames(spaces), innodb.Digest(spaces)
	return i, err
}

// countTables counts what has a definition; the server opens none for that.
const countTables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')"

func readTableCount(ctx context.Context, s *innodb.Session) (n int, err error) {
	return n, s.Row(ctx, countTables, &n)
}

// readSpaces returns the tablespaces that have a file, as innodb.Digest wants
// them. The dictionary has all of them, also those that were not opened yet.
func readSpaces(ctx context.Context, s *innodb.Session) (map[string]uint32, error) {
	rows, err := s.Rows(ctx, "SELECT NAME, SPACE FROM information_schema.INNODB_SYS_TABLES WHERE SPACE > 0")
	if err != nil {
		return nil, err
	}
	spaces := make(map[string]uint32, len(rows))
	for _, row := range rows {
		n, err := strconv.ParseUint(row[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("number of a tablespace: %w", err)
		}
		if name := row[0] + ".ibd"; !innodb.Leftover(name) {
			spaces[name] = uint32(n)
		}
	}
	return spaces, nil
}

// evidence returns what is stored with the recovery point.
func (i *Info) evidence() (hooks.Evidence, error) {
	b, err := json.Marshal(i)
	return hooks.Evidence{evidenceInfo: b}, err
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
	if i.Method != MethodAtomic && i.Method != MethodBackup && i.Method != MethodStill {
		return nil, inconsistent("unknown method %.40q", i.Method)
	}
	if i.StartLSN == 0 || i.CheckpointLSN > i.StartLSN || i.StartLSN > i.StopLSN || i.PageSize < 4<<10 || i.PageSize > 64<<10 || i.PageSize&(i.PageSize-1) != 0 {
		return nil, inconsistent("the evidence makes no sense: LSN %d, %d to %d, pages of %d bytes", i.CheckpointLSN, i.StartLSN, i.StopLSN, i.PageSize)
	}
	if err := innodb.CheckKept(i.Settings, settingsKept()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	for _, name := range []string{i.BinlogFile, i.BinlogName, i.BinlogIndex} {
		if name != "" && (path.Base(name) != name || name == "." || name == "..") {
			return nil, inconsistent("the evidence names a binary log %.80q", name)
		}
	}
	return i, nil
}

// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/hooks"
)

// Method says how a copy recovers.
type Method string

const (
	// MethodAtomic is the recovery of a cut at one instant, as from a power
	// failure.
	MethodAtomic Method = "atomic"
	// MethodBackup is the recovery with a backup_label, through the WAL of a
	// backup.
	MethodBackup Method = "backup"
)

// infoFormat is the version of Info in evidence.
const infoFormat = 1

// The names in hooks.Evidence.
const (
	evidenceInfo  = "postgres.json"
	evidenceLabel = "backup_label"
	evidenceMap   = "tablespace_map"
)

// Info is what a hold has recorded of the server, its evidence.
type Info struct {
	Format        int    `json:"format"`
	Method        Method `json:"method"`
	ServerVersion int    `json:"server_version"` // server_version_num, such as 150018
	System        string `json:"system"`         // the system identifier of the cluster
	Timeline      uint32 `json:"timeline"`
	// Start is where the recovery of a backup begins. In a cut at one instant
	// it is how far the WAL was flushed before: all of it is in the cut.
	Start LSN `json:"start"`
	// Stop is where a backup becomes consistent. Of a cut at one instant it is
	// what the WAL had not passed when the cut was done.
	Stop LSN `json:"stop"`
	// Checkpoint is the newest one before the cut; for a backup, the one that
	// began it.
	Checkpoint  LSN   `json:"checkpoint"`
	SegmentSize int64 `json:"wal_segment_size"` // bytes
	BlockSize   int64 `json:"block_size"`       // bytes
	// Tablespaces are the places of tablespaces outside of the data directory,
	// by OID.
	Tablespaces map[string]string `json:"tablespaces,omitempty"`
	Superuser   string            `json:"superuser"` // the first role of the cluster
	Checksums   bool              `json:"checksums"`
	// Archived says that the WAL of the backup is in the server's own archive.
	Archived bool `json:"archived,omitempty"`
	// Label and TablespaceMap are backup_label and tablespace_map, byte for
	// byte.
	Label         []byte `json:"-"`
	TablespaceMap []byte `json:"-"`
}

// evidence returns what is stored with the recovery point.
func (i *Info) evidence() (hooks.Evidence, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	e := hooks.Evidence{evidenceInfo: b}
	if len(i.Label) > 0 {
		e[evidenceLabel] = i.Label
	}
	if len(i.TablespaceMap) > 0 {
		e[evidenceMap] = i.TablespaceMap
	}
	return e, nil
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
	if _, err := strconv.ParseUint(i.System, 10, 64); err != nil || !validSegmentSize(i.SegmentSize) || i.Start > i.Stop || i.Stop == 0 {
		return nil, fmt.Errorf("%w: the evidence makes no sense: system %.40q, WAL segments of %d bytes, from %s to %s", ErrInconsistent, i.System, i.SegmentSize, i.Start, i.Stop)
	}
	switch i.Method {
	case MethodAtomic:
		return i, nil
	case MethodBackup:
		i.Label, i.TablespaceMap = e[evidenceLabel], e[evidenceMap]
		if err := i.checkLabel(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInconsistent, err)
		}
		return i, nil
	default:
		return nil, fmt.Errorf("%w: unknown method %.40q", ErrInconsistent, i.Method)
	}
}

// checkLabel reads the backup_label and compares it with what else is known.
func (i *Info) checkLabel() error {
	fields := map[string]string{}
	for line := range strings.Lines(string(i.Label)) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok {
			if _, twice := fields[k]; !twice { // LABEL comes last and is free text
				fields[k] = v
			}
		}
	}
	text, _, _ := strings.Cut(fields["START WAL LOCATION"], " ")
	start, err := ParseLSN(text)
	if err != nil {
		return fmt.Errorf("backup_label: %w", err)
	}
	if i.Checkpoint, err = ParseLSN(fields["CHECKPOINT LOCATION"]); err != nil {
		return fmt.Errorf("backup_label: %w", err)
	}
	switch {
	case start != i.Start:
		return fmt.Errorf("backup_label starts at %s, and the backup at %s", start, i.Start)
	case fields["BACKUP METHOD"] != "streamed" || fields["BACKUP FROM"] != "primary":
		return errors.New("backup_label is not that of a non-exclusive backup of a primary")
	case fields["START TIMELINE"] != strconv.FormatUint(uint64(i.Timeline), 10):
		return fmt.Errorf("backup_label is of timeline %.20q, and the server of %d", fields["START TIMELINE"], i.Timeline)
	}
	return nil
}

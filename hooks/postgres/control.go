// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
)

// The names in a data directory.
const (
	walDir      = "pg_wal"
	controlFile = "global/pg_control"
)

// control is what the file pg_control says. Its first fields are at the same
// place in all versions from 11 on; the checksum at its end is not.
type control struct {
	System     string
	Version    uint32 // of the file: 1300 in PostgreSQL 13 to 16
	State      uint32
	Checkpoint LSN // the newest
	Redo       LSN // where its recovery begins
	Timeline   uint32
}

const (
	controlSize = 8192 // of the file
	controlUsed = 512  // it holds less than a sector, since that is written at once
	controlHead = 52
)

// readControl reads pg_control. A torn one is an error that matches
// ErrInconsistent.
func readControl(dir string) (*control, error) {
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(controlFile)))
	if err != nil {
		return nil, err
	}
	if len(b) != controlSize {
		return nil, fmt.Errorf("%w: pg_control has %d bytes instead of %d", ErrInconsistent, len(b), controlSize)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if v := order.Uint32(b[8:]); v < 1100 || v > 9999 {
			continue // written by a machine of the other kind
		}
		if !controlIntact(b, order) {
			return nil, fmt.Errorf("%w: pg_control has a wrong checksum: it is torn or damaged", ErrInconsistent)
		}
		return &control{
			System: strconv.FormatUint(order.Uint64(b), 10), Version: order.Uint32(b[8:]), State: order.Uint32(b[16:]),
			Checkpoint: LSN(order.Uint64(b[32:])), Redo: LSN(order.Uint64(b[40:])), Timeline: order.Uint32(b[48:]),
		}, nil
	}
	return nil, fmt.Errorf("%w: pg_control is that of no known version", ErrInconsistent)
}

// controlIntact looks for the checksum: it covers everything before it.
func controlIntact(b []byte, order binary.ByteOrder) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	for n := controlHead; n+4 <= controlUsed; n += 4 {
		if crc32.Checksum(b[:n], table) == order.Uint32(b[n:]) {
			return true
		}
	}
	return false
}

// walHead is the length of the header of a WAL segment, in bytes.
const walHead = 40

// checkSegment compares the header of a WAL segment with its name and with the
// server that it has to come from: a file that was recycled has its new name
// and its old content.
func checkSegment(b []byte, name string, info *Info) error {
	begin, timeline, ok := segmentStart(name, info.SegmentSize)
	if !ok || len(b) < walHead {
		return fmt.Errorf("%w: %.40q is no WAL segment", ErrInconsistent, name)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		// The name has the timeline that the segment was switched to, the page
		// that of its first record, which may be an ancestor.
		if LSN(order.Uint64(b[8:])) == begin && order.Uint32(b[4:]) <= timeline &&
			strconv.FormatUint(order.Uint64(b[24:]), 10) == info.System && int64(order.Uint32(b[32:])) == info.SegmentSize {
			return nil
		}
	}
	return fmt.Errorf("%w: WAL segment %s has other content than its name says, or that of another server", ErrInconsistent, name)
}

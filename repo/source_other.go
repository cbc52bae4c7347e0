// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package repo

import (
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

const openFlags = 0

type fileStat struct {
	id       fileID
	links    uint64
	uid, gid uint32
	blocks   int64
	changed  time.Time
}

// stat knows no owners and no links here, and that no file has holes.
func stat(fs.FileInfo) fileStat { return fileStat{links: 1, blocks: math.MaxInt64 >> 9} }

type segment struct{ off, end int64 }

func nextSegment(_ io.Seeker, off, size int64) segment { return segment{off, size} }

func readXattrs(*os.File) ([]ondisk.Xattr, error) { return nil, nil }

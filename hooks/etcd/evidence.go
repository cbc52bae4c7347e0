// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/stillpoint-go/protect/hooks"
)

// Method says how a copy recovers.
type Method string

const (
	// MethodAtomic is the recovery of a cut at one instant, as from a power
	// failure.
	MethodAtomic Method = "atomic"
	// MethodSnapshot is a new data directory that is made of a snapshot.
	MethodSnapshot Method = "snapshot"
)

const (
	infoFormat   = 1 // the version of Info in evidence
	evidenceInfo = "etcd.json"
	maxMembers   = 64 // whose names are evidence
)

// Info is what a hold has recorded of the member, its evidence.
type Info struct {
	Format        int    `json:"format"`
	Method        Method `json:"method"`
	ServerVersion string `json:"server_version"`
	// Cluster and Member are identifiers, in hexadecimal.
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
	// Members are the names of the members of the cluster, sorted.
	Members []string `json:"members"`
	Term    uint64   `json:"raft_term"`
	Index   uint64   `json:"raft_index"` // the last entry that was applied, at the thaw
	// Revision is that of a snapshot. Of a cut at one instant it is the one that
	// the store had before the cut: all of it is in the cut.
	Revision int64 `json:"revision"`
	// LastRevision is what a cut at one instant cannot have passed. Of a snapshot
	// it is the same as Revision.
	LastRevision int64 `json:"last_revision"`
	// Hash is that of all keys up to Revision, with CompactRevision compacted, if
	// Hashed says that it was asked for.
	Hashed          bool   `json:"hashed"`
	Hash            uint32 `json:"hash"`
	CompactRevision int64  `json:"compact_revision"`
	DBSize          int64  `json:"db_size"` // of the server's file, in bytes
	// Size and SHA256 are those of a snapshot's file: its size with the hash at
	// its end, in bytes, and that hash in hexadecimal.
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// describe fills in what the member says of itself.
func (i *Info) describe(s *State) {
	i.ServerVersion, i.Cluster, i.Member = s.Version, strconv.FormatUint(s.Cluster, 16), strconv.FormatUint(s.Member, 16)
	i.Members = slices.Sorted(slices.Values(s.Members[:min(len(s.Members), maxMembers)]))
	i.Term, i.Index, i.DBSize = s.Term, s.Index, s.DBSize
}

// evidence returns what is stored with the recovery point.
func (i *Info) evidence() (hooks.Evidence, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	return hooks.Evidence{evidenceInfo: b}, nil
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
	if i.Revision < 1 || i.LastRevision < i.Revision {
		return nil, inconsistent("the evidence makes no sense: revisions %d to %d", i.Revision, i.LastRevision)
	}
	switch i.Method {
	case MethodAtomic:
		return i, nil
	case MethodSnapshot:
		if sum, err := hex.DecodeString(i.SHA256); err != nil || len(sum) != 32 || i.LastRevision != i.Revision {
			return nil, inconsistent("the evidence makes no sense: SHA-256 %.80q, revisions %d to %d", i.SHA256, i.Revision, i.LastRevision)
		}
		return i, nil
	default:
		return nil, inconsistent("unknown method %.40q", i.Method)
	}
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

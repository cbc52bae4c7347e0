// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// attempt is one attempt to commit a recovery point.
type attempt = ondisk.Attempt

// record is what a commit key holds: a recovery point, or the fence that keeps
// a session from committing there.
type record struct {
	Point
	Version int        `json:"version"`
	Fence   *fence     `json:"fence,omitempty"`
	Session string     `json:"session,omitempty"`
	Seq     uint64     `json:"seq,omitempty"`
	Prev    string     `json:"prev,omitempty"`  // digest of the record with the highest seq that the session saw
	Roots   []rootJSON `json:"roots,omitempty"` // of the volumes, in their order
	// OriginDigest is the digest of the record that this one is a copy of.
	OriginDigest string `json:"origin_digest,omitempty"`
}

// fence says why nothing will be committed under a key.
type fence struct {
	Reason string `json:"reason"`
}

type rootJSON struct {
	ID     string `json:"id"`
	Height uint8  `json:"height"`
}

// encode returns the record of the point, which follows prev, if that is not
// nil.
func (p *Point) encode(prev *Point) ([]byte, error) {
	rec := record{Point: *p, Version: ondisk.Version, Session: hex.EncodeToString(p.session[:]), Seq: p.seq}
	if prev != nil {
		rec.Prev = hex.EncodeToString(prev.digest[:])
	}
	if p.Origin != "" {
		rec.OriginDigest = hex.EncodeToString(p.originDigest[:])
	}
	for _, v := range p.Volumes {
		rec.Roots = append(rec.Roots, rootJSON{ID: v.root.ID.String(), Height: v.root.Height})
	}
	b, err := json.Marshal(rec)
	if err == nil && len(b) > ondisk.MaxRecord {
		err = fmt.Errorf("%w: record of %d bytes exceeds %d", fs.ErrInvalid, len(b), ondisk.MaxRecord)
	}
	return b, err
}

// decodeRecord returns the point in a record, or nil if it is a fence.
func decodeRecord(plain []byte) (*Point, error) {
	var rec record
	if err := json.Unmarshal(plain, &rec); err != nil {
		return nil, err
	}
	p := &rec.Point
	if rec.Version != ondisk.Version {
		return nil, fmt.Errorf("%w: record version %d", ErrFormat, rec.Version)
	}
	if rec.Fence != nil {
		return nil, nil // no point, no error
	}
	sid, err := hex.DecodeString(rec.Session)
	if err != nil || len(sid) != len(p.session) || checkID(p.ID) != nil ||
		len(rec.Roots) != len(p.Volumes) || len(p.Volumes) > ondisk.MaxVolumes {
		return nil, fmt.Errorf("%w: point record", ondisk.ErrMalformed)
	}
	for i, r := range rec.Roots {
		id, err := ondisk.ParseID(r.ID)
		if err != nil || r.Height >= ondisk.MaxTreeHeight || !ondisk.ValidName(p.Volumes[i].Name) ||
			i > 0 && p.Volumes[i].Name <= p.Volumes[i-1].Name {
			return nil, fmt.Errorf("%w: point record: volume %d", ondisk.ErrMalformed, i)
		}
		p.Volumes[i].root = ondisk.Root{ID: id, Height: r.Height}
	}
	if p.Origin != "" {
		if p.originDigest, err = ondisk.ParseID(rec.OriginDigest); err != nil {
			return nil, err
		}
	}
	p.seq = rec.Seq
	copy(p.session[:], sid)
	return p, nil
}

// fetchRecord reads what a commit key holds: a point, or nil for a fence. Seen
// is when the store saw it.
func (r *Repository) fetchRecord(ctx context.Context, at attempt, seen time.Time) (*Point, error) {
	plain, err := r.getListed(ctx, at.Key(), ondisk.MaxRecord)
	if err != nil {
		return nil, err
	}
	p, err := decodeRecord(plain)
	if err == nil && p != nil && r.keys.PointName(p.ID) != at.Name {
		err = errors.New("record of another point")
	}
	if errors.Is(err, ErrFormat) {
		return nil, err
	}
	if err != nil {
		return nil, corrupt(at.Key(), err)
	}
	if p != nil {
		p.at, p.digest = at, r.keys.RecordDigest(plain)
		// A copy says when the original was committed. It cannot have been later
		// than the copy: nobody makes a point young by saying so.
		if p.Committed.IsZero() || !seen.IsZero() && p.Committed.After(seen) {
			p.Committed = seen.UTC()
		}
	}
	return p, nil
}

// putFence makes sure that nothing can be committed under the key any more. It
// reports whether it did; if not, something is there already.
func (r *Repository) putFence(ctx context.Context, at attempt, reason string) (bool, error) {
	plain, err := json.Marshal(record{Version: ondisk.Version, Fence: &fence{Reason: reason}})
	if err != nil {
		return false, err
	}
	return r.create(ctx, at.Key(), plain)
}

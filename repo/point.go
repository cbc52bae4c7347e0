// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// Point is a committed recovery point. Times are the writer's claim: nothing
// depends on them.
type Point struct {
	// ID is the caller's identifier, unique in the repository.
	ID string `json:"id"`
	// Name groups the points of one application.
	Name string    `json:"name"`
	Time time.Time `json:"time"`
	// Level is the consistency that was proven, in the words of the writer.
	Level string `json:"level"`
	// Volumes are in the order of their names.
	Volumes []Volume          `json:"volumes"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Evidence is what the quiesced targets returned, by target and item.
	Evidence map[string]map[string][]byte `json:"evidence,omitempty"`
	Stats    Stats                        `json:"stats"`
	// Committed is when the store saw the record, by the store's clock.
	// Retention goes by it. Of a copy, it is the time in the original. It is not
	// known yet in what Write returns.
	Committed time.Time `json:"committed,omitzero"`
	// Origin is the ID of the repository that the point was first committed to,
	// if it is a copy.
	Origin string `json:"origin,omitempty"`

	at      attempt
	session [16]byte
	seq     uint64   // one more than that of any point which the session saw
	digest  [32]byte // of the record
	// originDigest is the digest of the record in the repository of origin.
	originDigest [32]byte
}

// Volume is a volume of a recovery point.
type Volume struct {
	Name  string `json:"name"`
	Files int64  `json:"files"` // entries other than directories
	Dirs  int64  `json:"dirs"`
	Bytes int64  `json:"bytes"` // size of all files, holes included
	// Skipped counts sockets, devices and pipes, which hold no data, and files
	// that vanished while a live volume was read.
	Skipped int64 `json:"skipped,omitempty"`

	root ondisk.Root
}

// Stats are the totals of a session.
type Stats struct {
	Files int64 `json:"files"`
	Dirs  int64 `json:"dirs"`
	Bytes int64 `json:"bytes"` // size of all files, holes included
	// New is the plaintext that was not in the repository before, and Stored
	// the size of the objects that the session wrote for it.
	New    int64 `json:"bytes_new"`
	Stored int64 `json:"bytes_stored"`
	Chunks int64 `json:"chunks_new"`
	Packs  int64 `json:"packs"`
}

// maxID bounds the ID of a point, in bytes.
const maxID = 255

// checkID accepts what a caller may use as an ID: 1 to 255 bytes of UTF-8
// without control characters.
func checkID(id string) error {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%w: a point ID has 1 to %d bytes of UTF-8 without control characters, not %q", fs.ErrInvalid, maxID, id)
	}
	return nil
}

// Point returns the committed recovery point with this ID, or fs.ErrNotExist.
func (r *Repository) Point(ctx context.Context, id string) (*Point, error) {
	if err := checkID(id); err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	p, _, err := r.lookup(ctx, id)
	if err == nil && p == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("repo: point %q: %w", id, err)
	}
	return p.clone(), nil
}

// read returns a whole object. One that is larger than any is damaged.
func (r *Repository) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	raw, err := r.store.Get(ctx, key, limit)
	if errors.Is(err, store.ErrTooLarge) {
		return nil, corrupt(key, err)
	}
	return raw, err
}

// getObject reads and opens a sealed object.
func (r *Repository) getObject(ctx context.Context, key string, limit int64) ([]byte, error) {
	_, plain, err := r.fetchObject(ctx, key, limit)
	return plain, err
}

// fetchObject returns a sealed object as it is, and opened.
func (r *Repository) fetchObject(ctx context.Context, key string, limit int64) (raw, plain []byte, err error) {
	if raw, err = r.read(ctx, key, limit+int64(sealedOverhead)); err != nil {
		return nil, nil, err
	}
	if plain, err = r.keys.OpenObject(key, raw); err != nil {
		return nil, nil, r.unsealed(ctx, err, corrupt(key, err))
	}
	return raw, plain, nil
}

func (p *Point) clone() *Point {
	c := *p
	c.Volumes, c.Labels = slices.Clone(p.Volumes), maps.Clone(p.Labels)
	c.Evidence = maps.Clone(p.Evidence)
	for name, e := range c.Evidence {
		c.Evidence[name] = maps.Clone(e)
	}
	return &c
}

// volumeOf returns the volume of this name, or nil.
func volumeOf(p *Point, name string) *Volume {
	if p == nil {
		return nil
	}
	for i := range p.Volumes {
		if p.Volumes[i].Name == name {
			return &p.Volumes[i]
		}
	}
	return nil
}

// Points returns all recovery points, the newest first. If records are damaged,
// it returns the others together with an error that matches ErrCorrupt.
func (r *Repository) Points(ctx context.Context) ([]*Point, error) {
	all, err := r.readRoots(ctx, "")
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, fmt.Errorf("repo: list points: %w", err)
	}
	points := []*Point{}
	for _, p := range all.live() {
		points = append(points, p.clone())
	}
	slices.SortFunc(points, func(a, b *Point) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.seq, a.seq), cmp.Compare(a.ID, b.ID))
	})
	if err != nil {
		return points, fmt.Errorf("repo: list points: %w", err)
	}
	return points, nil
}

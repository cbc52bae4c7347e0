// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

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

	key     string // of the record
	session [16]byte
	// segments is the number of index segments that the session wrote.
	segments int
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

// record is the stored form of a Point.
type record struct {
	Point
	Version  int        `json:"version"`
	Session  string     `json:"session"`
	Segments int        `json:"segments"`
	Roots    []rootJSON `json:"roots"` // of the volumes, in their order
}

type rootJSON struct {
	ID     string `json:"id"`
	Height uint8  `json:"height"`
}

func (p *Point) encode() ([]byte, error) {
	rec := record{Point: *p, Version: ondisk.Version, Session: hex.EncodeToString(p.session[:]), Segments: p.segments}
	for _, v := range p.Volumes {
		rec.Roots = append(rec.Roots, rootJSON{ID: v.root.ID.String(), Height: v.root.Height})
	}
	b, err := json.Marshal(rec)
	if err == nil && len(b) > ondisk.MaxRecord {
		err = fmt.Errorf("record of %d bytes exceeds %d", len(b), ondisk.MaxRecord)
	}
	return b, err
}

const maxSegments = 1 << 20

func decodePoint(key string, plain []byte) (*Point, error) {
	var rec record
	if err := json.Unmarshal(plain, &rec); err != nil {
		return nil, err
	}
	p := &rec.Point
	if rec.Version != ondisk.Version {
		return nil, fmt.Errorf("%w: record version %d", ErrFormat, rec.Version)
	}
	sid, err := hex.DecodeString(rec.Session)
	if err != nil || len(sid) != len(p.session) || checkID(p.ID) != nil ||
		rec.Segments < 0 || rec.Segments > maxSegments || len(rec.Roots) != len(p.Volumes) || len(p.Volumes) > ondisk.MaxVolumes {
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
	p.key, p.segments = key, rec.Segments
	copy(p.session[:], sid)
	return p, nil
}

// checkID accepts what a caller may use as an ID: 1 to 255 bytes of UTF-8
// without control characters.
func checkID(id string) error {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }
	if id == "" || len(id) > 255 || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%w: a point ID has 1 to 255 bytes of UTF-8 without control characters, not %q", fs.ErrInvalid, id)
	}
	return nil
}

func (r *Repository) pointKey(id string) string {
	return fmt.Sprintf("%s%x", ondisk.PointPrefix, r.keys.PointName(id))
}

func segmentKey(session [16]byte, n int) string {
	return fmt.Sprintf("%s%x-%08x", ondisk.IndexPrefix, session, n)
}

// Point returns the committed recovery point with this ID, or fs.ErrNotExist.
func (r *Repository) Point(ctx context.Context, id string) (*Point, error) {
	if err := checkID(id); err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	p, err := r.getPoint(ctx, r.pointKey(id))
	if err != nil {
		return nil, fmt.Errorf("repo: point %q: %w", id, err)
	}
	return p, nil
}

func (r *Repository) getPoint(ctx context.Context, key string) (*Point, error) {
	r.mu.Lock()
	p := r.mu.points[key]
	r.mu.Unlock()
	if p != nil {
		return p.clone(), nil
	}
	return r.fetchPoint(ctx, key)
}

func (r *Repository) fetchPoint(ctx context.Context, key string) (*Point, error) {
	plain, err := r.getObject(ctx, key, ondisk.MaxRecord)
	if err != nil {
		return nil, err
	}
	p, err := decodePoint(key, plain)
	if err == nil && r.pointKey(p.ID) != key {
		err = errors.New("record of another point")
	}
	if err != nil {
		if errors.Is(err, ErrFormat) {
			return nil, err
		}
		return nil, corrupt(key, err)
	}
	return p, nil
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
	raw, err := r.read(ctx, key, limit+int64(sealedOverhead))
	if err != nil {
		return nil, err
	}
	plain, err := r.keys.OpenObject(key, raw)
	if err != nil {
		return nil, corrupt(key, err)
	}
	return plain, nil
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

// Points returns all committed recovery points, the newest first. If records
// are damaged, it returns the others together with an error that matches
// ErrCorrupt.
func (r *Repository) Points(ctx context.Context) ([]*Point, error) {
	byKey, err := r.listPoints(ctx)
	points := make([]*Point, 0, len(byKey))
	for _, p := range byKey {
		points = append(points, p.clone())
	}
	slices.SortFunc(points, func(a, b *Point) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID))
	})
	if err != nil {
		return points, fmt.Errorf("repo: list points: %w", err)
	}
	return points, nil
}

// fetchers bounds concurrent reads of small objects.
const fetchers = 16

// listPoints returns all points by the keys of their records. It reads records
// that it has not read before. Damage does not stop it.
func (r *Repository) listPoints(ctx context.Context) (map[string]*Point, error) {
	found := map[string]*Point{}
	var missing []string
	r.mu.Lock()
	known := r.mu.points
	r.mu.Unlock()
	for o, err := range r.store.List(ctx, ondisk.PointPrefix) {
		if err != nil {
			return nil, err
		}
		if p := known[o.Key]; p != nil {
			found[o.Key] = p
		} else {
			missing = append(missing, o.Key)
		}
	}
	points := make([]*Point, len(missing))
	damage := make([]error, len(missing))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, key := range missing {
		g.Go(func() (err error) {
			points[i], err = r.fetchPoint(gctx, key)
			if errors.Is(err, ErrCorrupt) {
				damage[i], err = err, nil
			} else if errors.Is(err, fs.ErrNotExist) {
				err = nil // deleted since it was listed
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, p := range points {
		if p != nil {
			found[missing[i]] = p
		}
	}
	return found, errors.Join(damage...)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// sets remembers the objects of both sets that have been read. They never
// change, so that only new ones need to be read.
type sets struct {
	closed    setCache[*ondisk.AttemptSet]
	condemned setCache[*ondisk.PackSet]
}

// knownCondemned reports whether the pack was condemned when somebody last
// looked. That is good enough to choose what to try first.
func (r *Repository) knownCondemned(p ondisk.PackRef) bool {
	r.sets.condemned.mu.Lock()
	s := r.sets.condemned.union
	r.sets.condemned.mu.Unlock()
	return s != nil && s.Has(p)
}

type setCache[T any] struct {
	mu    sync.Mutex
	parts map[string]T
	union T
}

// readClosed returns the attempts that are closed: their commit keys mean
// nothing any more. If objects are damaged it returns the others together with
// an error that matches ErrCorrupt.
func (r *Repository) readClosed(ctx context.Context) (*ondisk.AttemptSet, error) {
	parts, err := r.listClosed(ctx)
	if parts == nil {
		return nil, err
	}
	return unionOf(&r.sets.closed, parts, ondisk.UnionAttempts), err
}

func (r *Repository) listClosed(ctx context.Context) (map[string]*ondisk.AttemptSet, error) {
	return readSet(ctx, r, ondisk.ClosedPrefix, &r.sets.closed, ondisk.DecodeAttemptSet)
}

// readCondemned returns the packs that are condemned: nobody may rely on what
// is in them any more. Damage is as with readClosed.
func (r *Repository) readCondemned(ctx context.Context) (*ondisk.PackSet, error) {
	parts, err := r.listCondemned(ctx)
	if parts == nil {
		return nil, err
	}
	return unionOf(&r.sets.condemned, parts, ondisk.UnionPacks), err
}

func (r *Repository) listCondemned(ctx context.Context) (map[string]*ondisk.PackSet, error) {
	return readSet(ctx, r, ondisk.CondemnPrefix, &r.sets.condemned, ondisk.DecodePackSet)
}

// maxRounds bounds how often objects may vanish between list and read, each
// time because somebody merged them.
const maxRounds = 100

// readSet returns the objects of a set by their keys. One that is gone since
// it was listed was merged into another one, which a new listing shows.
func readSet[T any](ctx context.Context, r *Repository, prefix string, c *setCache[T], decode func([]byte) (T, error)) (map[string]T, error) {
	missed := map[string]bool{} // listed, and not found
	for range maxRounds {
		var keys []string
		var lies []error
		for o, err := range r.store.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			_, _, ok := parseSetKey(prefix, o.Key)
			switch {
			case ok && missed[o.Key]: // what is gone does not come back: the store lies
				lies = append(lies, corrupt(o.Key, errors.New("the store lists the object, but does not have it")))
			case ok:
				keys = append(keys, o.Key)
			}
		}
		parts, err := readParts(ctx, r, keys, missed, c, decode)
		if !errors.Is(err, fs.ErrNotExist) {
			if parts != nil {
				err = errors.Join(append(lies, err)...)
			}
			return parts, err
		}
	}
	return nil, fmt.Errorf("%s: objects vanish faster than they can be read", prefix)
}

// readParts reads the objects that are not known yet. Damage does not stop it.
// Those that are gone are added to missed.
func readParts[T any](ctx context.Context, r *Repository, keys []string, missed map[string]bool, c *setCache[T], decode func([]byte) (T, error)) (map[string]T, error) {
	c.mu.Lock()
	known := c.parts
	c.mu.Unlock()
	parts := make(map[string]T, len(keys))
	var missing []string
	for _, key := range keys {
		if s, ok := known[key]; ok {
			parts[key] = s
		} else {
			missing = append(missing, key)
		}
	}
	var mu sync.Mutex
	var damage []error
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, key := range missing {
		g.Go(func() error {
			s, err := readPart(gctx, r, key, decode)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				parts[key] = s
			case errors.Is(err, ErrCorrupt):
				damage = append(damage, err)
				err = nil
			case errors.Is(err, fs.ErrNotExist):
				missed[key] = true
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return parts, errors.Join(damage...)
}

func readPart[T any](ctx context.Context, r *Repository, key string, decode func([]byte) (T, error)) (s T, err error) {
	plain, err := r.getListed(ctx, key, ondisk.MaxSet)
	if err != nil {
		return s, err
	}
	if s, err = decode(plain); err != nil {
		return s, corrupt(key, err)
	}
	return s, nil
}

// unionOf returns the union of the parts, and remembers them.
func unionOf[T any](c *setCache[T], parts map[string]T, union func(...T) T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := c.parts != nil && len(c.parts) == len(parts)
	for key := range parts {
		_, ok := c.parts[key]
		same = same && ok
	}
	if !same {
		c.parts, c.union = parts, union(slices.Collect(maps.Values(parts))...)
	}
	return c.union
}

// maxLevel is the highest level of a merged object that has room in a key.
const maxLevel = 0xff

func setKey(prefix string, level int) string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return fmt.Sprintf("%s%02x-%x", prefix, level, id)
}

// parseSetKey returns what stands in the key of an object of a set. What has
// other keys is not ours.
func parseSetKey(prefix, key string) (level int, id [16]byte, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || len(rest) != 2+1+32 {
		return 0, id, false
	}
	b, err := hex.DecodeString(rest[:2] + rest[3:])
	if err != nil {
		return 0, id, false
	}
	copy(id[:], b[1:])
	return int(b[0]), id, fmt.Sprintf("%s%02x-%x", prefix, b[0], id) == key // one spelling
}

// putSet stores a set in as many objects of the level as it takes.
func (r *Repository) putSet(ctx context.Context, prefix string, level int, parts [][]byte) error {
	for _, plain := range parts {
		key := setKey(prefix, level)
		if err := r.store.Put(ctx, key, r.keys.SealObject(key, plain)); err != nil {
			return err
		}
	}
	return nil
}

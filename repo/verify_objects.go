// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// verifiers bounds how many packs are in memory at once.
const verifiers = 3

// list lists the objects under a prefix: all of them, or the packs.
func (v *verifier) list(ctx context.Context, prefix string) error {
	clear(v.packs)
	if prefix == "" {
		v.objects, v.unknown = nil, nil
	}
	for o, err := range v.r.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		ref, isPack := parsePackKey(o.Key)
		switch {
		case isPack:
			v.packs[ref] = &packInfo{size: o.Size, listed: true}
		case v.checkOf(o.Key) == nil:
			v.unknown = append(v.unknown, o.Key)
		default:
			v.objects = append(v.objects, o)
		}
	}
	return nil
}

// sessionID returns the session whose record is under the key.
func sessionID(key string) (sid [16]byte, ok bool) {
	rest, ok := strings.CutPrefix(key, ondisk.SessionPrefix)
	if !ok {
		return sid, false
	}
	return parseSessionID(rest)
}

// checkObjects checks all objects but packs.
func (v *verifier) checkObjects(ctx context.Context) error {
	slots := 0
	for _, o := range v.objects {
		if strings.HasPrefix(o.Key, ondisk.SlotPrefix) {
			slots++
		}
		v.expect(1, o.Size)
	}
	// Whoever has the repository open does not need these. Others do.
	var err error
	if _, v.headers, err = v.r.checkHeaders(ctx); err != nil {
		return err
	}
	for key, err := range v.headers {
		if key == ondisk.HeaderKey || v.r.copied || !isMissing(err) {
			v.found(err)
		}
	}
	if slots == 0 {
		v.found(corrupt(ondisk.SlotPrefix, errors.New("there is no key slot")))
	}
	missing, err := v.r.missingEpochs(ctx)
	if err != nil {
		return err
	}
	for _, err := range missing {
		v.found(err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, o := range v.objects {
		g.Go(func() error {
			err := v.checkObject(ctx, o.Key)
			if errors.Is(err, fs.ErrNotExist) {
				err = v.vanished(ctx, o.Key)
			}
			if err := v.tolerate(err); err != nil {
				return err
			}
			v.progress(1, o.Size)
			return nil
		})
	}
	return g.Wait()
}

func (v *verifier) checkObject(ctx context.Context, key string) error {
	if v.isRead(key) {
		return nil
	}
	return v.checkOf(key)(ctx, key)
}

// isRead reports whether the object has been read, and was in order.
func (v *verifier) isRead(key string) bool {
	prefix, name := path.Split(key)
	switch prefix {
	case "": // the header or its copy
		return v.headers[key] == nil
	case ondisk.PointPrefix:
		a, err := ondisk.ParseAttempt(name)
		return err == nil && (v.roots.points[a] != nil || v.roots.fences[a])
	case ondisk.ClosedPrefix:
		return isPart(&v.r.sets.closed, key)
	case ondisk.CondemnPrefix:
		return isPart(&v.r.sets.condemned, key)
	case ondisk.IndexPrefix:
		return v.r.inIndex(key)
	default:
		return false
	}
}

func isPart[T any](c *setCache[T], key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.parts[key]
	return ok
}

// vanished tells an object that was deleted since it was listed from one that
// the store lists and does not have.
func (v *verifier) vanished(ctx context.Context, key string) error {
	listed, err := v.r.isListed(ctx, key)
	if err != nil || !listed {
		return err
	}
	return corrupt(key, errors.New("the store lists the object, but does not have it"))
}

func (r *Repository) isListed(ctx context.Context, key string) (bool, error) {
	for o, err := range r.store.List(ctx, key) {
		if err != nil {
			return false, err
		}
		if o.Key == key {
			return true, nil
		}
	}
	return false, nil
}

// errorOf returns a function that checks an object by reading it.
func errorOf[T any](read func(context.Context, string) (T, error)) func(context.Context, string) error {
	return func(ctx context.Context, key string) error {
		_, err := read(ctx, key)
		return err
	}
}

// checkOf returns how to check an object; nil for one that is not ours.
func (v *verifier) checkOf(key string) func(context.Context, string) error {
	sealed := func(limit int64) func(context.Context, string) error {
		return errorOf(func(ctx context.Context, key string) ([]byte, error) { return v.r.getObject(ctx, key, limit) })
	}
	switch prefix, _ := path.Split(key); {
	case key == ondisk.HeaderKey || key == ondisk.HeaderCopyKey:
		return errorOf(v.r.authenticHeader)
	case prefix == ondisk.SlotPrefix:
		return errorOf(v.r.getSlot)
	case prefix == ondisk.EpochPrefix:
		return v.r.verifyEpoch
	case prefix == ondisk.PointPrefix:
		return v.checkPoint
	case prefix == ondisk.IndexPrefix:
		return v.checkSegment
	case isLedger(key):
		return errorOf(v.r.ledgerAt)
	case prefix == ondisk.SessionPrefix:
		return errorOf(func(ctx context.Context, key string) (*session, error) {
			return v.r.fetchSession(ctx, store.Object{Key: key})
		})
	case prefix == ondisk.ClosedPrefix:
		return errorOf(func(ctx context.Context, key string) (*ondisk.AttemptSet, error) {
			return readPart(ctx, v.r, key, ondisk.DecodeAttemptSet)
		})
	case prefix == ondisk.CondemnPrefix:
		return errorOf(func(ctx context.Context, key string) (*ondisk.PackSet, error) {
			return readPart(ctx, v.r, key, ondisk.DecodePackSet)
		})
	case prefix == ondisk.ForgetPrefix || prefix == ondisk.HoldPrefix:
		return sealed(ondisk.MaxHeader)
	case prefix == ondisk.ResumePrefix:
		return sealed(ondisk.MaxNode + maxJournal)
	case prefix == ondisk.LedgerPrefix:
		return sealed(ondisk.MaxRecord)
	default:
		return nil
	}
}

func (v *verifier) checkPoint(ctx context.Context, key string) error {
	a, err := ondisk.ParseAttempt(strings.TrimPrefix(key, ondisk.PointPrefix))
	if err != nil {
		return corrupt(key, err)
	}
	_, err = v.r.fetchRecord(ctx, a, time.Time{})
	return err
}

func (v *verifier) checkSegment(ctx context.Context, key string) error {
	name, ok := index.ParseKey(key)
	if !ok {
		return corrupt(key, errors.New("no name of an index segment"))
	}
	_, err := v.r.getSegment(ctx, name)
	return err
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// A chunk may be in several packs: sessions that ran at the same time stored it
// twice, a collector moved it, or its pack was damaged and a later session
// stored it again. One good copy is enough.

// readCopy reads and verifies one copy of a chunk. If that cannot be read the
// error matches ErrCorrupt.
func (r *Repository) readCopy(ctx context.Context, at index.Location, kind ondisk.Kind) ([]byte, error) {
	key := at.Pack.Ref.Key()
	damaged := func(err error) error { return &CorruptError{Object: key, Chunk: at.Entry.ID.String(), Err: err} }
	if at.Entry.Kind != kind {
		return nil, damaged(fmt.Errorf("chunk is of kind %d, not %d", at.Entry.Kind, kind))
	}
	plain, err := r.getChunk(ctx, at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrShort) || errors.Is(err, errContent) {
		return nil, damaged(err)
	}
	return plain, err
}

// readAny reads a chunk from whichever copy can be read. A collector may have
// moved it, or another session stored it again, since the index was read: then
// it looks again.
func (r *Repository) readAny(ctx context.Context, id ondisk.ID, kind ondisk.Kind) ([]byte, error) {
	for {
		seen := r.indexSet()
		copies, err := r.find(ctx, id)
		if err != nil {
			return nil, err
		}
		plain, err := r.readFrom(ctx, copies, id, kind)
		if !errors.Is(err, ErrCorrupt) {
			return plain, err
		}
		news, rerr := r.again(ctx, seen)
		if rerr != nil {
			return nil, rerr
		}
		if !news {
			return nil, err
		}
	}
}

// readFrom reads a chunk from the first of the copies that can be read. If there
// is none, the error says what is wrong with one that is there rather than that
// another one is gone.
func (r *Repository) readFrom(ctx context.Context, copies []index.Location, id ondisk.ID, kind ondisk.Kind) ([]byte, error) {
	var failed error
	for _, at := range copies {
		plain, err := r.readCopy(ctx, at, kind)
		if err == nil || !errors.Is(err, ErrCorrupt) {
			return plain, err
		}
		if failed == nil || isMissing(failed) {
			failed = err
		}
	}
	if failed == nil {
		failed = &CorruptError{Chunk: id.String(), Err: errors.New("chunk is not in the index")}
	}
	return nil, failed
}

// isMissing reports whether damage is that an object is not there.
func isMissing(err error) bool {
	c, ok := errors.AsType[*CorruptError](err)
	return ok && errors.Is(c.Err, fs.ErrNotExist)
}

// parsePackKey is the inverse of PackRef.Key.
func parsePackKey(key string) (ref ondisk.PackRef, ok bool) {
	rest := strings.TrimPrefix(key, ondisk.PackPrefix)
	if len(rest) != 32+1+8 {
		return ref, false
	}
	sid, err := hex.DecodeString(rest[:32])
	seq, serr := hex.DecodeString(rest[33:])
	if err != nil || serr != nil {
		return ref, false
	}
	copy(ref.Session[:], sid)
	ref.Seq = binary.BigEndian.Uint32(seq)
	return ref, ref.Key() == key
}

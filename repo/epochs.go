// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
	"github.com/stillpoint-go/protect/internal/store"
)

func epochKey(n uint32) string { return fmt.Sprintf("%s%08x", ondisk.EpochPrefix, n) }

// parseEpochKey returns the number of the epoch that an object begins.
func parseEpochKey(key string) (uint32, bool) {
	s := strings.TrimPrefix(key, ondisk.EpochPrefix)
	n, err := strconv.ParseUint(s, 16, 32)
	epoch := uint32(n) // 32 bits
	return epoch, err == nil && 0 < epoch && epoch <= ondisk.MaxEpoch && epochKey(epoch) == key
}

// newestEpoch returns the last epoch that has begun. Epochs begin one after the
// other: what comes after a gap is not one.
func (r *Repository) newestEpoch(ctx context.Context) (uint32, error) {
	begun := map[uint32]bool{}
	for o, err := range r.store.List(ctx, ondisk.EpochPrefix) {
		if err != nil {
			return 0, err
		}
		if n, ok := parseEpochKey(o.Key); ok {
			begun[n] = true
		}
	}
	var newest uint32
	for begun[newest+1] {
		newest++
	}
	return newest, nil
}

const maxEpochObject = 32 << 10

// checkEpoch reads the object that begins an epoch and compares it with the
// keys: see seal.Keys.CheckEpoch.
func (r *Repository) checkEpoch(ctx context.Context, k *seal.Keys, epoch uint32) error {
	key := epochKey(epoch)
	raw, err := r.read(ctx, key, maxEpochObject)
	if errors.Is(err, fs.ErrNotExist) {
		return corrupt(key, err)
	}
	if err != nil {
		return err
	}
	if err := k.CheckEpoch(epoch, key, raw); errors.Is(err, seal.ErrAuth) {
		return corrupt(key, fmt.Errorf("%w: either it is damaged, or somebody who has no key made it", err))
	} else if err != nil {
		return err
	}
	return nil
}

// verifyEpoch checks the object that begins an epoch.
func (r *Repository) verifyEpoch(ctx context.Context, key string) error {
	n, ok := parseEpochKey(key)
	if !ok {
		return corrupt(key, errors.New("there is no such epoch"))
	}
	err := r.checkEpoch(ctx, r.keys, n)
	if errors.Is(err, seal.ErrEpoch) { // it began meanwhile, or after a gap
		return nil
	}
	return err
}

// missingEpochs returns the damage of epochs that must have begun, and whose
// objects are not there.
func (r *Repository) missingEpochs(ctx context.Context) ([]error, error) {
	missing := map[string]bool{}
	for n := range r.keys.Last() {
		missing[epochKey(n+1)] = true
	}
	for o, err := range r.store.List(ctx, ondisk.EpochPrefix) {
		if err != nil {
			return nil, err
		}
		delete(missing, o.Key)
	}
	var damage []error
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		damage = append(damage, corrupt(key, errors.New("the object that begins a key epoch is missing, or its rotation did not end")))
	}
	return damage, nil
}

// rotated is the error of whoever has the keys of an epoch that is over.
func rotated(have uint32) error {
	return fmt.Errorf("%w: the keys were rotated, and this one is of epoch %d, which is over", ErrKey, have)
}

// outdated reports whether the keys have been rotated since the repository was
// opened, or what ended or began that epoch is damaged.
func (r *Repository) outdated(ctx context.Context) error {
	ours := r.keys.Epoch()
	newest, err := r.newestEpoch(ctx)
	switch {
	case err != nil:
		return err
	case newest < ours:
		return corrupt(epochKey(ours), fmt.Errorf("%w: what is written now could not be read later", fs.ErrNotExist))
	case newest > ours:
		if err := r.checkEpoch(ctx, r.keys, ours+1); err != nil && !errors.Is(err, seal.ErrEpoch) {
			return err
		}
		return fmt.Errorf("%w: open the repository again", rotated(ours))
	case ours > 0 && r.begun.Load() != ours:
		if err := r.checkEpoch(ctx, r.keys, ours); err != nil {
			return err
		}
		r.begun.Store(ours)
	}
	return nil
}

// writable reports why nothing may be written: the repository has features that
// only readers may ignore, or its keys are not the newest. Every operation that
// writes asks first.
func (r *Repository) writable(ctx context.Context) error {
	if r.readOnly != nil {
		return r.readOnly
	}
	if last := r.keys.Last(); last > r.keys.Epoch() {
		// Its object is gone, or a rotation ended before it was there.
		return fmt.Errorf("%w for writing: it is of epoch %d, and %s is not there; use another key, or rotate the keys", ErrKey, last, epochKey(last))
	}
	return r.outdated(ctx)
}

// unsealed returns the error for an object that did not open: it is damaged,
// unless it is sealed under an epoch that has begun since.
func (r *Repository) unsealed(ctx context.Context, err, damage error) error {
	if !errors.Is(err, seal.ErrEpoch) {
		return damage
	}
	if err := r.outdated(ctx); err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	return damage
}

// useKeys makes k, which a slot has opened, the keys of the repository, unless a
// rotation has left the slot behind. What somebody without a key did to epochs,
// and damage, does not keep anybody from reading: writable reports it.
func (r *Repository) useKeys(ctx context.Context, k *seal.Keys, newest uint32) error {
	if have := k.Epoch(); have <= newest && newest > 0 {
		err := r.checkEpoch(ctx, k, min(have+1, newest))
		switch {
		case errors.Is(err, seal.ErrEpoch):
			return rotated(have)
		case err == nil:
			r.begun.Store(have)
		case errors.Is(err, ErrCorrupt):
			r.log.Warn("nothing can be written to the repository", "error", err)
		default:
			return err
		}
	}
	r.keys = k.Under(newest)
	return nil
}

// RotateKeys begins a new epoch: what is written from now on is sealed under a
// new secret, which these keys open, and no others. All other slots are deleted.
// It is what to do when a key has become known to somebody who must not read on.
//
// What was written before stays readable to whoever has kept an earlier secret,
// and so do the names of chunks, by which such a person can still tell whether
// the repository holds certain content. Sessions that are running go on under
// the old epoch, other open Repository values refuse to write, with an error
// that matches ErrKey, and must be opened again. This one goes on under the new
// epoch.
//
// If the object that begins the newest epoch is lost, so that nothing can be
// written, a rotation with a key of that epoch restores it first. One that is
// damaged must be deleted by hand for that.
//
// Of two rotations at once, one fails with ErrKey. An error that matches
// ErrAmbiguous means that the rotation may take place, now or later: open the
// repository again and, if in doubt, rotate again. Nobody is locked out
// meanwhile. There are at most 511 rotations.
func (r *Repository) RotateKeys(ctx context.Context, keys ...Key) error {
	if err := r.rotateKeys(ctx, keys); err != nil {
		return fmt.Errorf("repo: rotate keys: %w", err)
	}
	return nil
}

// rotateKeys stores the new slots first, since an epoch that no slot opens would
// lock everybody out. The object of the epoch decides.
func (r *Repository) rotateKeys(ctx context.Context, keys []Key) error {
	if n := len(keys); n < 1 || n > ondisk.MaxSlots {
		return fmt.Errorf("%w: %d keys, not 1 to %d", fs.ErrInvalid, n, ondisk.MaxSlots)
	}
	for _, k := range keys {
		if err := k.check(); err != nil {
			return err
		}
	}
	if err := r.resumeRotation(ctx); err != nil {
		return err
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	next := r.keys.Next()
	epoch := next.Epoch()
	if epoch > ondisk.MaxEpoch {
		return fmt.Errorf("%w: no key epoch comes after %d; copy the repository to a new one", ErrFormat, epoch-1)
	}
	there, _, err := r.listSlots(ctx)
	if err != nil {
		return err
	}
	var made []string
	for _, k := range keys {
		key, err := r.putSlot(ctx, next, there, k.get())
		if made = append(made, key); err != nil {
			return errors.Join(err, r.discard(ctx, made...))
		}
	}
	key := epochKey(epoch)
	switch err := r.store.Put(ctx, key, next.EpochObject(key)); {
	case err == nil:
	case errors.Is(err, store.ErrUnknown):
		return fmt.Errorf("%w: %w", ErrAmbiguous, err)
	case errors.Is(err, fs.ErrExist):
		return errors.Join(rotated(epoch-1), r.discard(ctx, made...))
	default:
		return errors.Join(err, r.discard(ctx, made...))
	}
	r.keys.Advance(next)
	r.begun.Store(epoch)
	if err := r.deleteSlots(ctx); err != nil {
		return fmt.Errorf("the new epoch has begun, but slots of the old one are left: %w", err)
	}
	return nil
}

// resumeRotation begins the epoch of which our slot is, if its object is not
// there: it got lost, or its rotation ended before. In the first case others may
// have had that epoch begin with another secret, and ours would be that of a
// rotation that lost; then what is sealed under the epoch does not open.
func (r *Repository) resumeRotation(ctx context.Context) error {
	last := r.keys.Last()
	if last == r.keys.Epoch() || r.readOnly != nil {
		return nil
	}
	for _, prefix := range []string{ondisk.PointPrefix, ondisk.SessionPrefix, ondisk.IndexPrefix, ondisk.ClosedPrefix, ondisk.CondemnPrefix} {
		for o, err := range r.store.List(ctx, prefix) {
			if err == nil {
				_, err = r.getObject(ctx, o.Key, ondisk.MaxSegment)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("epoch %d cannot begin again before all objects open: %w", last, err)
			}
		}
	}
	for r.keys.Epoch() < last {
		k := r.keys.Under(r.keys.Epoch() + 1)
		key := epochKey(k.Epoch())
		if err := r.store.Put(ctx, key, k.EpochObject(key)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		r.keys.Advance(k)
	}
	return nil
}

// deleteSlots deletes the slots that do not open what is written now. Those of
// a later epoch are none of our business: its rotation may be about to begin it.
func (r *Repository) deleteSlots(ctx context.Context) error {
	found, _, err := r.listSlots(ctx)
	if err != nil {
		return err
	}
	for _, s := range found {
		if s.Epoch < r.keys.Epoch() || s.Epoch == r.keys.Epoch() && !s.authentic(r.keys) {
			if err := r.store.Delete(ctx, s.key); err != nil {
				return err
			}
		}
	}
	return nil
}

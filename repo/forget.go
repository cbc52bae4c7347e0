// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Forgetting and holding exclude each other without a lock: each puts its mark
// first and looks for the other's then. At least one of them sees the other.
// What makes a point invisible is the set of closed attempts alone, so that
// nothing that comes late can bring it back.

// mark is the content of a forget or hold object.
type mark struct {
	Version int       `json:"version"`
	Holder  string    `json:"holder,omitempty"`
	Time    time.Time `json:"time"` // the claim of who made it
}

// putMark stores a mark, unless there is one.
func (r *Repository) putMark(ctx context.Context, key, holder string) error {
	plain, err := json.Marshal(mark{Version: ondisk.Version, Holder: holder, Time: time.Now().UTC()})
	if err == nil {
		_, err = r.create(ctx, key, plain)
	}
	return err
}

// create stores a sealed object unless there is one under the key, and reports
// whether it did.
func (r *Repository) create(ctx context.Context, key string, plain []byte) (bool, error) {
	err := r.store.Put(ctx, key, r.keys.SealObject(key, plain))
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Forget makes recovery points invisible, for ever; Collect frees what only
// they needed. Points that are not there are no error. If one of them is held,
// Forget does nothing and fails with fs.ErrPermission; a hold that comes while
// Forget runs wins, and the point is forgotten by the first collection after
// its release.
func (r *Repository) Forget(ctx context.Context, ids ...string) error {
	if err := r.forget(ctx, ids); err != nil {
		return fmt.Errorf("repo: forget: %w", err)
	}
	return nil
}

func (r *Repository) forget(ctx context.Context, ids []string) error {
	if err := r.writable(ctx); err != nil {
		return err
	}
	var gone []*Point
	var attempts []attempt
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return err
		}
		p, _, err := r.lookup(ctx, id)
		if err != nil {
			return fmt.Errorf("point %q: %w", id, err)
		}
		if p != nil {
			gone, attempts = append(gone, p), append(attempts, p.at)
		}
	}
	if err := r.refuseHeld(ctx, gone); err != nil || len(gone) == 0 {
		return err
	}
	for _, a := range attempts {
		if err := r.putMark(ctx, a.ForgetKey(), ""); err != nil {
			return err
		}
	}
	if err := r.refuseHeld(ctx, gone); err != nil {
		return err
	}
	return r.putSet(ctx, ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(attempts...).Encode())
}

// refuseHeld fails if one of the points is held.
func (r *Repository) refuseHeld(ctx context.Context, points []*Point) error {
	for _, p := range points {
		holds, err := r.holds(ctx, p.at)
		if err != nil {
			return err
		}
		if len(holds) > 0 {
			return fmt.Errorf("%w: point %q is held", fs.ErrPermission, p.ID)
		}
	}
	return nil
}

// holds returns the holds of a point: their keys, and who holds. One that
// cannot be read holds.
func (r *Repository) holds(ctx context.Context, a attempt) (map[string]string, error) {
	found := map[string]string{}
	for o, err := range r.store.List(ctx, ondisk.HoldPrefix+a.String()) {
		var plain []byte
		holder := unknownHolder
		if err == nil {
			plain, err = r.getObject(ctx, o.Key, ondisk.MaxHeader)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // released since it was listed
		case err == nil:
			holder = decodeHolder(plain)
		case !errors.Is(err, ErrCorrupt):
			return nil, err
		}
		found[o.Key] = holder
	}
	return found, nil
}

const unknownHolder = "unknown"

// decodeHolder returns who holds by a mark.
func decodeHolder(plain []byte) string {
	var m mark
	if json.Unmarshal(plain, &m) != nil {
		return unknownHolder
	}
	return m.Holder
}

// Hold keeps a recovery point from being forgotten until its holder, a text of
// the caller's such as "case 4711", releases it. A point may have several
// holders. Hold fails with fs.ErrNotExist if there is no such point, or if it
// is being forgotten. If the store does not answer, the point may be held all
// the same, now or later: Release ends that.
func (r *Repository) Hold(ctx context.Context, id, holder string) error {
	if err := r.hold(ctx, id, holder); err != nil {
		return fmt.Errorf("repo: hold %q: %w", id, err)
	}
	return nil
}

func (r *Repository) hold(ctx context.Context, id, holder string) error {
	if err := errors.Join(checkID(id), checkID(holder)); err != nil {
		return err
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	p, _, err := r.lookup(ctx, id)
	if err != nil {
		return err
	}
	if p == nil {
		return fs.ErrNotExist
	}
	var name [16]byte
	_, _ = rand.Read(name[:]) // never fails, see crypto/rand
	key := p.at.HoldKey(name) // new each time: the late deletion of an old one must not hit it
	if err := r.putMark(ctx, key, holder); err != nil {
		return err
	}
	if err := r.refuseForgotten(ctx, p.at); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		return errors.Join(err, r.store.Delete(ctx, key))
	}
	return nil
}

// refuseForgotten fails if the point is forgotten, or about to be.
func (r *Repository) refuseForgotten(ctx context.Context, at attempt) error {
	forgotten := false
	for _, err := range r.store.List(ctx, at.ForgetKey()) {
		if err != nil {
			return err
		}
		forgotten = true
	}
	closed, err := r.readClosed(ctx)
	if err == nil && (forgotten || closed.Has(at)) {
		err = fmt.Errorf("%w: it is being forgotten", fs.ErrNotExist)
	}
	return err
}

// Release ends the holds of this holder on a recovery point. If there are none
// it does nothing.
func (r *Repository) Release(ctx context.Context, id, holder string) error {
	err := r.release(ctx, id, holder)
	if err != nil {
		return fmt.Errorf("repo: release %q: %w", id, err)
	}
	return nil
}

func (r *Repository) release(ctx context.Context, id, holder string) error {
	if err := errors.Join(checkID(id), checkID(holder)); err != nil {
		return err
	}
	p, _, err := r.lookup(ctx, id)
	if err != nil || p == nil {
		return err
	}
	holds, err := r.holds(ctx, p.at)
	for key, by := range holds {
		if by == holder {
			err = errors.Join(err, r.store.Delete(ctx, key))
		}
	}
	return err
}

// Holders returns who holds the recovery point, in order.
func (r *Repository) Holders(ctx context.Context, id string) ([]string, error) {
	p, err := r.Point(ctx, id)
	if err != nil {
		return nil, err
	}
	holds, err := r.holds(ctx, p.at)
	if err != nil {
		return nil, fmt.Errorf("repo: holders of %q: %w", id, err)
	}
	var holders []string
	for _, by := range holds {
		holders = append(holders, by)
	}
	slices.Sort(holders)
	return slices.Compact(holders), nil
}

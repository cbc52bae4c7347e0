// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

// maxWork bounds what a key may cost that opens none of the slots, in passes of
// Argon2id over one KiB: 170 slots with the default parameters, half a minute.
// Whoever can write to the bucket can put slots there that open with no key.
const maxWork = 32 << 20

// unlock finds the keys of the repository in a slot that the key opens.
func (r *Repository) unlock(ctx context.Context, with Key) error {
	newest, found, damage, err := r.lockState(ctx)
	if err != nil {
		return err
	}
	u := unlocking{r: r, with: with.get(), newest: newest, limit: maxWork}
	if err := u.try(ctx, found); err != nil {
		return err
	}
	if u.best == nil {
		return u.failure(found, damage)
	}
	return r.useKeys(ctx, u.best, newest)
}

// lockState returns the newest epoch and the slots. A rotation first stores the
// new slots, then begins the epoch, and then deletes the old ones: if none began
// while the slots were read, they are complete.
func (r *Repository) lockState(ctx context.Context) (uint32, []*slot, map[string]error, error) {
	newest, err := r.newestEpoch(ctx)
	if err != nil {
		return 0, nil, nil, err
	}
	for range maxRounds {
		found, damage, err := r.listSlots(ctx)
		if err != nil {
			return 0, nil, nil, err
		}
		then, err := r.newestEpoch(ctx)
		if err != nil || then == newest {
			return newest, found, damage, err
		}
		newest = then
	}
	return 0, nil, nil, errors.New("key epochs begin faster than slots can be read")
}

// unlocking tries one key on all slots.
type unlocking struct {
	r       *Repository
	with    *key
	newest  uint32
	limit   uint64     // of the work
	best    *seal.Keys // of the latest epoch that a slot opened, the current one before all
	failed  []error    // what may open when tried again
	untried int
}

// try tries the slots, those first that cost least: expensive ones that somebody
// put there do not keep the others from being tried, nor do cheap ones cost
// much.
func (u *unlocking) try(ctx context.Context, found []*slot) error {
	var mine []*slot
	for _, s := range found {
		if s.Kind == u.with.kind && s.known() {
			mine = append(mine, s)
		}
	}
	slices.SortStableFunc(mine, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(a.cost(), b.cost()), u.order(a, b))
	})
	var work uint64
	for i, s := range mine {
		if err := ctx.Err(); err != nil {
			return err
		}
		if work += s.cost(); i > 0 && work > u.limit || i >= ondisk.MaxSlots && s.KDF == nil {
			u.untried = len(mine) - i
			break
		}
		k, err := u.r.openSlot(ctx, s, u.with)
		switch {
		case errors.Is(err, seal.ErrSlot):
		case err != nil:
			u.failed = append(u.failed, fmt.Errorf("slot %s: %w", s.id(), err))
		case k.Epoch() == u.newest:
			u.best = k
			return nil
		case u.best == nil || u.best.Epoch() < k.Epoch():
			u.best = k
		}
	}
	return nil
}

// order prefers what is likely to open.
func (u *unlocking) order(a, b *slot) int {
	rank := func(s *slot) int {
		n := 0
		if s.Name != u.with.name {
			n++
		}
		if s.Epoch != u.newest {
			n += 2
		}
		return n
	}
	return cmp.Compare(rank(a), rank(b))
}

func (s *slot) cost() uint64 {
	if s.KDF == nil {
		return 0
	}
	return s.KDF.Cost()
}

// openSlot returns the keys that a slot holds, or seal.ErrSlot.
func (r *Repository) openSlot(ctx context.Context, s *slot, with *key) (*seal.Keys, error) {
	payload, err := with.unwrap(ctx, &s.Slot)
	if err != nil {
		return nil, err
	}
	k, err := s.Open(r.id, s.key, payload)
	if err != nil {
		return nil, err
	}
	if !s.authentic(k) {
		return nil, seal.ErrSlot
	}
	return k, nil
}

// failure says why no slot opens. Only a definite answer is a wrong key, and
// damaged slots matter only now.
func (u *unlocking) failure(found []*slot, damage map[string]error) error {
	if len(u.failed) > 0 {
		return errors.Join(u.failed...)
	}
	var hints []string
	var other []string
	for _, s := range found {
		switch what := fmt.Sprintf("%q", s.Kind); {
		case s.known():
		case len(s.Requires) > 0:
			other = append(other, fmt.Sprintf("%s with %q", what, s.Requires))
		default:
			other = append(other, what)
		}
	}
	if len(found)+len(damage) == 0 {
		hints = append(hints, "it has no key slots")
	}
	if len(other) > 0 {
		slices.Sort(other)
		hints = append(hints, fmt.Sprintf("%d slots need a release of protect that knows %s", len(other), strings.Join(slices.Compact(other), ", ")))
	}
	if u.untried > 0 {
		hints = append(hints, fmt.Sprintf("%d slots were not tried, since there are more, or more expensive ones, than keys can have made; delete from %s what Keys does not know", u.untried, ondisk.SlotPrefix))
	}
	err := ErrKey
	if len(hints) > 0 {
		err = fmt.Errorf("%w: %s", ErrKey, strings.Join(hints, "; "))
	}
	errs := []error{err}
	for _, s := range slices.Sorted(maps.Keys(damage)) {
		errs = append(errs, damage[s])
	}
	return errors.Join(errs...)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

// KeySlot is one of the keys that open a repository. All of it can be read by
// whoever can read the bucket.
type KeySlot struct {
	// ID is 16 hex digits.
	ID string `json:"id"`
	// Kind is "passphrase" or "kms", or what another release knows.
	Kind string `json:"kind"`
	// Name is what Keeper was given.
	Name string `json:"name,omitempty"`
	// Created is the claim of who made it.
	Created time.Time `json:"created,omitzero"`
	// Problem says why the slot does not open what is written now, if it does
	// not: it is damaged, was left by a rotation, or was made by somebody who
	// has no key.
	Problem string `json:"problem,omitempty"`
}

// slot is a stored key slot.
type slot struct {
	seal.Slot
	key   string // of the object
	line  []byte // the text that check covers
	check []byte
}

const slotMagic = "protect key slot"

// listedSlots bounds how many objects are looked at. More than MaxSlots are
// there only if somebody who has no key put them there.
const listedSlots = 1024

func (s *slot) id() string { return strings.TrimPrefix(s.key, ondisk.SlotPrefix) }

// known reports whether this release knows how to open the slot.
func (s *slot) known() bool {
	return (s.Kind == seal.KindPassphrase || s.Kind == seal.KindKMS) && len(s.Requires) == 0
}

// authentic reports whether somebody who had the secret that the slot says to
// wrap made it.
func (s *slot) authentic(k *seal.Keys) bool {
	want, err := k.SlotCheck(s.Epoch, s.key, s.line)
	return err == nil && hmac.Equal(want, s.check)
}

// current reports whether the slot opens what is written now.
func (s *slot) current(k *seal.Keys) bool {
	return s.Epoch == k.Epoch() && s.known() && s.authentic(k)
}

// parseSlot reads the text of a slot.
func parseSlot(key string, raw []byte) (*slot, error) {
	lines, err := unsum(slotMagic, raw, 2)
	if err != nil {
		return nil, corrupt(key, err)
	}
	s := &slot{key: key, line: []byte(lines[0])}
	if s.check, err = hex.DecodeString(lines[1]); err != nil {
		return nil, corrupt(key, err)
	}
	if err := json.Unmarshal(s.line, &s.Slot); err != nil {
		return nil, corrupt(key, err)
	}
	if s.known() {
		if err := s.Check(); err != nil {
			return nil, corrupt(key, err)
		}
	}
	return s, nil
}

func (r *Repository) getSlot(ctx context.Context, key string) (*slot, error) {
	raw, err := r.read(ctx, key, ondisk.MaxHeader)
	if err != nil {
		return nil, err
	}
	return parseSlot(key, raw)
}

// validSlotKey reports whether an object is where slots are.
func validSlotKey(key string) bool {
	id, ok := strings.CutPrefix(key, ondisk.SlotPrefix)
	return ok && validHex(id, 16)
}

// validHex reports whether s is n hex digits, in lower case.
func validHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// listSlots reads all slots, in the order of their keys, and the damage among
// them by key.
func (r *Repository) listSlots(ctx context.Context) ([]*slot, map[string]error, error) {
	var keys []string
	for o, err := range r.store.List(ctx, ondisk.SlotPrefix) {
		if err != nil {
			return nil, nil, err
		}
		if len(keys) == listedSlots {
			r.log.Warn("there are more key slots than keys can have made; the rest is not looked at", "after", o.Key)
			break
		}
		if validSlotKey(o.Key) {
			keys = append(keys, o.Key)
		}
	}
	var mu sync.Mutex
	found, damage := make([]*slot, len(keys)), map[string]error{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, key := range keys {
		g.Go(func() (err error) {
			found[i], err = r.getSlot(gctx, key)
			switch {
			case errors.Is(err, ErrCorrupt):
				mu.Lock()
				defer mu.Unlock()
				damage[key], err = err, nil
			case errors.Is(err, fs.ErrNotExist): // removed since it was listed
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(found, func(s *slot) bool { return s == nil }), damage, nil
}

// newSlotKey returns the object key of a new slot, which sorts before those of
// all slots that are there: see removeKey.
func newSlotKey(k *seal.Keys, there []*slot) (string, error) {
	next := uint64(1<<32 - 1)
	for _, s := range there {
		n, err := strconv.ParseUint(s.id()[:8], 16, 32)
		if err != nil || !s.authentic(k) { // somebody without a key could use up the numbers
			continue
		}
		if n == 0 {
			return "", errors.New("there is no number left for a key slot")
		}
		next = min(next, n-1)
	}
	var tail [4]byte
	_, _ = rand.Read(tail[:]) // never fails, see crypto/rand
	return fmt.Sprintf("%s%08x%x", ondisk.SlotPrefix, next, tail), nil
}

// putSlot stores a slot for the newest secret of k under a new key, which it
// returns, even if it fails and the slot may be there nevertheless.
func (r *Repository) putSlot(ctx context.Context, k *seal.Keys, there []*slot, with *key) (string, error) {
	key, err := newSlotKey(k, there)
	if err != nil {
		return "", err
	}
	s := &slot{Slot: seal.Slot{Epoch: k.Epoch(), Created: time.Now().UTC().Truncate(time.Second)}}
	payload := k.SlotPayload(key)
	if err := with.wrap(ctx, &s.Slot, payload); err != nil {
		return key, err
	}
	if s.Epoch > 0 {
		s.Earlier = k.SealEarlier(key)
	}
	if s.line, err = json.Marshal(s.Slot); err != nil {
		return key, err
	}
	if s.check, err = k.SlotCheck(s.Epoch, key, s.line); err != nil {
		return key, err
	}
	text := sum(slotMagic, string(s.line), hex.EncodeToString(s.check))
	// Verify before upload: whoever relies on this slot may have no other.
	again, err := parseSlot(key, text)
	if err != nil {
		return key, err
	}
	if got, err := with.unwrap(ctx, &again.Slot); err != nil || !bytes.Equal(got, payload) {
		return key, fmt.Errorf("the new slot does not open again with its key: %w", errors.Join(ErrKey, err))
	}
	return key, r.store.Put(ctx, key, text)
}

// Keys returns what opens the repository, the newest first.
func (r *Repository) Keys(ctx context.Context) ([]KeySlot, error) {
	found, damage, err := r.listSlots(ctx)
	if err != nil {
		return nil, fmt.Errorf("repo: keys: %w", err)
	}
	var out []KeySlot
	for _, s := range found {
		k := KeySlot{ID: s.id(), Kind: s.Kind, Name: s.Name, Created: s.Created}
		switch {
		case s.current(r.keys):
		case !s.known():
			k.Problem = "this release does not know how to open it"
		case !s.authentic(r.keys):
			k.Problem = "nobody who has a key made it, or a rotation that did not take place"
		default:
			k.Problem = fmt.Sprintf("opens what was written up to key epoch %d, not what is written now", s.Epoch)
		}
		out = append(out, k)
	}
	for key, err := range damage {
		out = append(out, KeySlot{ID: strings.TrimPrefix(key, ondisk.SlotPrefix), Problem: err.Error()})
	}
	slices.SortFunc(out, func(a, b KeySlot) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// AddKey lets another key open the repository and returns the ID of its slot.
// To replace a key, add the new one and remove the old one. A repository has at
// most 64 keys.
func (r *Repository) AddKey(ctx context.Context, key Key) (string, error) {
	id, err := r.addKey(ctx, key)
	if err != nil {
		return "", fmt.Errorf("repo: add key: %w", err)
	}
	return id, nil
}

func (r *Repository) addKey(ctx context.Context, with Key) (string, error) {
	if err := with.check(); err != nil {
		return "", err
	}
	if err := r.writable(ctx); err != nil {
		return "", err
	}
	there, _, err := r.listSlots(ctx)
	if err != nil {
		return "", err
	}
	n := 0
	for _, s := range there {
		if s.current(r.keys) {
			n++
		}
	}
	if n >= ondisk.MaxSlots {
		return "", fmt.Errorf("%w: it has %d keys already", fs.ErrInvalid, n)
	}
	key, err := r.putSlot(ctx, r.keys, there, with.get())
	if err != nil {
		return "", err
	}
	// A rotation first begins the epoch and then looks for slots to delete; we
	// did the opposite, so that one of us sees the other. While the epoch lasts
	// the slot must stay: somebody may have removed another one in view of it.
	if err := r.outdated(ctx); errors.Is(err, ErrKey) {
		return "", errors.Join(err, r.discard(ctx, key))
	} else if err != nil {
		return "", err
	}
	return strings.TrimPrefix(key, ondisk.SlotPrefix), nil
}

// RemoveKey deletes a slot, so that its key does not open the repository any
// more. It fails with fs.ErrNotExist if there is no such slot, and with
// fs.ErrPermission for the newest of the slots that work: add another one
// first. So one is left, however many processes remove slots at the same time.
//
// Buckets may keep versions of what is deleted, and whoever had the key may
// have kept the secret that it opened: RotateKeys protects what is written from
// then on.
func (r *Repository) RemoveKey(ctx context.Context, id string) error {
	if err := r.removeKey(ctx, id); err != nil {
		return fmt.Errorf("repo: remove key %q: %w", id, err)
	}
	return nil
}

// removeKey deletes a slot that works only while there is another one that
// works and sorts before it. Slots appear in descending order, so the first one
// of all is never deleted, whatever others do at the same time.
func (r *Repository) removeKey(ctx context.Context, id string) error {
	key := ondisk.SlotPrefix + id
	if !validSlotKey(key) {
		return fs.ErrNotExist
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	found, damage, err := r.listSlots(ctx)
	if err != nil {
		return err
	}
	works, before := 0, false
	var target *slot
	for _, s := range found {
		if s.key == key {
			target = s
		}
		if s.current(r.keys) {
			works++
			before = before || s.key < key
		}
	}
	switch {
	case target == nil && damage[key] == nil:
		return fs.ErrNotExist
	case target != nil && target.current(r.keys) && works == 1:
		return fmt.Errorf("%w: it is the only key; add another one first", fs.ErrPermission)
	case target != nil && target.current(r.keys) && !before:
		return fmt.Errorf("%w: it is the newest key; add another one first", fs.ErrPermission)
	}
	return r.store.Delete(ctx, key)
}

// discard deletes what a failed operation left behind, also when the caller is
// gone.
func (r *Repository) discard(ctx context.Context, keys ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var errs []error
	for _, key := range keys {
		errs = append(errs, r.store.Delete(ctx, key))
	}
	return errors.Join(errs...)
}

const cleanupTimeout = 30 * time.Second

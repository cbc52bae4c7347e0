// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
	"github.com/stillpoint-go/protect/internal/store"
)

// The header and the key slots are the only objects that are readable without
// the key: lines of text, the last of which is the BLAKE3 hash of the others,
// so that damage is not mistaken for a wrong passphrase.
const (
	headerMagic = "protect repository, experimental format"
	slotMagic   = "protect key slot, experimental format"
	suite       = "BLAKE3-256 AES-256-GCM HKDF-SHA-256 zstd"
)

type header struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Suite   string `json:"suite"`
	// Incompatible names features that a reader must know.
	Incompatible []string           `json:"incompatible,omitempty"`
	Store        store.Capabilities `json:"store"`

	raw []byte // the line that mac covers
	mac []byte
}

func (r *Repository) putHeader(ctx context.Context) error {
	line, err := json.Marshal(header{Version: ondisk.Version, ID: r.ID(), Suite: suite, Store: r.caps})
	if err != nil {
		return err
	}
	mac := r.keys.HeaderMAC(line)
	return r.store.Put(ctx, ondisk.HeaderKey, sum(headerMagic, string(line), hex.EncodeToString(mac[:])))
}

func (r *Repository) getHeader(ctx context.Context) (*header, error) {
	raw, err := r.read(ctx, ondisk.HeaderKey, ondisk.MaxHeader)
	if err != nil {
		return nil, err
	}
	return r.parseHeader(raw)
}

func (r *Repository) parseHeader(raw []byte) (*header, error) {
	lines, err := unsum(headerMagic, raw, 2)
	if err != nil {
		return nil, corrupt(ondisk.HeaderKey, err)
	}
	h := &header{raw: []byte(lines[0])}
	if err := json.Unmarshal(h.raw, h); err != nil {
		return nil, corrupt(ondisk.HeaderKey, err)
	}
	if h.Version != ondisk.Version || h.Suite != suite || len(h.Incompatible) > 0 {
		return nil, fmt.Errorf("%w: it has version %d, suite %q, features %q, and this program handles version %d (experimental) only; use the release that wrote it",
			ErrFormat, h.Version, h.Suite, h.Incompatible, ondisk.Version)
	}
	id, err := hex.DecodeString(h.ID)
	if err != nil || len(id) != len(r.id) {
		return nil, corrupt(ondisk.HeaderKey, errors.New("repository id"))
	}
	copy(r.id[:], id)
	if h.mac, err = hex.DecodeString(lines[1]); err != nil {
		return nil, corrupt(ondisk.HeaderKey, err)
	}
	r.caps = h.Store
	return h, nil
}

func (h *header) authenticate(k *seal.Keys) error {
	mac := k.HeaderMAC(h.raw)
	if subtle.ConstantTimeCompare(mac[:], h.mac) != 1 {
		return corrupt(ondisk.HeaderKey, seal.ErrAuth)
	}
	return nil
}

func (r *Repository) putSlot(ctx context.Context, root [32]byte, key Key) error {
	var name [8]byte
	_, _ = rand.Read(name[:]) // never fails, see crypto/rand
	obj := ondisk.SlotPrefix + hex.EncodeToString(name[:])
	slot, err := seal.WrapRoot(root, r.id, obj, key.passphrase, key.kdf)
	if err != nil {
		return err
	}
	line, err := json.Marshal(slot)
	if err != nil {
		return err
	}
	return r.store.Put(ctx, obj, sum(slotMagic, string(line)))
}

func (r *Repository) getSlot(ctx context.Context, obj string) (*seal.Slot, error) {
	raw, err := r.read(ctx, obj, ondisk.MaxHeader)
	if err != nil {
		return nil, err
	}
	lines, err := unsum(slotMagic, raw, 1)
	if err != nil {
		return nil, corrupt(obj, err)
	}
	slot := &seal.Slot{}
	if err := json.Unmarshal([]byte(lines[0]), slot); err != nil {
		return nil, corrupt(obj, err)
	}
	if err := slot.Check(); err != nil {
		return nil, corrupt(obj, err)
	}
	return slot, nil
}

// maxSlots bounds the work of trying a passphrase.
const maxSlots = 64

// unlock tries the key on every slot. A damaged slot matters only if no other
// opens.
func (r *Repository) unlock(ctx context.Context, key Key) ([32]byte, error) {
	var damage []error
	var failure error
	n := 0
	for o, err := range r.store.List(ctx, ondisk.SlotPrefix) {
		if err != nil {
			return [32]byte{}, err
		}
		if n++; n > maxSlots {
			break
		}
		slot, err := r.getSlot(ctx, o.Key)
		if err == nil {
			var root [32]byte
			if root, err = slot.UnwrapRoot(r.id, o.Key, key.passphrase); err == nil {
				return root, nil
			}
		}
		switch {
		case errors.Is(err, ErrCorrupt):
			damage = append(damage, err)
		case !errors.Is(err, seal.ErrPassphrase) && !errors.Is(err, fs.ErrNotExist):
			failure = err // this slot may be the one
		}
	}
	if failure != nil {
		return [32]byte{}, failure
	}
	if len(damage) > 0 {
		return [32]byte{}, errors.Join(append([]error{ErrKey}, damage...)...)
	}
	if n == 0 {
		return [32]byte{}, fmt.Errorf("%w: it has no key slots", ErrKey)
	}
	return [32]byte{}, ErrKey
}

// sum joins lines and appends the hash of them all.
func sum(lines ...string) []byte {
	text := strings.Join(lines, "\n") + "\n"
	h := blake3.Sum256([]byte(text))
	return []byte(text + hex.EncodeToString(h[:]) + "\n")
}

// unsum checks and removes the first line, which must be magic, and the hash;
// n lines must be left.
func unsum(magic string, raw []byte, n int) ([]string, error) {
	text, ok := bytes.CutSuffix(raw, []byte("\n"))
	i := bytes.LastIndexByte(text, '\n') + 1
	h := blake3.Sum256(text[:i])
	lines := strings.Split(string(text[:i]), "\n")
	if !ok || string(text[i:]) != hex.EncodeToString(h[:]) || lines[0] != magic || len(lines) != n+2 {
		return nil, errors.New("checksum does not match")
	}
	return lines[1 : n+1], nil
}

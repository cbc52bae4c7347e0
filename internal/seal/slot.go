// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// KDF holds the parameters of Argon2id (RFC 9106).
type KDF struct {
	Time    uint32 `json:"time"`    // passes
	Memory  uint32 `json:"memory"`  // KiB
	Threads uint8  `json:"threads"` // lanes
}

// DefaultKDF is the second recommendation of RFC 9106, section 4: 64 MiB.
func DefaultKDF() KDF { return KDF{Time: 3, Memory: 64 << 10, Threads: 4} }

// Bounds of the parameters, checked before a stored slot makes us work.
const (
	maxKDFTime    = 16
	maxKDFMemory  = 1 << 20 // KiB
	maxKDFThreads = 16
)

// ErrSlot reports that a slot does not open with the key.
var ErrSlot = errors.New("seal: the slot does not open with the key")

// Check reports whether the parameters are within bounds.
func (p KDF) Check() error {
	if p.Time < 1 || p.Time > maxKDFTime || p.Threads < 1 || p.Threads > maxKDFThreads ||
		p.Memory < 8*uint32(p.Threads) || p.Memory > maxKDFMemory {
		return fmt.Errorf("seal: key derivation parameters out of bounds: %d passes, %d KiB, %d lanes", p.Time, p.Memory, p.Threads)
	}
	return nil
}

// Cost is the work that the parameters ask for, in passes over one KiB.
func (p KDF) Cost() uint64 { return uint64(p.Time) * uint64(p.Memory) }

// The kinds of slots. "recipient" is reserved.
const (
	KindPassphrase = "passphrase" // wrapped under a key that Argon2id derives
	KindKMS        = "kms"        // wrapped by a key management service
)

// Slot is the secret of an epoch, wrapped. Everything in it is public.
type Slot struct {
	Kind string `json:"kind"`
	// Requires names features that a reader of the repository must know.
	Requires []string  `json:"requires,omitempty"`
	Epoch    uint32    `json:"epoch"`
	Created  time.Time `json:"created"`        // the claim of who made it
	Name     string    `json:"name,omitempty"` // of the key, for people
	KDF      *KDF      `json:"argon2id,omitempty"`
	Salt     []byte    `json:"salt,omitempty"` // 16 bytes, for Argon2id
	Wrapped  []byte    `json:"wrapped"`        // the payload
	Earlier  []byte    `json:"earlier,omitempty"`
}

// MaxWrapped bounds what a key management service makes of a payload.
const MaxWrapped = 16 << 10

// Check reports whether the slot, of a kind that we know, is well-formed.
func (s *Slot) Check() error {
	earlier := 0
	if s.Epoch > 0 {
		earlier = earlierSize(min(s.Epoch, ondisk.MaxEpoch))
	}
	switch {
	case s.Epoch > ondisk.MaxEpoch || len(s.Earlier) != earlier || len(s.Wrapped) > MaxWrapped ||
		len(s.Name) > ondisk.MaxName || !utf8.ValidString(s.Name):
	case s.Kind == KindPassphrase && s.KDF != nil && len(s.Salt) == saltSize:
		return s.KDF.Check()
	case s.Kind == KindKMS && s.KDF == nil && len(s.Salt) == 0:
		return nil
	}
	return errors.New("seal: malformed key slot")
}

const saltSize = 16

// WrapPassphrase sets what makes s a slot that opens with the passphrase.
func (s *Slot) WrapPassphrase(passphrase, payload []byte, p KDF) error {
	if err := p.Check(); err != nil {
		return err
	}
	s.Kind, s.KDF, s.Salt = KindPassphrase, &p, make([]byte, saltSize)
	_, _ = rand.Read(s.Salt) // never fails, see crypto/rand
	s.Wrapped = newAEAD(s.passphraseKey(passphrase)).Seal(nil, nil, payload, nil)
	return nil
}

// UnwrapPassphrase returns the payload, or ErrSlot. The slot must have passed
// Check.
func (s *Slot) UnwrapPassphrase(passphrase []byte) ([]byte, error) {
	payload, err := newAEAD(s.passphraseKey(passphrase)).Open(nil, nil, s.Wrapped, nil)
	if err != nil {
		return nil, ErrSlot
	}
	return payload, nil
}

func (s *Slot) passphraseKey(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, s.Salt, s.KDF.Time, s.KDF.Memory, s.KDF.Threads, 32)
}

// payloadMagic starts what is wrapped. A payload is less than 128 bytes long,
// since there are services that encrypt no more than 190.
const payloadMagic = "protect v1 key slot\x00"

// SlotPayload returns what the slot in the object with this key wraps: the
// secret, bound to what it is for. Key management services have no associated
// data.
func (k *Keys) SlotPayload(key string) []byte {
	b := append([]byte(payloadMagic), k.repo[:]...)
	b = binary.LittleEndian.AppendUint32(b, k.Epoch())
	s := k.epochs.Load().secrets[k.Epoch()]
	return append(append(b, s[:]...), key...)
}

// Open returns the keys from the payload of the slot in the object with this
// key, or ErrSlot. The payload may be anything: a service may open what was
// never a slot, or that of another repository.
func (s *Slot) Open(repo [16]byte, key string, payload []byte) (*Keys, error) {
	var secret Secret
	const fixed = len(payloadMagic) + len(repo) + 4
	if len(payload) < fixed+len(secret) {
		return nil, ErrSlot
	}
	copy(secret[:], payload[fixed:])
	want := append([]byte(payloadMagic), repo[:]...)
	want = append(binary.LittleEndian.AppendUint32(want, s.Epoch), secret[:]...)
	if !hmac.Equal(payload, append(want, key...)) {
		return nil, ErrSlot
	}
	k, err := OpenEarlier(repo, s.Epoch, secret, key, s.Earlier)
	if err != nil {
		return nil, ErrSlot
	}
	return k, nil
}

// SlotCheck returns the MAC of a slot's text, under the secret that it wraps.
// AES-GCM does not commit to its key, this does.
func (k *Keys) SlotCheck(epoch uint32, key string, text []byte) ([]byte, error) {
	s, err := k.secret(epoch)
	if err != nil {
		return nil, err
	}
	return s.tag(k.repo, "slot check", key, text), nil
}

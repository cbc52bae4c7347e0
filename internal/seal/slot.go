// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
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

// ErrPassphrase reports that a slot does not open with the passphrase.
var ErrPassphrase = errors.New("wrong passphrase")

// Check reports whether the parameters are within bounds.
func (p KDF) Check() error {
	if p.Time < 1 || p.Time > maxKDFTime || p.Threads < 1 || p.Threads > maxKDFThreads ||
		p.Memory < 8*uint32(p.Threads) || p.Memory > maxKDFMemory {
		return fmt.Errorf("seal: key derivation parameters out of bounds: %d passes, %d KiB, %d lanes", p.Time, p.Memory, p.Threads)
	}
	return nil
}

// Slot is the root of a repository, wrapped under a passphrase.
type Slot struct {
	KDF     KDF    `json:"argon2id"`
	Salt    []byte `json:"salt"`    // 16 bytes
	Wrapped []byte `json:"wrapped"` // sealed root
	Commit  []byte `json:"check"`   // HMAC under the root: AES-GCM does not commit to its key
}

// WrapRoot makes a slot called name for the root of a repository.
func WrapRoot(root [32]byte, repo [16]byte, name string, passphrase []byte, p KDF) (Slot, error) {
	if err := p.Check(); err != nil {
		return Slot{}, err
	}
	s := Slot{KDF: p, Salt: make([]byte, 16), Commit: slotCheck(root, repo)}
	_, _ = rand.Read(s.Salt) // never fails, see crypto/rand
	s.Wrapped = s.aead(passphrase).Seal(nil, nil, root[:], s.aad(repo, name))
	return s, nil
}

// Check reports whether the slot is one that WrapRoot could have made.
func (s Slot) Check() error {
	if err := s.KDF.Check(); err != nil {
		return err
	}
	if len(s.Salt) != 16 || len(s.Wrapped) != 32+Overhead {
		return errors.New("seal: malformed key slot")
	}
	return nil
}

// UnwrapRoot returns the root, or ErrPassphrase.
func (s Slot) UnwrapRoot(repo [16]byte, name string, passphrase []byte) ([32]byte, error) {
	var root [32]byte
	if err := s.Check(); err != nil {
		return root, err
	}
	plain, err := s.aead(passphrase).Open(nil, nil, s.Wrapped, s.aad(repo, name))
	if err != nil {
		return root, ErrPassphrase
	}
	copy(root[:], plain)
	if subtle.ConstantTimeCompare(slotCheck(root, repo), s.Commit) != 1 {
		return [32]byte{}, ErrPassphrase
	}
	return root, nil
}

func (s Slot) aead(passphrase []byte) cipher.AEAD {
	key := argon2.IDKey(passphrase, s.Salt, s.KDF.Time, s.KDF.Memory, s.KDF.Threads, 32)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // the block has 16 bytes
	}
	return a
}

func (s Slot) aad(repo [16]byte, name string) []byte {
	b := append([]byte{'k'}, repo[:]...)
	b = binary.LittleEndian.AppendUint32(b, s.KDF.Time)
	b = binary.LittleEndian.AppendUint32(b, s.KDF.Memory)
	return append(append(b, s.KDF.Threads), name...)
}

func slotCheck(root [32]byte, repo [16]byte) []byte {
	m := hmac.New(sha256.New, root[:])
	_, _ = m.Write(append([]byte("protect v1 slot check"), repo[:]...)) // cannot fail
	return m.Sum(nil)
}

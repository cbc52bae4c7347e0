// SPDX-License-Identifier: Apache-2.0

// Package seal holds the cryptography of a repository: one suite, no options.
//
// Keys come in epochs, each with a random 256-bit secret. Every key is derived
// from one of them with HKDF-SHA-256 (RFC 5869) under its own label. What names
// and cuts content comes from epoch 0 and never changes: chunk ids are keyed
// BLAKE3-256, so that nobody without a secret can confirm a guess of the
// content. What seals comes from the newest epoch, and says from which.
// Everything is sealed with AES-256-GCM from the standard library, which draws
// the 96-bit nonces itself; keys are per session (chunks) or per object
// (everything else), far below the 2^32 messages that NIST SP 800-38D allows a
// key.
//
// The associated data binds what a sealed text is: repository, object, kind,
// codec and length. Moving, renaming, retyping or truncating is detected.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Overhead is how much longer a sealed text is than its plaintext: a nonce of
// 12 bytes in front and a tag of 16 bytes behind.
const Overhead = 12 + 16

// ErrAuth reports that a sealed text is not what was sealed there: it is
// damaged, forged, or was moved from somewhere else.
var ErrAuth = errors.New("seal: authentication failed")

// ErrEpoch reports a text that is sealed under an epoch whose secret we do not
// have: the keys have been rotated since, or its number is damaged.
var ErrEpoch = errors.New("seal: sealed under an unknown key epoch")

const redacted = "[redacted]"

// Secret is what all keys of one epoch are derived from. It prints as
// "[redacted]".
type Secret [32]byte

// NewSecret draws a secret.
func NewSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // never fails, see crypto/rand
	return s
}

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// derive returns size bytes for one purpose. Everything but random salts is
// bound to the repository by it, too.
func (s *Secret) derive(repo [16]byte, label string, salt []byte, size int) []byte {
	key, err := hkdf.Key(sha256.New, s[:], append(repo[:len(repo):len(repo)], salt...), "protect v1 "+label, size)
	if err != nil {
		panic(err) // the length is constant
	}
	return key
}

// Salt selects the key of a session or an object.
type Salt [32]byte

// DataKey names the key that seals the chunks of a session: it is derived from
// the secret of the epoch and the salt. It is not a secret.
type DataKey struct {
	Epoch uint32
	Salt  Salt
}

// Keys are the keys of one repository. They are safe for concurrent use and
// print as "[redacted]".
type Keys struct {
	repo    [16]byte
	epochs  atomic.Pointer[epochs]
	hashers sync.Pool
}

// epochs are immutable.
type epochs struct {
	secrets []Secret // by epoch
	newest  uint32   // epoch that seals
}

// NewKeys derives the keys of the repository from the secrets of its epochs, 0
// to the newest.
func NewKeys(repo [16]byte, secrets ...Secret) *Keys {
	k := &Keys{repo: repo}
	k.epochs.Store(&epochs{secrets: secrets, newest: uint32(len(secrets) - 1)}) // at most ondisk.MaxEpoch
	id := k.derive("chunk id", 32)
	k.hashers.New = func() any {
		h, err := blake3.NewKeyed(id)
		if err != nil {
			panic(err) // the key has 32 bytes
		}
		return h
	}
	return k
}

// Format implements fmt.Formatter for every verb: it keeps secrets out of logs
// and dumps.
func (k *Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (k *Keys) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Epoch returns the number of the epoch that seals.
func (k *Keys) Epoch() uint32 { return k.epochs.Load().newest }

// secret returns the secret of an epoch.
func (k *Keys) secret(epoch uint32) (*Secret, error) {
	secrets := k.epochs.Load().secrets
	if int64(epoch) >= int64(len(secrets)) {
		return nil, fmt.Errorf("%w: epoch %d", ErrEpoch, epoch)
	}
	return &secrets[epoch], nil
}

// derive returns an identity key, which no rotation changes.
func (k *Keys) derive(label string, size int) []byte {
	return k.epochs.Load().secrets[0].derive(k.repo, label, nil, size)
}

// ChunkTable returns size secret bytes that key the boundaries of chunks.
func (k *Keys) ChunkTable(size int) []byte { return k.derive("chunk boundaries", size) }

// NodeSeed keys the boundaries of tree nodes and of aggregated small files.
func (k *Keys) NodeSeed() uint64 {
	return binary.LittleEndian.Uint64(k.derive("node boundaries", 8))
}

// ChunkID returns the id of a chunk of this kind and plaintext. The kind counts,
// since a tenant can guess the nodes of a simple tree: a file with such content
// must not be mistaken for the node, nor take its place in the index.
func (k *Keys) ChunkID(kind ondisk.Kind, plain []byte) ondisk.ID {
	h := k.hashers.Get().(*blake3.Hasher) // our own pool
	h.Reset()
	_, _ = h.Write(plain)              // cannot fail
	_, _ = h.Write([]byte{byte(kind)}) // cannot fail
	var id ondisk.ID
	h.Sum(id[:0])
	k.hashers.Put(h)
	return id
}

// PointName returns the name under which the recovery point with the caller's
// id is stored: fixed in length, safe as a key, and telling nothing.
func (k *Keys) PointName(id string) [16]byte { return [16]byte(k.mac("point name", id)) }

// RecordDigest identifies the plaintext of a recovery point's record.
func (k *Keys) RecordDigest(record []byte) [32]byte {
	return [32]byte(k.mac("record digest", string(record)))
}

// StateDigest identifies a state of the repository, given as text.
func (k *Keys) StateDigest(state string) [32]byte { return [32]byte(k.mac("state digest", state)) }

// HeaderMAC authenticates the public header.
func (k *Keys) HeaderMAC(header []byte) [32]byte { return [32]byte(k.mac("header", string(header))) }

// mac returns the keyed BLAKE3 hash of text under an identity key.
func (k *Keys) mac(label, text string) []byte {
	h, err := blake3.NewKeyed(k.derive(label, 32))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.WriteString(text) // cannot fail
	return h.Sum(nil)
}

func newAEAD(key []byte) cipher.AEAD {
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

func (k *Keys) aead(label string, dk DataKey) (cipher.AEAD, error) {
	s, err := k.secret(dk.Epoch)
	if err != nil {
		return nil, err
	}
	return newAEAD(s.derive(k.repo, label, dk.Salt[:], 32)), nil
}

// NewDataKey draws a key of the newest epoch.
func (k *Keys) NewDataKey() DataKey {
	dk := DataKey{Epoch: k.Epoch()}
	_, _ = rand.Read(dk.Salt[:]) // never fails, see crypto/rand
	return dk
}

// ChunkAAD is what a sealed chunk is bound to besides the repository.
type ChunkAAD struct {
	ID    ondisk.ID
	Kind  ondisk.Kind
	Codec ondisk.Codec
	Plain uint32 // length of the plaintext, before compression
}

// Chunks seals and opens the chunks of one session. It is safe for concurrent
// use.
type Chunks struct {
	aead cipher.AEAD
	repo [16]byte
}

// Chunks returns the sealer of a session. It fails with ErrEpoch for a key of an
// epoch that is not ours.
func (k *Keys) Chunks(dk DataKey) (*Chunks, error) {
	a, err := k.aead("chunks", dk)
	if err != nil {
		return nil, err
	}
	return &Chunks{aead: a, repo: k.repo}, nil
}

const chunkAADSize = 1 + 16 + 32 + 1 + 1 + 4

func (c *Chunks) aad(b []byte, a ChunkAAD) []byte {
	b = append(b, 'c')
	b = append(b, c.repo[:]...)
	b = append(b, a.ID[:]...)
	b = append(b, byte(a.Kind), byte(a.Codec))
	return binary.LittleEndian.AppendUint32(b, a.Plain)
}

// Seal appends the sealed text of body to dst.
func (c *Chunks) Seal(dst, body []byte, a ChunkAAD) []byte {
	var buf [chunkAADSize]byte
	return c.aead.Seal(dst, nil, body, c.aad(buf[:0], a))
}

// Open appends the body of sealed to dst.
func (c *Chunks) Open(dst, sealed []byte, a ChunkAAD) ([]byte, error) {
	var buf [chunkAADSize]byte
	out, err := c.aead.Open(dst, nil, sealed, c.aad(buf[:0], a))
	if err != nil {
		return nil, ErrAuth
	}
	return out, nil
}

// ObjectOverhead is how much longer a sealed object is than its plaintext.
const ObjectOverhead = 4 + len(Salt{}) + Overhead

// SealObject seals a whole object that is stored under key. What names its own
// key stands in front of it: the epoch and a salt.
func (k *Keys) SealObject(key string, plain []byte) []byte {
	dk := k.NewDataKey()
	a, err := k.aead("object", dk)
	if err != nil {
		panic(err) // the epoch is ours
	}
	out := make([]byte, 0, len(plain)+ObjectOverhead)
	out = binary.LittleEndian.AppendUint32(out, dk.Epoch)
	out = append(out, dk.Salt[:]...)
	return a.Seal(out, nil, plain, k.objectAAD(dk.Epoch, key))
}

// OpenObject opens what SealObject made for the same key. It fails with ErrAuth,
// or with ErrEpoch for an object of an epoch that is not ours.
func (k *Keys) OpenObject(key string, sealed []byte) ([]byte, error) {
	if len(sealed) < ObjectOverhead {
		return nil, ErrAuth
	}
	dk := DataKey{Epoch: binary.LittleEndian.Uint32(sealed)}
	n := 4 + copy(dk.Salt[:], sealed[4:])
	a, err := k.aead("object", dk)
	if err != nil {
		return nil, err
	}
	out, err := a.Open(nil, nil, sealed[n:], k.objectAAD(dk.Epoch, key))
	switch {
	case err == nil:
		return out, nil
	case dk.Epoch > k.Epoch(): // the secret that we have may not be that of the epoch
		return nil, fmt.Errorf("%w: epoch %d", ErrEpoch, dk.Epoch)
	default:
		return nil, ErrAuth
	}
}

func (k *Keys) objectAAD(epoch uint32, key string) []byte {
	b := append([]byte{'o'}, k.repo[:]...)
	return append(binary.LittleEndian.AppendUint32(b, epoch), key...)
}

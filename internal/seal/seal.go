// SPDX-License-Identifier: Apache-2.0

// Package seal holds the cryptography of a repository: one suite, no options.
//
// From a random 256-bit root every other key is derived with HKDF-SHA-256
// (RFC 5869) under its own label. Chunk ids are keyed BLAKE3-256, so that
// nobody without the root can confirm a guess of the content. Everything is
// sealed with AES-256-GCM from the standard library, which draws the 96-bit
// nonces itself; keys are per session (chunks) or per object (everything
// else), far below the 2^32 messages that NIST SP 800-38D allows a key.
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

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Overhead is how much longer a sealed text is than its plaintext: a nonce of
// 12 bytes in front and a tag of 16 bytes behind.
const Overhead = 12 + 16

// ErrAuth reports that a sealed text is not what was sealed there: it is
// damaged, forged, or was moved from somewhere else.
var ErrAuth = errors.New("seal: authentication failed")

// Salt selects the key of a session or an object.
type Salt [32]byte

// NewSalt draws a salt.
func NewSalt() Salt {
	var s Salt
	_, _ = rand.Read(s[:]) // never fails, see crypto/rand
	return s
}

// Keys are the keys of one repository. They are safe for concurrent use and
// print as "[redacted]".
type Keys struct {
	root    [32]byte
	repo    [16]byte
	hashers sync.Pool
}

// NewKeys derives the keys of the repository from its root.
func NewKeys(root [32]byte, repo [16]byte) *Keys {
	k := &Keys{root: root, repo: repo}
	id := k.derive("chunk id", nil, 32)
	k.hashers.New = func() any {
		h, err := blake3.NewKeyed(id)
		if err != nil {
			panic(err) // the key has 32 bytes
		}
		return h
	}
	return k
}

// String and its like keep the root out of logs and dumps.
func (k *Keys) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (k *Keys) GoString() string { return "[redacted]" }

// Format implements fmt.Formatter for every verb.
func (k *Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText implements encoding.TextMarshaler.
func (k *Keys) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

func (k *Keys) derive(label string, salt []byte, size int) []byte {
	key, err := hkdf.Key(sha256.New, k.root[:], append(k.repo[:len(k.repo):len(k.repo)], salt...), "protect v0 "+label, size)
	if err != nil {
		panic(err) // the length is constant
	}
	return key
}

// ChunkTable returns size secret bytes that key the boundaries of chunks.
func (k *Keys) ChunkTable(size int) []byte { return k.derive("chunk boundaries", nil, size) }

// NodeSeed keys the boundaries of tree nodes and of aggregated small files.
func (k *Keys) NodeSeed() uint64 {
	return binary.LittleEndian.Uint64(k.derive("node boundaries", nil, 8))
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
func (k *Keys) PointName(id string) [16]byte {
	d := k.mac("point name", []byte(id))
	return [16]byte(d[:16])
}

// HeaderMAC authenticates the public header.
func (k *Keys) HeaderMAC(header []byte) [32]byte {
	return k.mac("header", header)
}

func (k *Keys) aead(label string, salt Salt) cipher.AEAD {
	block, err := aes.NewCipher(k.derive(label, salt[:], 32))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // the block has 16 bytes
	}
	return a
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

// Chunks returns the sealer for the session with this salt.
func (k *Keys) Chunks(salt Salt) *Chunks {
	return &Chunks{aead: k.aead("chunks", salt), repo: k.repo}
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
const ObjectOverhead = len(Salt{}) + Overhead

// SealObject seals a whole object that is stored under key. The salt of its
// own key stands in front of it.
func (k *Keys) SealObject(key string, plain []byte) []byte {
	salt := NewSalt()
	out := make([]byte, 0, len(plain)+ObjectOverhead)
	return k.aead("object", salt).Seal(append(out, salt[:]...), nil, plain, k.objectAAD(key))
}

// OpenObject opens what SealObject made for the same key.
func (k *Keys) OpenObject(key string, sealed []byte) ([]byte, error) {
	var salt Salt
	if len(sealed) < ObjectOverhead {
		return nil, ErrAuth
	}
	n := copy(salt[:], sealed)
	out, err := k.aead("object", salt).Open(nil, nil, sealed[n:], k.objectAAD(key))
	if err != nil {
		return nil, ErrAuth
	}
	return out, nil
}

func (k *Keys) objectAAD(key string) []byte {
	return append(append([]byte{'o'}, k.repo[:]...), key...)
}

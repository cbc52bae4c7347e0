// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

// The header and the key slots are the only objects that are readable without
// the key: lines of text, the last of which is the BLAKE3 hash of the others,
// so that damage is not mistaken for a wrong passphrase.
const (
	headerMagic = "protect repository"
	suite       = "BLAKE3-256 AES-256-GCM HKDF-SHA-256 zstd"
	// headerCopy is the compatible feature of a repository that has a copy of its
	// header: if that is not there, it got lost.
	headerCopy = "header-copy"
)

type header struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Suite   string `json:"suite"`
	// The features of the repository, by what whoever does not know one of them
	// may still do: nothing, read, or everything.
	Incompatible       []string  `json:"incompatible,omitempty"`
	ReadOnlyCompatible []string  `json:"read_only_compatible,omitempty"`
	Compatible         []string  `json:"compatible,omitempty"`
	Store              storeJSON `json:"store"`

	id   [16]byte
	line []byte // what mac covers
	mac  []byte
}

// storeJSON is the stored form of store.Capabilities: what Init's test found.
type storeJSON struct {
	AtomicCreate   bool `json:"atomic_create"`
	ReadAfterWrite bool `json:"read_after_write"`
	ListAfterWrite bool `json:"list_after_write"`
}

// newHeader makes the header of a new repository.
func (r *Repository) newHeader() (*header, []byte, error) {
	h := &header{Version: ondisk.Version, ID: r.ID(), Suite: suite, Compatible: []string{headerCopy}, Store: storeJSON(r.caps)}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, nil, err
	}
	mac := r.keys.HeaderMAC(line)
	return h, sum(headerMagic, string(line), hex.EncodeToString(mac[:])), nil
}

// parseHeader reads a header, or the copy of one, under key, whose repository
// this release can at least read.
func parseHeader(key string, raw []byte) (*header, error) {
	if bytes.HasPrefix(raw, []byte(headerMagic+", experimental format\n")) {
		return nil, fmt.Errorf("%w: it has the experimental format 0; restore from it with the release that wrote it, and write to a new one", ErrFormat)
	}
	h, err := splitHeader(key, raw)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(h.line, h); err != nil {
		return nil, corrupt(key, err)
	}
	if err := h.readable(); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(h.ID)
	if err != nil || len(id) != len(h.id) {
		return nil, corrupt(key, errors.New("repository id"))
	}
	copy(h.id[:], id)
	return h, nil
}

// splitHeader returns the lines of a header, of whatever format.
func splitHeader(key string, raw []byte) (*header, error) {
	lines, err := unsum(headerMagic, raw, 2)
	if err != nil {
		return nil, corrupt(key, err)
	}
	mac, err := hex.DecodeString(lines[1])
	if err != nil {
		return nil, corrupt(key, err)
	}
	return &header{line: []byte(lines[0]), mac: mac}, nil
}

// knows reports whether this release has a feature that one has to know. There
// are none yet.
func knows(string) bool { return false }

// readable reports what keeps this release from reading the repository.
func (h *header) readable() error {
	if h.Version != ondisk.Version {
		return fmt.Errorf("%w: it has format %d, and this release of protect handles format %d only; use one that handles it", ErrFormat, h.Version, ondisk.Version)
	}
	if h.Suite != suite {
		return fmt.Errorf("%w: it uses the algorithms %q; use a release of protect that knows them", ErrFormat, h.Suite)
	}
	if f := unknown(h.Incompatible); len(f) > 0 {
		return fmt.Errorf("%w: it needs a release of protect that knows %q", ErrFormat, f)
	}
	return nil
}

// writable reports what keeps this release from writing to the repository.
func (h *header) writable() error {
	if f := unknown(h.ReadOnlyCompatible); len(f) > 0 {
		return fmt.Errorf("%w for writing: it needs a release of protect that knows %q; this one can restore and verify", ErrFormat, f)
	}
	return nil
}

func unknown(features []string) []string {
	return slices.DeleteFunc(slices.Clone(features), knows)
}

func (h *header) authentic(k *seal.Keys) bool {
	mac := k.HeaderMAC(h.line)
	return hmac.Equal(mac[:], h.mac)
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

// SPDX-License-Identifier: Apache-2.0

package repo_test

// A reader of repositories that was written from FORMAT.md and uses nothing of
// this module, so that neither can drift from what is stored. It is strict: it
// refuses what is malformed.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
)

// formatReader reads the objects of a repository.
type formatReader struct {
	objects map[string][]byte
	repo    []byte
	secrets [][]byte
	closed  map[string]bool // name-attempt
	chunks  map[[32]byte][]formatChunk
}

// formatChunk is a copy of a chunk.
type formatChunk struct {
	pack                  string
	epoch                 uint32
	salt                  [32]byte
	offset, sealed, plain uint32
	kind, codec           byte
}

// malformed ends the reading; openFormat and read recover it.
type malformed struct{ error }

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(malformed{fmt.Errorf(format, args...)})
	}
}

func check[T any](v T, err error) T {
	must(err == nil, "%w", err)
	return v
}

// try turns what is malformed into an error.
func try(fn func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m, ok := p.(malformed)
			if !ok {
				panic(p)
			}
			err = m.error
		}
	}()
	fn()
	return nil
}

// openFormat opens a repository with a passphrase. Where chunks are is read from
// the index, or from the footers of the packs.
func openFormat(objects map[string][]byte, passphrase string, footers bool) (r *formatReader, err error) {
	r = &formatReader{objects: objects, closed: map[string]bool{}, chunks: map[[32]byte][]formatChunk{}}
	return r, try(func() {
		if err := try(func() { r.open("protect.repository", passphrase) }); err != nil {
			if objects["protect.header-copy"] == nil || try(func() { r.open("protect.header-copy", passphrase) }) != nil {
				panic(malformed{err})
			}
		}
		for _, key := range r.keys("closed/") {
			r.readClosed(key)
		}
		if footers {
			for _, key := range r.keys("pack/") {
				r.readFooter(key)
			}
			return
		}
		for _, key := range r.keys("index/") {
			r.readSegment(key)
		}
	})
}

// keys returns the keys with a prefix, sorted.
func (r *formatReader) keys(prefix string) (keys []string) {
	for key := range r.objects {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Section 2.

func (r *formatReader) derive(secret []byte, label, salt string) []byte {
	return check(hkdf.Key(sha256.New, secret, append(slices.Clone(r.repo), salt...), "protect v1 "+label, 32))
}

func (r *formatReader) tag(secret []byte, label, key string, text []byte) []byte {
	m := hmac.New(sha256.New, r.derive(secret, label, ""))
	m.Write(slices.Concat([]byte(key), []byte{0}, text))
	return m.Sum(nil)
}

func openGCM(key []byte, aad, sealed []byte) ([]byte, error) {
	a := check(cipher.NewGCM(check(aes.NewCipher(key))))
	if len(sealed) < 12 {
		return nil, errors.New("short")
	}
	return a.Open(nil, sealed[:12], sealed[12:], aad)
}

// identity is the keyed BLAKE3 hash of text under an identity key.
func (r *formatReader) identity(label string, text ...[]byte) [32]byte {
	h := check(blake3.NewKeyed(r.derive(r.secrets[0], label, "")))
	for _, t := range text {
		_, _ = h.Write(t)
	}
	return [32]byte(h.Sum(nil))
}

func (r *formatReader) unseal(secrets [][]byte, key string, sealed []byte, limit int) []byte {
	must(len(sealed) >= 4+32+28 && len(sealed) <= limit+4+32+28, "%s: length", key)
	epoch := binary.LittleEndian.Uint32(sealed)
	must(int64(epoch) < int64(len(secrets)) && secrets[epoch] != nil, "%s: epoch %d", key, epoch)
	aad := slices.Concat([]byte("o"), r.repo, sealed[:4], []byte(key))
	plain, err := openGCM(r.derive(secrets[epoch], "object", string(sealed[4:36])), aad, sealed[36:])
	must(err == nil, "%s: %w", key, err)
	return plain
}

func (r *formatReader) object(key string, limit int) []byte {
	return r.unseal(r.secrets, key, r.objects[key], limit)
}

// Sections 3 to 5.

// lines checks a text of four lines and returns the second and third one.
func (r *formatReader) lines(key, first string) (line, mac []byte) {
	text := r.objects[key]
	must(len(text) <= 64<<10, "%s: length", key)
	l := bytes.SplitAfter(text, []byte("\n"))
	must(len(l) == 5 && len(l[4]) == 0 && string(l[0]) == first+"\n", "%s: lines", key)
	sum := blake3.Sum256(bytes.Join(l[:3], nil))
	must(string(l[3]) == hex.EncodeToString(sum[:])+"\n", "%s: checksum", key)
	return bytes.TrimSuffix(l[1], []byte("\n")), check(hex.DecodeString(strings.TrimSuffix(string(l[2]), "\n")))
}

// open opens the repository by the header or by its copy.
func (r *formatReader) open(key, passphrase string) {
	r.header(key)
	r.unlock(passphrase)
	r.authenticate(key)
}

func (r *formatReader) header(key string) {
	line, _ := r.lines(key, "protect repository")
	var h struct {
		Version      int      `json:"version"`
		ID           string   `json:"id"`
		Suite        string   `json:"suite"`
		Incompatible []string `json:"incompatible"`
	}
	must(json.Unmarshal(line, &h) == nil, "header")
	must(h.Version == 1 && h.Suite == "BLAKE3-256 AES-256-GCM HKDF-SHA-256 zstd" && len(h.Incompatible) == 0, "header: format")
	r.repo = check(hex.DecodeString(h.ID))
	must(len(r.repo) == 16, "repository id")
}

func (r *formatReader) authenticate(key string) {
	line, mac := r.lines(key, "protect repository")
	want := r.identity("header", line)
	must(bytes.Equal(mac, want[:]), "header: MAC")
}

func (r *formatReader) unlock(passphrase string) {
	newest := 0
	for r.objects[fmt.Sprintf("epoch/%08x", newest+1)] != nil {
		newest++
	}
	for _, key := range r.keys("key/") {
		if err := try(func() { r.secrets = r.openSlot(key, passphrase) }); err == nil && len(r.secrets) == newest+1 {
			break
		}
	}
	must(len(r.secrets) == newest+1, "no slot of epoch %d opens", newest)
	for n := 1; n <= newest; n++ {
		key := fmt.Sprintf("epoch/%08x", n)
		o := r.objects[key]
		must(len(o) == 4+32+28+32*n+32, "%s: length", key)
		sealed := o[:len(o)-32]
		must(hmac.Equal(o[len(o)-32:], r.tag(r.secrets[n-1], "epoch link", key, sealed)), "%s: tag", key)
		must(bytes.Equal(r.unseal(r.secrets, key, sealed, 32*n), bytes.Join(r.secrets[:n], nil)), "%s: secrets", key)
	}
}

func (r *formatReader) openSlot(key, passphrase string) [][]byte {
	line, tag := r.lines(key, "protect key slot")
	var s struct {
		Kind     string   `json:"kind"`
		Requires []string `json:"requires"`
		Epoch    uint32   `json:"epoch"`
		KDF      struct {
			Time    uint32 `json:"time"`
			Memory  uint32 `json:"memory"`
			Threads uint8  `json:"threads"`
		} `json:"argon2id"`
		Salt    string `json:"salt"`
		Wrapped string `json:"wrapped"`
		Earlier string `json:"earlier"`
	}
	must(json.Unmarshal(line, &s) == nil && s.Kind == "passphrase" && len(s.Requires) == 0 && s.Epoch <= 511, "%s: kind", key)
	k := s.KDF
	must(k.Time >= 1 && k.Time <= 16 && k.Threads >= 1 && k.Threads <= 16 && k.Memory >= 8*uint32(k.Threads) && k.Memory <= 1<<20, "%s: Argon2id", key)
	salt, wrapped := check(base64.StdEncoding.DecodeString(s.Salt)), check(base64.StdEncoding.DecodeString(s.Wrapped))
	must(len(salt) == 16, "%s: salt", key)
	payload := check(openGCM(argon2.IDKey([]byte(passphrase), salt, k.Time, k.Memory, k.Threads, 32), nil, wrapped))
	head := binary.LittleEndian.AppendUint32(append([]byte("protect v1 key slot\x00"), r.repo...), s.Epoch)
	must(len(payload) == len(head)+32+len(key) && bytes.HasPrefix(payload, head) && bytes.HasSuffix(payload, []byte(key)), "%s: payload", key)
	secrets := make([][]byte, s.Epoch+1)
	secrets[s.Epoch] = payload[len(head) : len(head)+32]
	if s.Epoch > 0 {
		earlier := check(base64.StdEncoding.DecodeString(s.Earlier))
		must(len(earlier) > 4 && binary.LittleEndian.Uint32(earlier) == s.Epoch, "%s: earlier", key)
		plain := r.unseal(secrets, key, earlier, 32*511)
		must(len(plain) == 32*int(s.Epoch), "%s: earlier", key)
		for n := range s.Epoch {
			secrets[n] = plain[32*n : 32*n+32]
		}
	}
	must(hmac.Equal(tag, r.tag(secrets[s.Epoch], "slot check", key, line)), "%s: tag", key)
	return secrets
}

// Sections 7 and 8.

const formatPackMagic = "PROTPAK\x01"

func (r *formatReader) readFooter(key string) {
	p := r.objects[key]
	must(len(p) >= 45+12 && len(p) <= 80<<20 && string(p[:8]) == formatPackMagic && string(p[len(p)-8:]) == formatPackMagic, "%s: magic", key)
	size := int(binary.LittleEndian.Uint32(p[len(p)-12:]))
	must(size <= len(p)-45-12, "%s: footer", key)
	start := len(p) - 12 - size
	d := &formatDecoder{b: r.unseal(r.secrets, key, p[start:len(p)-12], 16<<20)}
	must(bytes.Equal(d.fixed(37), p[8:45]), "%s: header and footer disagree", key)
	must(p[8] == 0, "%s: key reference", key)
	c := formatChunk{pack: key, epoch: binary.LittleEndian.Uint32(p[9:]), salt: [32]byte(p[13:45]), offset: 45}
	for range d.varint(131072) {
		id := [32]byte(d.fixed(32))
		c.kind, c.codec = d.fixed(1)[0], d.fixed(1)[0]
		c.sealed, c.plain = uint32(d.varint(8<<20+28)), uint32(d.varint(8<<20))
		r.chunks[id] = append(r.chunks[id], c)
		c.offset += c.sealed
	}
	must(len(d.b) == 0 && int(c.offset) == start, "%s: chunks do not fill the pack", key)
}

func (r *formatReader) readSegment(key string) {
	b := r.object(key, 16<<20)
	le := binary.LittleEndian
	must(len(b) >= 16 && string(b[:8]) == "PROTIDX\x01", "%s: magic", key)
	names, packs := int(le.Uint32(b[8:])), int(le.Uint32(b[12:]))
	rest := b[16:]
	must(names*21+packs*60 <= len(rest) && (len(rest)-names*21-packs*60)%50 == 0, "%s: length", key)
	own := check(hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(key, "index/"), "-", "")))
	last := ""
	for ; names > 0; names-- {
		name := string(rest[:17]) + string(binary.BigEndian.AppendUint32(nil, le.Uint32(rest[17:])))
		must(name > last && name < string(own), "%s: names", key)
		last, rest = name, rest[21:]
	}
	table, recs := rest[:packs*60], rest[packs*60:]
	// What is compared as bytes has its numbers in big-endian order.
	big := func(b []byte, at ...int) []byte {
		b = slices.Clone(b)
		for _, i := range at {
			slices.Reverse(b[i : i+4])
		}
		return b
	}
	for i := 60; i < len(table); i += 60 {
		must(bytes.Compare(big(table[i-60:i], 16, 20, 56), big(table[i:i+60], 16, 20, 56)) < 0, "%s: order of packs", key)
	}
	var before []byte
	for ; len(recs) > 0; recs = recs[50:] {
		id, now := [32]byte(recs), big(recs[:50], 32, 36)
		must(bytes.Compare(before, now) < 0, "%s: order of records", key)
		before = now
		n := int(le.Uint32(recs[32:]))
		must(n < packs, "%s: pack", key)
		p := table[n*60:]
		c := formatChunk{
			pack:  fmt.Sprintf("pack/%x-%08x", p[:16], le.Uint32(p[16:])),
			epoch: le.Uint32(p[20:]), salt: [32]byte(p[24:]), offset: le.Uint32(recs[36:]), sealed: le.Uint32(recs[40:]), plain: le.Uint32(recs[44:]), kind: recs[48], codec: recs[49],
		}
		must(uint64(c.offset)+uint64(c.sealed) <= uint64(le.Uint32(p[56:])), "%s: record", key)
		if !slices.Contains(r.chunks[id], c) { // merged segments repeat
			r.chunks[id] = append(r.chunks[id], c)
		}
	}
}

// chunk returns the plaintext of a chunk from any copy that is there.
func (r *formatReader) chunk(id [32]byte, kind byte) []byte {
	for _, c := range r.chunks[id] {
		p := r.objects[c.pack]
		if p == nil {
			continue
		}
		must(uint64(c.offset)+uint64(c.sealed) <= uint64(len(p)) && int64(c.epoch) < int64(len(r.secrets)), "chunk %x: place", id)
		aad := slices.Concat([]byte("c"), r.repo, id[:], []byte{c.kind, c.codec})
		aad = binary.LittleEndian.AppendUint32(aad, c.plain)
		plain, err := openGCM(r.derive(r.secrets[c.epoch], "chunks", string(c.salt[:])), aad, p[c.offset:c.offset+c.sealed])
		must(err == nil, "chunk %x: %w", id, err)
		switch c.codec {
		case 0:
		case 1:
			dec := check(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20), zstd.WithDecoderMaxWindow(8<<20)))
			plain = check(dec.DecodeAll(plain, nil))
			dec.Close()
		default:
			must(false, "chunk %x: codec %d", id, c.codec)
		}
		must(len(plain) == int(c.plain) && c.kind == kind && r.identity("chunk id", plain, []byte{kind}) == id, "chunk %x: content", id)
		return plain
	}
	must(false, "chunk %x is nowhere", id)
	return nil
}

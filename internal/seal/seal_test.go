// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

var repoA, repoB = [16]byte{'a'}, [16]byte{'b'}

func keys(secret byte, repo [16]byte) *seal.Keys { return seal.NewKeys(repo, seal.Secret{secret}) }

// chunks is the sealer for a salt of epoch 0.
func chunks(t *testing.T, k *seal.Keys, salt seal.Salt) *seal.Chunks {
	t.Helper()
	c, err := k.Chunks(seal.DataKey{Salt: salt})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChunkBinding(t *testing.T) {
	k, salt, body := keys(1, repoA), seal.Salt{7}, []byte("the body of a chunk")
	aad := seal.ChunkAAD{ID: ondisk.ID{1}, Kind: ondisk.KindData, Codec: ondisk.Zstd, Plain: 100}
	sealed := chunks(t, k, salt).Seal([]byte("in front"), body, aad)[len("in front"):]
	if len(sealed) != len(body)+seal.Overhead || bytes.Contains(sealed, body[:5]) {
		t.Errorf("%d bytes are sealed as %q", len(body), sealed)
	}
	if got, err := chunks(t, k, salt).Open([]byte("x"), sealed, aad); err != nil || string(got) != "x"+string(body) {
		t.Errorf("got %q, %v", got, err)
	}
	change := func(f func(*seal.ChunkAAD)) seal.ChunkAAD { c := aad; f(&c); return c }
	for name, try := range map[string]struct {
		k    *seal.Keys
		salt seal.Salt
		aad  seal.ChunkAAD
	}{
		"root":       {keys(2, repoA), salt, aad},
		"repository": {keys(1, repoB), salt, aad},
		"session":    {k, seal.Salt{8}, aad},
		"id":         {k, salt, change(func(a *seal.ChunkAAD) { a.ID[31] ^= 1 })},
		"kind":       {k, salt, change(func(a *seal.ChunkAAD) { a.Kind = ondisk.KindTree })},
		"codec":      {k, salt, change(func(a *seal.ChunkAAD) { a.Codec = ondisk.Raw })},
		"length":     {k, salt, change(func(a *seal.ChunkAAD) { a.Plain++ })},
	} {
		if _, err := chunks(t, try.k, try.salt).Open(nil, sealed, try.aad); !errors.Is(err, seal.ErrAuth) {
			t.Errorf("opens with another %s: %v", name, err)
		}
	}
	for i := range sealed {
		for _, mask := range []byte{1, 0x80} {
			sealed[i] ^= mask
			if _, err := chunks(t, k, salt).Open(nil, sealed, aad); !errors.Is(err, seal.ErrAuth) {
				t.Errorf("opens with byte %d changed: %v", i, err)
			}
			sealed[i] ^= mask
		}
		if _, err := chunks(t, k, salt).Open(nil, sealed[:i], aad); !errors.Is(err, seal.ErrAuth) {
			t.Errorf("opens with %d of %d bytes: %v", i, len(sealed), err)
		}
	}
}

func TestObjectBinding(t *testing.T) {
	k := keys(1, repoA)
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("plain"), 1000)} {
		sealed := k.SealObject("point/1", plain)
		if len(sealed) != len(plain)+seal.ObjectOverhead {
			t.Errorf("%d bytes are sealed as %d", len(plain), len(sealed))
		}
		if got, err := k.OpenObject("point/1", sealed); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v", got, err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"key":        func() ([]byte, error) { return k.OpenObject("point/2", sealed) },
			"type":       func() ([]byte, error) { return k.OpenObject("index/1", sealed) },
			"root":       func() ([]byte, error) { return keys(2, repoA).OpenObject("point/1", sealed) },
			"repository": func() ([]byte, error) { return keys(1, repoB).OpenObject("point/1", sealed) },
			"chunk": func() ([]byte, error) {
				return chunks(t, k, seal.Salt(sealed[4:])).Open(nil, sealed[36:], seal.ChunkAAD{})
			},
		} {
			if _, err := open(); !errors.Is(err, seal.ErrAuth) {
				t.Errorf("opens with another %s: %v", name, err)
			}
		}
		for n := range min(len(sealed), 100) {
			if _, err := k.OpenObject("point/1", sealed[:n]); !errors.Is(err, seal.ErrAuth) {
				t.Errorf("opens with %d bytes: %v", n, err)
			}
			sealed[n] ^= 1
			if _, err := k.OpenObject("point/1", sealed); !errors.Is(err, seal.ErrAuth) && (n >= 4 || !errors.Is(err, seal.ErrEpoch)) {
				t.Errorf("opens with byte %d changed: %v", n, err)
			}
			sealed[n] ^= 1
		}
	}
}

// TestNonces seals many chunks under one key: a nonce that comes twice gives
// the plaintexts away.
func TestNonces(t *testing.T) {
	const n = 100_000
	c, seen, salts := chunks(t, keys(1, repoA), keys(1, repoA).NewDataKey().Salt), make(map[[12]byte]bool, n), map[seal.Salt]bool{}
	buf := make([]byte, 0, 64)
	for range n {
		buf = c.Seal(buf[:0], []byte("the same"), seal.ChunkAAD{})
		nonce := [12]byte(buf)
		if seen[nonce] {
			t.Fatal("a nonce came twice")
		}
		seen[nonce] = true
	}
	for range 1000 {
		s := seal.Salt(keys(1, repoA).SealObject("k", nil)[4:])
		if salts[s] {
			t.Fatal("a salt came twice")
		}
		salts[s] = true
	}
}

func TestNamesAndIDs(t *testing.T) {
	a, b, c := keys(1, repoA), keys(2, repoA), keys(1, repoB)
	ids := map[ondisk.ID]string{}
	for name, id := range map[string]ondisk.ID{
		"root 1": a.ChunkID(ondisk.KindData, []byte("x")), "root 2": b.ChunkID(ondisk.KindData, []byte("x")), "repository b": c.ChunkID(ondisk.KindData, []byte("x")),
		"tree": a.ChunkID(ondisk.KindTree, []byte("x")), "extent": a.ChunkID(ondisk.KindExtent, []byte("x")),
		"other": a.ChunkID(ondisk.KindData, []byte("y")), "empty": a.ChunkID(ondisk.KindData, nil),
		"with the kind behind": a.ChunkID(ondisk.KindData, []byte{'x', byte(ondisk.KindData)}),
	} {
		if other, ok := ids[id]; ok {
			t.Errorf("%s and %s have the same id", name, other)
		}
		ids[id] = name
	}
	if a.ChunkID(ondisk.KindData, []byte("x")) != keys(1, repoA).ChunkID(ondisk.KindData, []byte("x")) {
		t.Error("ids differ from process to process")
	}
	if a.PointName("p") == b.PointName("p") || a.PointName("p") == c.PointName("p") || a.PointName("p") == a.PointName("q") {
		t.Error("point names")
	}
	if a.HeaderMAC([]byte("h")) == b.HeaderMAC([]byte("h")) || a.HeaderMAC([]byte("h")) == c.HeaderMAC([]byte("h")) {
		t.Error("header MACs")
	}
	if a.NodeSeed() == b.NodeSeed() || bytes.Equal(a.ChunkTable(64), b.ChunkTable(64)) {
		t.Error("boundaries do not depend on the root")
	}
}

func TestKeysAreRedacted(t *testing.T) {
	root := seal.Secret([]byte("0123456789abcdefghijklmnopqrstuv"))
	k := seal.NewKeys(repoA, root)
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	all := string(text)
	for _, v := range []any{root, &root} {
		text, err := json.Marshal(map[string]any{"secret": v})
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	_, err = k.Chunks(seal.DataKey{Epoch: 7})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{k, struct{ k *seal.Keys }{k}, root, &root, k.Next(), chunks(t, k, seal.Salt{}), err} {
			all += fmt.Sprintf(verb, v)
		}
	}
	for _, secret := range []string{"0123456789", "3031323334", "48 49 50", "0x30"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q in %s", secret, all)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

// TestRotation: a later epoch reads all, an earlier one not what comes later,
// and nothing that names content changes.
func TestRotation(t *testing.T) {
	old := keys(1, repoA)
	now := old.Next()
	if now.Epoch() != 1 || old.Epoch() != 0 {
		t.Fatalf("epochs %d and %d", old.Epoch(), now.Epoch())
	}
	if got, err := now.OpenObject("k", old.SealObject("k", []byte("before"))); err != nil || string(got) != "before" {
		t.Errorf("what is old: %q, %v", got, err)
	}
	after := now.SealObject("k", []byte("after"))
	if binary.LittleEndian.Uint32(after) != 1 {
		t.Errorf("sealed under epoch %d", binary.LittleEndian.Uint32(after))
	}
	if _, err := old.OpenObject("k", after); !errors.Is(err, seal.ErrEpoch) {
		t.Errorf("an old key opens what is new: %v", err)
	}
	binary.LittleEndian.PutUint32(after, 0)
	for _, k := range []*seal.Keys{old, now} {
		if _, err := k.OpenObject("k", after); !errors.Is(err, seal.ErrAuth) {
			t.Errorf("another epoch: %v", err)
		}
	}
	dk := now.NewDataKey()
	if _, err := old.Chunks(dk); dk.Epoch != 1 || !errors.Is(err, seal.ErrEpoch) {
		t.Errorf("an old key opens chunks of epoch %d: %v", dk.Epoch, err)
	}
	if old.ChunkID(ondisk.KindData, nil) != now.ChunkID(ondisk.KindData, nil) || old.PointName("p") != now.PointName("p") || old.NodeSeed() != now.NodeSeed() ||
		!bytes.Equal(old.ChunkTable(64), now.ChunkTable(64)) || old.HeaderMAC(nil) != now.HeaderMAC(nil) || old.RecordDigest(nil) != now.RecordDigest(nil) {
		t.Error("names changed")
	}
	if same(old.Next(), now) {
		t.Error("two rotations lead to the same secret")
	}
	old.Advance(now)
	if !same(old, now) {
		t.Error("keys that advanced are not the later ones")
	}
}

// TestUnder: with the secret of an epoch that has not begun, nothing is sealed.
func TestUnder(t *testing.T) {
	later := keys(1, repoA).Next()
	k := later.Under(0)
	if k.Epoch() != 0 || k.NewDataKey().Epoch != 0 || binary.LittleEndian.Uint32(k.SealObject("k", nil)) != 0 {
		t.Error("seals under a later epoch")
	}
	if _, err := k.OpenObject("k", later.SealObject("k", nil)); err != nil {
		t.Errorf("does not read: %v", err)
	}
	if _, err := k.OpenObject("k", keys(1, repoA).Next().SealObject("k", nil)); !errors.Is(err, seal.ErrEpoch) {
		t.Errorf("the epoch of another rotation: %v", err)
	}
	if next := k.Next(); next.Epoch() != 1 || same(next, later) {
		t.Error("the next epoch is the one that did not begin")
	}
}

func TestEpochObject(t *testing.T) {
	k0 := keys(1, repoA)
	k1 := k0.Next()
	k2 := k1.Next()
	const one, two = "epoch/00000001", "epoch/00000002"
	o1, o2 := k1.EpochObject(one), k2.EpochObject(two)
	for name, c := range map[string]struct {
		got, want error
	}{
		"first":                      {k1.CheckEpoch(1, one, o1), nil},
		"first, later":               {k2.CheckEpoch(1, one, o1), nil},
		"second":                     {k2.CheckEpoch(2, two, o2), nil},
		"second, not begun":          {k2.Under(1).CheckEpoch(2, two, o2), nil},
		"for whoever is behind":      {k0.CheckEpoch(1, one, o1), seal.ErrEpoch},
		"for the second":             {k1.CheckEpoch(2, two, o2), seal.ErrEpoch},
		"far behind":                 {k0.CheckEpoch(2, two, o2), seal.ErrEpoch},
		"a rotation that lost":       {k0.Next().CheckEpoch(1, one, o1), seal.ErrEpoch},
		"renamed":                    {k2.CheckEpoch(1, "epoch/1", o1), seal.ErrAuth},
		"another epoch":              {k2.CheckEpoch(2, two, o1), seal.ErrAuth},
		"another repository":         {keys(1, repoB).Next().CheckEpoch(1, one, o1), seal.ErrAuth},
		"without the secret":         {keys(2, repoA).CheckEpoch(1, one, o1), seal.ErrAuth},
		"empty":                      {k1.CheckEpoch(1, one, nil), seal.ErrAuth},
		"made by whoever is behind":  {k1.CheckEpoch(2, two, append(o2[:len(o2)-32:len(o2)-32], o1[len(o1)-32:]...)), seal.ErrAuth},
		"a secret that is not known": {k1.CheckEpoch(9, "epoch/00000009", o1), seal.ErrEpoch},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	for i := range o2 {
		bad := bytes.Clone(o2)
		bad[i] ^= 1
		if err := k2.CheckEpoch(2, two, bad); !errors.Is(err, seal.ErrAuth) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if err := k2.CheckEpoch(2, two, o2[:i]); !errors.Is(err, seal.ErrAuth) {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
}

// FuzzEpoch opens what is sealed with the right secret, or not at all.
func FuzzEpoch(f *testing.F) {
	k := keys(1, repoA).Next()
	secret := seal.Secret{7}
	f.Add(uint32(1), k.EpochObject("epoch/00000001"), []byte(nil))
	f.Add(uint32(1), []byte(nil), make([]byte, 32))
	f.Add(uint32(0), []byte(nil), []byte(nil))
	f.Add(uint32(511), []byte(nil), make([]byte, 511*32))
	f.Add(uint32(512), []byte(nil), make([]byte, 512*32))
	f.Fuzz(func(t *testing.T, epoch uint32, object, plain []byte) {
		if err := k.CheckEpoch(max(epoch, 1), "epoch/00000001", object); err == nil && epoch > 1 {
			t.Fatalf("epoch %d begins with %x", epoch, object)
		}
		if _, err := seal.OpenEarlier(repoA, epoch, secret, "epoch/00000001", object); err == nil && (epoch > 0 || len(object) > 0) {
			t.Fatalf("opens: %x", object)
		}
		if epoch > ondisk.MaxEpoch+2 {
			return
		}
		secrets := make([]seal.Secret, epoch+1)
		secrets[epoch] = secret
		sealed := seal.NewKeys(repoA, secrets...).SealObject("k", plain)
		got, err := seal.OpenEarlier(repoA, epoch, secret, "k", sealed)
		if fits := len(plain) == 32*int(epoch) && epoch <= ondisk.MaxEpoch; (err == nil) != fits {
			t.Fatalf("epoch %d, %d bytes: %v", epoch, len(plain), err)
		}
		if err == nil && got.Epoch() != epoch {
			t.Fatalf("epoch %d is %d", epoch, got.Epoch())
		}
	})
}

// FuzzOpenObject opens nothing that SealObject did not make.
func FuzzOpenObject(f *testing.F) {
	k := keys(1, repoA).Next()
	good := k.SealObject("k", []byte("text"))
	f.Add(good)
	f.Add(k.Under(0).SealObject("k", nil))
	f.Add(good[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		plain, err := k.OpenObject("k", sealed)
		if err == nil && len(plain)+seal.ObjectOverhead != len(sealed) {
			t.Fatalf("%d bytes in %d", len(plain), len(sealed))
		}
		if err != nil && !errors.Is(err, seal.ErrAuth) && !errors.Is(err, seal.ErrEpoch) {
			t.Fatal(err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/seal"
)

var cheap = seal.KDF{Time: 1, Memory: 8, Threads: 1}

// wrap makes a slot of k.
func wrap(tb testing.TB, k *seal.Keys, key, pass string) seal.Slot {
	tb.Helper()
	s := seal.Slot{Epoch: k.Epoch()}
	if err := s.WrapPassphrase([]byte(pass), k.SlotPayload(key), cheap); err != nil {
		tb.Fatal(err)
	}
	if s.Epoch > 0 {
		s.Earlier = k.SealEarlier(key)
	}
	if err := s.Check(); err != nil {
		tb.Fatal(err)
	}
	return s
}

func open(s seal.Slot, repo [16]byte, key, pass string) (*seal.Keys, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	payload, err := s.UnwrapPassphrase([]byte(pass))
	if err != nil {
		return nil, err
	}
	return s.Open(repo, key, payload)
}

// same reports whether two sets of keys are the same, by what they can do.
func same(a, b *seal.Keys) bool {
	if a.Epoch() != b.Epoch() || a.PointName("x") != b.PointName("x") {
		return false
	}
	for e := range a.Epoch() + 1 {
		plain, err := b.OpenObject("k", a.Under(e).SealObject("k", []byte("text")))
		if err != nil || string(plain) != "text" {
			return false
		}
	}
	return true
}

func TestSlot(t *testing.T) {
	for _, k := range []*seal.Keys{keys(1, repoA), keys(1, repoA).Next(), keys(1, repoA).Next().Next().Next()} {
		s := wrap(t, k, "key/1", "passphrase")
		got, err := open(s, repoA, "key/1", "passphrase")
		if err != nil || !same(k, got) {
			t.Fatalf("epoch %d: %v", k.Epoch(), err)
		}
		for name, try := range map[string]func() (*seal.Keys, error){
			"passphrase":       func() (*seal.Keys, error) { return open(s, repoA, "key/1", "passphrasf") },
			"empty passphrase": func() (*seal.Keys, error) { return open(s, repoA, "key/1", "") },
			"repository":       func() (*seal.Keys, error) { return open(s, repoB, "key/1", "passphrase") },
			"name":             func() (*seal.Keys, error) { return open(s, repoA, "key/2", "passphrase") },
			"passes": func() (*seal.Keys, error) {
				s, p := s, *s.KDF
				p.Time++
				s.KDF = &p
				return open(s, repoA, "key/1", "passphrase")
			},
			"epoch": func() (*seal.Keys, error) {
				s := s
				s.Epoch++
				s.Earlier = make([]byte, seal.ObjectOverhead+32*int(s.Epoch))
				return open(s, repoA, "key/1", "passphrase")
			},
		} {
			if got, err := try(); !errors.Is(err, seal.ErrSlot) || got != nil {
				t.Errorf("another %s: %v", name, err)
			}
		}
		for _, field := range []func(*seal.Slot) *[]byte{func(s *seal.Slot) *[]byte { return &s.Wrapped }, func(s *seal.Slot) *[]byte { return &s.Earlier }} {
			for i := range *field(&s) {
				c := s
				*field(&c) = bytes.Clone(*field(&s))
				(*field(&c))[i] ^= 1
				if _, err := open(c, repoA, "key/1", "passphrase"); !errors.Is(err, seal.ErrSlot) {
					t.Errorf("byte %d changed: %v", i, err)
				}
				*field(&c) = (*field(&s))[:i]
				if _, err := open(c, repoA, "key/1", "passphrase"); err == nil {
					t.Errorf("%d bytes are enough", i)
				}
			}
		}
		again := wrap(t, k, "key/1", "passphrase")
		if bytes.Equal(again.Salt, s.Salt) || bytes.Equal(again.Wrapped, s.Wrapped) {
			t.Error("two slots are alike")
		}
	}
}

// TestSlotCheck: the MAC binds the text to the secret, the place and the
// repository.
func TestSlotCheck(t *testing.T) {
	mac := func(k *seal.Keys, epoch uint32, key, text string) string {
		m, err := k.SlotCheck(epoch, key, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return string(m)
	}
	k := keys(1, repoA).Next()
	seen := map[string]string{}
	for name, m := range map[string]string{
		"this": mac(k, 0, "key/1", "text"), "epoch": mac(k, 1, "key/1", "text"), "key": mac(k, 0, "key/2", "text"),
		"text": mac(k, 0, "key/1", "texs"), "border": mac(k, 0, "key/", "1text"), "repository": mac(keys(1, repoB), 0, "key/1", "text"), "secret": mac(keys(2, repoA), 0, "key/1", "text"),
	} {
		if other, ok := seen[m]; ok {
			t.Errorf("another %s makes the same MAC as another %s", name, other)
		}
		seen[m] = name
	}
	if _, err := k.SlotCheck(2, "key/1", nil); !errors.Is(err, seal.ErrEpoch) {
		t.Errorf("unknown epoch: %v", err)
	}
}

// TestPayloads: a service may open what is not a slot of ours.
func TestPayloads(t *testing.T) {
	k := keys(1, repoA)
	good := k.SlotPayload("key/1")
	if len(good) > 128 {
		t.Errorf("%d bytes are more than some services take", len(good))
	}
	s := seal.Slot{Kind: seal.KindKMS}
	for name, payload := range map[string][]byte{
		"nil": nil, "text": []byte("some other secret"), "short": good[:len(good)-1], "long": append(bytes.Clone(good), 'x'),
		"repository": keys(1, repoB).SlotPayload("key/1"), "name": k.SlotPayload("key/2"), "epoch": k.Next().SlotPayload("key/1"),
	} {
		if _, err := s.Open(repoA, "key/1", payload); !errors.Is(err, seal.ErrSlot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good {
		if i >= 40 && i < 72 {
			continue // the secret
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := s.Open(repoA, "key/1", bad); !errors.Is(err, seal.ErrSlot) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if got, err := s.Open(repoA, "key/1", good); err != nil || !same(got, k) {
		t.Error(err)
	}
}

// TestSlotBounds checks that a forged slot cannot make us work, or panic.
func TestSlotBounds(t *testing.T) {
	for _, p := range []seal.KDF{
		{},
		{Time: 0, Memory: 8, Threads: 1},
		{Time: 17, Memory: 8, Threads: 1},
		{Time: 1, Memory: 7, Threads: 1},
		{Time: 1, Memory: 1<<20 + 1, Threads: 1},
		{Time: 1, Memory: 8, Threads: 0},
		{Time: 1, Memory: 1024, Threads: 17},
		{Time: 1, Memory: 15, Threads: 2},
		{Time: 1<<32 - 1, Memory: 1<<32 - 1, Threads: 255},
	} {
		if p.Check() == nil {
			t.Errorf("%+v is within bounds", p)
		}
		if (&seal.Slot{}).WrapPassphrase([]byte("p"), nil, p) == nil {
			t.Errorf("%+v wraps", p)
		}
		if (&seal.Slot{Kind: seal.KindPassphrase, KDF: &p, Salt: make([]byte, 16)}).Check() == nil {
			t.Errorf("a slot with %+v is well-formed", p)
		}
	}
	for _, p := range []seal.KDF{seal.DefaultKDF(), {Time: 16, Memory: 1 << 20, Threads: 16}, {Time: 1, Memory: 8, Threads: 1}} {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
	salt, kdf := make([]byte, 16), &cheap
	for name, s := range map[string]seal.Slot{
		"no kind":         {KDF: kdf, Salt: salt},
		"no KDF":          {Kind: seal.KindPassphrase, Salt: salt},
		"no salt":         {Kind: seal.KindPassphrase, KDF: kdf},
		"long salt":       {Kind: seal.KindPassphrase, KDF: kdf, Salt: make([]byte, 17)},
		"kms with KDF":    {Kind: seal.KindKMS, KDF: kdf},
		"kms with salt":   {Kind: seal.KindKMS, Salt: salt},
		"large":           {Kind: seal.KindKMS, Wrapped: make([]byte, seal.MaxWrapped+1)},
		"long name":       {Kind: seal.KindKMS, Name: string(make([]byte, 256))},
		"name":            {Kind: seal.KindKMS, Name: "\xff"},
		"earlier missing": {Kind: seal.KindKMS, Epoch: 1},
		"earlier at 0":    {Kind: seal.KindKMS, Earlier: make([]byte, seal.ObjectOverhead)},
		"epoch":           {Kind: seal.KindKMS, Epoch: ondisk.MaxEpoch + 1, Earlier: make([]byte, seal.ObjectOverhead+32*(ondisk.MaxEpoch+1))},
		"epoch capped":    {Kind: seal.KindKMS, Epoch: ondisk.MaxEpoch + 1, Earlier: make([]byte, seal.ObjectOverhead+32*ondisk.MaxEpoch)},
	} {
		if s.Check() == nil {
			t.Errorf("%s: well-formed", name)
		}
	}
	for name, s := range map[string]seal.Slot{
		"at the limits": {Kind: seal.KindKMS, Wrapped: make([]byte, seal.MaxWrapped), Name: string(make([]byte, 255)), Epoch: ondisk.MaxEpoch, Earlier: make([]byte, seal.ObjectOverhead+32*ondisk.MaxEpoch)},
	} {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if line, err := json.Marshal(s); err != nil || len(line) > ondisk.MaxHeader-300 {
			t.Errorf("%s: %d bytes, %v", name, len(line), err)
		}
	}
}

// FuzzSlot parses slots as Open does. What does not fit the bounds of the test
// is not worth its time.
func FuzzSlot(f *testing.F) {
	k := keys(1, repoA)
	for _, k := range []*seal.Keys{k, k.Next()} {
		line, err := json.Marshal(wrap(f, k, "key/1", "p"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Add([]byte(`{"kind":"passphrase","argon2id":{"time":1,"memory":8,"threads":1},"salt":"","wrapped":""}`))
	f.Add([]byte(`{"kind":"passphrase","argon2id":{"time":4294967295,"memory":4294967295,"threads":255}}`))
	f.Add([]byte(`{"kind":"kms","wrapped":"AAAA","epoch":4294967295}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s seal.Slot
		if json.Unmarshal(b, &s) != nil || s.Check() != nil {
			return
		}
		payload := s.Wrapped // a service that does nothing
		if s.Kind == seal.KindPassphrase {
			if s.KDF.Cost() > 128 {
				return
			}
			var err error
			if payload, err = s.UnwrapPassphrase([]byte("p")); err != nil {
				return
			}
		}
		if got, err := s.Open(repoA, "key/1", payload); err == nil && s.Kind == seal.KindPassphrase && got.PointName("x") != k.PointName("x") {
			t.Fatalf("a forged slot opens: %s", b)
		}
	})
}

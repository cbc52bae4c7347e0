// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// A new epoch makes earlier secrets useless for what is sealed from then on. Its
// secret seals all earlier ones, so that whoever has it can read everything,
// and whoever has an earlier one cannot read on. An epoch begins when its object
// is stored: what SealEarlier made under the new secret, and a MAC under the one
// before, by which those who have only that one know that it was replaced by
// somebody who had it, and not by somebody who can merely write to the store.

// Next returns the keys with one more epoch, whose secret is new.
func (k *Keys) Next() *Keys {
	s := *k.epochs.Load()
	s.secrets = append(slices.Clip(s.secrets[:s.newest+1]), NewSecret())
	return NewKeys(k.repo, s.secrets...)
}

// Under returns the same keys, sealing under an epoch that is not the newest:
// the secrets of those after it are kept for reading.
func (k *Keys) Under(epoch uint32) *Keys {
	s := *k.epochs.Load()
	s.newest = min(epoch, k.Last())
	n := NewKeys(k.repo, s.secrets...)
	n.epochs.Store(&s)
	return n
}

// Last returns the last epoch whose secret we have. One after Epoch has not
// begun, as far as we know.
func (k *Keys) Last() uint32 { return uint32(len(k.epochs.Load().secrets) - 1) } // at most ondisk.MaxEpoch

// Advance makes k what next is, which has all the secrets of k up to its epoch.
func (k *Keys) Advance(next *Keys) { k.epochs.Store(next.epochs.Load()) }

// SealEarlier seals the secrets of all epochs but the newest under that of the
// newest, to be stored in the object with this key.
func (k *Keys) SealEarlier(key string) []byte {
	var plain []byte
	for _, s := range k.epochs.Load().secrets[:k.Epoch()] {
		plain = append(plain, s[:]...)
	}
	return k.SealObject(key, plain)
}

// OpenEarlier returns the keys that the secret of an epoch opens, with what
// SealEarlier made under it. Epoch 0 has nothing before it.
func OpenEarlier(repo [16]byte, epoch uint32, secret Secret, key string, sealed []byte) (*Keys, error) {
	if epoch == 0 && len(sealed) == 0 {
		return NewKeys(repo, secret), nil
	}
	// Under another epoch it would be opened with a secret that is not known yet.
	if epoch > ondisk.MaxEpoch || len(sealed) != earlierSize(epoch) || binary.LittleEndian.Uint32(sealed) != epoch {
		return nil, ErrAuth
	}
	secrets := make([]Secret, epoch+1)
	secrets[epoch] = secret
	plain, err := NewKeys(repo, secrets...).OpenObject(key, sealed)
	if err != nil || len(plain) != int(epoch)*len(Secret{}) {
		return nil, ErrAuth
	}
	for i := range secrets[:epoch] {
		copy(secrets[i][:], plain[i*len(Secret{}):])
	}
	return NewKeys(repo, secrets...), nil
}

// earlierSize is the length of what SealEarlier makes.
func earlierSize(epoch uint32) int { return ObjectOverhead + int(epoch)*len(Secret{}) }

// EpochObject returns the object that begins the newest epoch, which is not 0.
func (k *Keys) EpochObject(key string) []byte {
	sealed := k.SealEarlier(key)
	before := k.epochs.Load().secrets[k.Epoch()-1]
	return append(sealed, before.tag(k.repo, "epoch link", key, sealed)...)
}

// CheckEpoch reports whether the object begins this epoch, which is at least 1.
// It fails with ErrAuth if nobody who had the secret of the epoch before made
// it, and with ErrEpoch if somebody did, and the secret is not one that we have.
func (k *Keys) CheckEpoch(epoch uint32, key string, object []byte) error {
	before, err := k.secret(epoch - 1)
	if err != nil {
		return err
	}
	n := len(object) - sha256.Size
	if n != earlierSize(epoch) || !hmac.Equal(object[n:], before.tag(k.repo, "epoch link", key, object[:n])) {
		return ErrAuth
	}
	secret, err := k.secret(epoch)
	if err != nil {
		return err
	}
	then, err := OpenEarlier(k.repo, epoch, *secret, key, object[:n])
	if err != nil {
		return fmt.Errorf("%w: epoch %d", ErrEpoch, epoch)
	}
	for i, s := range then.epochs.Load().secrets {
		if ours := k.epochs.Load().secrets[i]; !bytes.Equal(s[:], ours[:]) {
			return ErrAuth
		}
	}
	return nil
}

// tag returns a MAC over the text in the object with this key. It commits to the
// secret.
func (s *Secret) tag(repo [16]byte, label, key string, text []byte) []byte {
	m := hmac.New(sha256.New, s.derive(repo, label, nil, 32))
	_, _ = m.Write(append([]byte(key), 0)) // cannot fail
	_, _ = m.Write(text)
	return m.Sum(nil)
}

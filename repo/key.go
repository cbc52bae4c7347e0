// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"gocloud.dev/gcerrors"
	"gocloud.dev/secrets"

	"github.com/stillpoint-go/protect/internal/seal"
)

// Key unlocks a repository. It prints as "[redacted]". The zero Key unlocks
// nothing.
type Key struct {
	// A function, so that whoever prints a struct with a Key in it sees an
	// address.
	get func() *key
}

func newKey(k key) Key { return Key{func() *key { return &k }} }

type key struct {
	kind       string
	passphrase []byte
	kdf        seal.KDF
	keeper     *secrets.Keeper
	name       string
}

// Passphrase returns a key that is derived from a passphrase with Argon2id
// (64 MiB, 3 passes), or with the parameters of the slot that it opens.
func Passphrase(passphrase string) Key {
	return newKey(key{kind: seal.KindPassphrase, passphrase: []byte(passphrase), kdf: seal.DefaultKDF()})
}

// Keeper returns a key of a key management service. The name is for people: it
// is stored, readable by everybody, with the slots that are made from the key.
// It has at most 255 bytes of UTF-8 without control characters and may be
// empty. The keeper stays the
// caller's and must stay open while the key is used.
//
// The service sees a secret of the repository in the clear. One that a slot is
// made for must be able to decrypt what it encrypts, 128 bytes of it.
func Keeper(k *secrets.Keeper, name string) Key {
	return newKey(key{kind: seal.KindKMS, keeper: k, name: name})
}

// WithKDF returns a key with other Argon2id parameters for the slots that are
// made from it: passes, memory in KiB and lanes. Slots with less than the
// default are for tests and for passphrases that are random keys. It changes
// nothing for keys that are no passphrases.
func (k Key) WithKDF(time, memory uint32, threads uint8) Key {
	if k.get == nil {
		return k
	}
	c := *k.get()
	c.kdf = seal.KDF{Time: time, Memory: memory, Threads: threads}
	return newKey(c)
}

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (k Key) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (k Key) GoString() string { return redacted }

// Format implements fmt.Formatter for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (k Key) check() error {
	if k.get == nil {
		return fmt.Errorf("%w: there is no key", fs.ErrInvalid)
	}
	return k.get().check()
}

func (k *key) check() error {
	switch {
	case k.kind == seal.KindKMS:
		if k.keeper == nil {
			return fmt.Errorf("%w: the keeper is nil", fs.ErrInvalid)
		}
		if k.name != "" && checkID(k.name) != nil {
			return fmt.Errorf("%w: the name of a key has at most 255 bytes of UTF-8 without control characters, not %q", fs.ErrInvalid, k.name)
		}
		return nil
	case len(k.passphrase) == 0:
		return fmt.Errorf("%w: the passphrase is empty", fs.ErrInvalid)
	}
	return k.kdf.Check()
}

// keeperTimeout bounds one call of a key management service.
const keeperTimeout = time.Minute

// wrap sets what makes s a slot of this key.
func (k *key) wrap(ctx context.Context, s *seal.Slot, payload []byte) error {
	if k.keeper == nil {
		return s.WrapPassphrase(k.passphrase, payload, k.kdf)
	}
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	wrapped, err := k.keeper.Encrypt(ctx, payload)
	if err != nil {
		return keeperError(err)
	}
	// A driver could hand back its input.
	if len(wrapped) > seal.MaxWrapped || bytes.Contains(wrapped, payload) {
		return fmt.Errorf("the key management service answers with %d bytes that are no ciphertext", len(wrapped))
	}
	s.Kind, s.Name, s.Wrapped = seal.KindKMS, k.name, wrapped
	return nil
}

// unwrap returns the payload of a slot of this kind of key. It fails with
// seal.ErrSlot if the slot is not this key's.
func (k *key) unwrap(ctx context.Context, s *seal.Slot) ([]byte, error) {
	if k.keeper == nil {
		return s.UnwrapPassphrase(k.passphrase)
	}
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	payload, err := k.keeper.Decrypt(ctx, s.Wrapped)
	if err != nil {
		return nil, keeperError(err)
	}
	return payload, nil
}

// keeperError says that a slot is not the keeper's only where the keeper says
// so. Many services do not tell that from a failure.
func keeperError(err error) error {
	class := errors.New("key management service")
	switch gcerrors.Code(err) {
	case gcerrors.InvalidArgument, gcerrors.NotFound:
		class = seal.ErrSlot
	case gcerrors.PermissionDenied:
		class = fs.ErrPermission
	case gcerrors.DeadlineExceeded:
		class = context.DeadlineExceeded
	case gcerrors.Canceled:
		class = context.Canceled
	default:
	}
	return fmt.Errorf("%w: %w", class, err)
}

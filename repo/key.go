// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"

	"github.com/stillpoint-go/protect/internal/seal"
)

// Key unlocks a repository. It prints as "[redacted]".
type Key struct {
	passphrase []byte
	kdf        seal.KDF
}

// Passphrase returns a key that is derived from a passphrase with Argon2id
// (64 MiB, 3 passes), or with the parameters of the slot that it opens.
func Passphrase(passphrase string) Key {
	return Key{passphrase: []byte(passphrase), kdf: seal.DefaultKDF()}
}

// WithKDF returns a key with other Argon2id parameters for the slots that Init
// makes from it: passes, memory in KiB and lanes. Slots with less than the
// default are for tests and for passphrases that are random keys.
func (k Key) WithKDF(time, memory uint32, threads uint8) Key {
	k.kdf = seal.KDF{Time: time, Memory: memory, Threads: threads}
	return k
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
	if len(k.passphrase) == 0 {
		return errors.New("the passphrase is empty")
	}
	return k.kdf.Check()
}

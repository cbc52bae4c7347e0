// SPDX-License-Identifier: Apache-2.0

package seal

import "github.com/zeebo/blake3"

// Digest returns the keyed digest of a record: it commits to what the record
// says, and tells nothing to those without the key.
func (k *Keys) Digest(record []byte) [32]byte { return k.mac("record digest", record) }

func (k *Keys) mac(label string, data []byte) [32]byte {
	h, err := blake3.NewKeyed(k.derive(label, nil, 32))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.Write(data) // cannot fail
	var mac [32]byte
	h.Sum(mac[:0])
	return mac
}

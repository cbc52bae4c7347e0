// SPDX-License-Identifier: Apache-2.0

package seal

// CacheKey returns the key that authenticates what a process keeps in local
// files.
func (k *Keys) CacheKey() [32]byte { return [32]byte(k.derive("local cache", 32)) }

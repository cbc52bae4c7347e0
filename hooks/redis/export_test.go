// SPDX-License-Identifier: Apache-2.0

package redis

// ReadManifest returns the names in the manifest of an AOF.
func ReadManifest(path string) ([]string, error) { return readManifest(path) }

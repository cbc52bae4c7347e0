// SPDX-License-Identifier: Apache-2.0

package etcd

import "bytes"

// RevisionOf reads the revision of a database.
func RevisionOf(b []byte) (int64, error) {
	d, err := readDatabase(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return 0, err
	}
	return d.revision(), nil
}

// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stillpoint-go/protect/hooks/etcd"
)

// FuzzDatabase reads databases that a snapshot may hold: whatever is in them,
// there is a revision, or they are not consistent.
func FuzzDatabase(f *testing.F) {
	for _, d := range []db{{}, {last: 5}, {last: 5, branch: true, order: binary.BigEndian}, {last: 3, ended: 2, scheduled: 5}} {
		f.Add(d.bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := etcd.RevisionOf(b)
		if err != nil && !errors.Is(err, etcd.ErrInconsistent) {
			t.Errorf("error %v, want ErrInconsistent", err)
		}
		if err == nil && n < 1 {
			t.Errorf("revision %d", n)
		}
	})
}

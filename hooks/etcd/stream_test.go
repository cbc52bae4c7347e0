// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/etcd"
)

// TestRevision reads databases of every form.
func TestRevision(t *testing.T) {
	for name, tt := range map[string]struct {
		db   db
		want int64
	}{
		"keys":                        {db{last: 5}, 5},
		"a page above":                {db{last: 5, branch: true}, 5},
		"big endian":                  {db{last: 5, branch: true, order: binary.BigEndian}, 5},
		"empty":                       {db{}, 1},
		"compacted beyond the keys":   {db{last: 3, ended: 5}, 5},
		"about to be compacted":       {db{last: 3, ended: 2, scheduled: 5}, 5},
		"compacted before the newest": {db{last: 5, ended: 2, scheduled: 2}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(tt.want)
			f.stream = func(context.Context) io.Reader { return bytes.NewReader(sealed(tt.db.bytes())) }
			e, err := quiesce(t, newSnapshot(t, f, t.TempDir(), nil)).Thaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if info, err := etcd.ParseEvidence(e); err != nil || info.Revision != tt.want {
				t.Errorf("revision %+v, %v, want %d", info, err, tt.want)
			}
		})
	}
}

// TestBadStream has streams that are no snapshot, or not this one: the hold is
// lost and no file is left, not even the one of the freeze before.
func TestBadStream(t *testing.T) {
	good := sealed(db{last: 5, branch: true}.bytes())
	broken := errors.New("broken")
	for name, stream := range map[string]func() io.Reader{
		"cut short":           func() io.Reader { return bytes.NewReader(good[:len(good)-100]) },
		"without hash":        func() io.Reader { return bytes.NewReader(good[:len(good)-32]) },
		"breaks":              func() io.Reader { return io.MultiReader(bytes.NewReader(good[:5000]), iotest.ErrReader(broken)) },
		"breaks at the end":   func() io.Reader { return io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken)) },
		"no database":         func() io.Reader { return bytes.NewReader(sealed(make([]byte, 4*pageSize))) },
		"of a lagging member": func() io.Reader { return bytes.NewReader(sealed(db{last: 4}.bytes())) },
		"of a later revision": func() io.Reader { return bytes.NewReader(sealed(db{last: 6}.bytes())) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := newFake(5)
			if _, err := quiesce(t, newSnapshot(t, f, dir, nil)).Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.stream = func(context.Context) io.Reader { return stream() }
			e, err := quiesce(t, newSnapshot(t, f, dir, nil)).Thaw(t.Context())
			if !errors.Is(err, hooks.ErrHoldLost) || e != nil {
				t.Errorf("Thaw: %v, %v", e, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestDamage flips bytes of the database and makes its hash right again: reading
// it ends, with an error or with a revision that is not believed unless it is the
// right one.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	good := db{last: 5, branch: true, ended: 2, scheduled: 2}.bytes()
	f := newFake(5)
	q := newSnapshot(t, f, t.TempDir(), nil)
	for range 300 {
		bad := bytes.Clone(good)
		for range 1 + rng.IntN(4) {
			page := []int{0, 1, 3, 4, 5}[rng.IntN(5)]
			bad[page*pageSize+rng.IntN(160)] = byte(rng.Uint32())
		}
		f.stream = func(context.Context) io.Reader { return bytes.NewReader(sealed(bad)) }
		e, err := quiesce(t, q).Thaw(t.Context())
		if err != nil && !errors.Is(err, hooks.ErrHoldLost) {
			t.Fatalf("Thaw: %v", err)
		}
		if err != nil {
			continue
		}
		if info, err := etcd.ParseEvidence(e); err != nil || info.Revision != 5 {
			t.Fatalf("believed: %+v, %v", info, err)
		}
	}
}

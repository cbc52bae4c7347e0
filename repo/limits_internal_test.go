// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// TestObjectLimits reads objects of the largest size of their kind, whatever is
// in them, and refuses those with one byte more before it has memory for them.
func TestObjectLimits(t *testing.T) {
	r, b := initTest(t)
	id := strings.Repeat("0", 32)
	check := newVerifier(r, VerifyOptions{}).checkOf
	for key, limit := range map[string]int{
		ondisk.HeaderKey:                               ondisk.MaxHeader - sealedOverhead,
		ondisk.HeaderCopyKey:                           ondisk.MaxHeader - sealedOverhead,
		ondisk.SlotPrefix + id[:16]:                    ondisk.MaxHeader - sealedOverhead,
		epochKey(1):                                    maxEpochObject - sealedOverhead,
		ondisk.PointPrefix + id + "-00000000":          ondisk.MaxRecord,
		ondisk.SessionPrefix + id:                      ondisk.MaxRecord,
		ondisk.IndexPrefix + "00-" + id + "-" + id[:8]: ondisk.MaxSegment,
		ondisk.ClosedPrefix + "00-" + id:               ondisk.MaxSet,
		ondisk.CondemnPrefix + "00-" + id:              ondisk.MaxSet,
		ondisk.ForgetPrefix + id + "-00000000":         ondisk.MaxHeader,
		ondisk.HoldPrefix + id + "-00000000-" + id:     ondisk.MaxHeader,
		ondisk.ResumePrefix + id + "-00000000":         ondisk.MaxNode + maxJournal,
		verifyLedger + id[:16] + "-" + id:              ondisk.MaxSet,
		waitLedger + id:                                ondisk.MaxRecord,
	} {
		for n := limit; n <= limit+1; n++ {
			if err := b.WriteAll(t.Context(), key, r.keys.SealObject(key, make([]byte, n)), nil); err != nil {
				t.Fatal(err)
			}
			if err := check(key)(t.Context(), key); errors.Is(err, store.ErrTooLarge) != (n > limit) {
				t.Errorf("%s of %d bytes, %d are allowed: %v", key, n, limit, err)
			}
		}
	}
}

// TestRecordLimits has as many volumes and parents as records may have, and one
// more, and names of all lengths.
func TestRecordLimits(t *testing.T) {
	p := &Point{ID: "p"}
	for i := range ondisk.MaxVolumes + 1 {
		p.Volumes = append(p.Volumes, Volume{Name: fmt.Sprintf("%05d", i)})
		plain, err := p.encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := i + 1; n >= ondisk.MaxVolumes {
			if _, err := decodeRecord(plain); (err == nil) != (n == ondisk.MaxVolumes) {
				t.Errorf("%d volumes: %v", n, err)
			}
		}
	}
	at := attempt{}.String()
	for n := maxParents; n <= maxParents+1; n++ {
		plain := fmt.Sprintf(`{"version":1,"commit":%q,"parents":[%s]}`, at, strings.TrimSuffix(strings.Repeat(`"`+at+`",`, n), ","))
		if _, err := decodeSession(strings.Repeat("0", 32), []byte(plain)); (err == nil) != (n == maxParents) {
			t.Errorf("%d parents: %v", n, err)
		}
	}
	for n := maxID; n <= maxID+1; n++ {
		if err := checkID(strings.Repeat("n", n)); (err == nil) != (n == maxID) {
			t.Errorf("an ID of %d bytes: %v", n, err)
		}
	}
}

// TestWriterLimits stores no more volumes than a record may have, and no session
// that nobody can read: no collection would come to its end.
func TestWriterLimits(t *testing.T) {
	r, _ := initTest(t)
	enough := errors.New("enough")
	write := func(name string, volumes int) error {
		_, err := r.Write(t.Context(), WriteOptions{ID: fmt.Sprint(len(name), volumes), Name: name}, func(_ context.Context, w *Writer) error {
			for i := range volumes {
				if err := w.begin(fmt.Sprint(i)); err != nil {
					return err
				}
			}
			return enough
		})
		return err
	}
	if err := write("", ondisk.MaxVolumes); !errors.Is(err, enough) {
		t.Error(err)
	}
	if err := write("", ondisk.MaxVolumes+1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("too many volumes: %v", err)
	}
	if err := write(strings.Repeat("n", ondisk.MaxRecord), 1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a name that fits no record: %v", err)
	}
	if _, err := r.Collect(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestLastEpoch rotates up to the last number, and says what to do then.
func TestLastEpoch(t *testing.T) {
	r, b := initTest(t)
	k := r.keys
	for n := uint32(1); n < ondisk.MaxEpoch; n++ {
		k = k.Next()
		if err := b.WriteAll(t.Context(), epochKey(n), k.EpochObject(epochKey(n)), nil); err != nil {
			t.Fatal(err)
		}
	}
	r.keys.Advance(k)
	secret := Passphrase("secret").WithKDF(1, 8, 1)
	if err := r.RotateKeys(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := r.RotateKeys(t.Context(), secret); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "copy") {
		t.Errorf("after epoch %d: %v", ondisk.MaxEpoch, err)
	}
	last, err := Open(t.Context(), b, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last.keys.Epoch() != ondisk.MaxEpoch {
		t.Errorf("opened under epoch %d", last.keys.Epoch())
	}
}

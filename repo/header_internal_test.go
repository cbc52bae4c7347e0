// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestForgedHeader puts in headers and copies that somebody without a key has
// made, with a right checksum: they change nothing, but may keep a release from
// opening that obeys what it does not know.
func TestForgedHeader(t *testing.T) {
	r, b := initTest(t)
	ctx := t.Context()
	lines, err := unsum(headerMagic, r.header, 2)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"another store": {`"atomic_create":true`, `"atomic_create":false`},
		"another id":    {r.ID(), strings.Repeat("ab", 16)},
		"no copy":       {`"compatible":["` + headerCopy + `"],`, ``},
		"read only":     {`"store"`, `"read_only_compatible":["x"],"store"`},
		"incompatible":  {`"store"`, `"incompatible":["x"],"store"`},
	} {
		line := strings.Replace(lines[0], change[0], change[1], 1)
		if line == lines[0] {
			t.Fatalf("%s: %s is as it was", what, line)
		}
		for _, key := range headerKeys() {
			if err := b.WriteAll(ctx, key, sum(headerMagic, line, lines[1]), nil); err != nil {
				t.Fatal(err)
			}
			by := r // who has it open anyway
			if what == "incompatible" && key == ondisk.HeaderKey {
				if _, err := Open(ctx, b, Passphrase("secret"), nil); !errors.Is(err, ErrFormat) {
					t.Errorf("%s as %s: %v", what, key, err)
				}
			} else if by, err = Open(ctx, b, Passphrase("secret"), nil); err != nil {
				t.Fatalf("%s as %s: %v", what, key, err)
			}
			if by.id != r.id || by.caps != r.caps || by.readOnly != nil || !by.copied {
				t.Errorf("%s as %s: id %x, %+v, %v", what, key, by.id, by.caps, by.readOnly)
			}
			rep, err := by.Verify(ctx, nil)
			if err != nil || len(rep.Damage) != 1 || rep.Damage[0].Object != key {
				t.Errorf("%s as %s: %+v, %v", what, key, rep, err)
			}
			fixed, err := by.Repair(ctx, nil)
			if err != nil || !slices.Equal(fixed.Restored, []string{key}) || len(fixed.Damage) > 0 {
				t.Errorf("%s as %s: %+v, %v", what, key, fixed, err)
			}
		}
	}
}

// TestHeaderWins has two authentic headers, as when a release adds a feature and
// dies between the two.
func TestHeaderWins(t *testing.T) {
	r, b := initTest(t)
	ctx := t.Context()
	line := []byte(`{"version":1,"id":"` + r.ID() + `","suite":"` + suite + `","read_only_compatible":["parity"],"compatible":["` + headerCopy + `"]}`)
	mac := r.keys.HeaderMAC(line)
	other := sum(headerMagic, string(line), hex.EncodeToString(mac[:]))
	first := r.header
	for _, c := range []struct{ header, dup []byte }{{first, other}, {other, first}} {
		for key, raw := range map[string][]byte{ondisk.HeaderKey: c.header, ondisk.HeaderCopyKey: c.dup} {
			if err := b.WriteAll(ctx, key, raw, nil); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Open(ctx, b, Passphrase("secret"), nil)
		if err != nil || !bytes.Equal(again.header, c.header) || (again.readOnly != nil) != bytes.Equal(c.header, other) {
			t.Fatalf("opened by %s, %v", again.header, err)
		}
		rep, err := again.Verify(ctx, nil)
		if err != nil || len(rep.Damage) != 1 || rep.Damage[0].Object != ondisk.HeaderCopyKey {
			t.Errorf("%+v, %v", rep, err)
		}
		if fixed, err := r.Repair(ctx, nil); err != nil || len(fixed.Restored) != 1 || len(fixed.Damage) > 0 {
			t.Errorf("%+v, %v", fixed, err)
		}
		for _, key := range headerKeys() {
			if got, err := b.ReadAll(ctx, key); err != nil || !bytes.Equal(got, c.header) {
				t.Errorf("%s is %s, %v", key, got, err)
			}
		}
	}
}

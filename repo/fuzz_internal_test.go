// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// stored returns the objects of a new repository whose keys begin with prefix.
func stored(tb testing.TB, prefix string) map[string][]byte {
	tb.Helper()
	r, b := initTest(tb)
	if _, err := r.AddKey(tb.Context(), Passphrase("other").WithKDF(1, 8, 1)); err != nil {
		tb.Fatal(err)
	}
	if err := r.RotateKeys(tb.Context(), Passphrase("secret").WithKDF(1, 8, 1)); err != nil {
		tb.Fatal(err)
	}
	found := map[string][]byte{}
	for o, err := range r.store.List(tb.Context(), prefix) {
		if err == nil {
			found[o.Key], err = b.ReadAll(tb.Context(), o.Key)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if len(found) == 0 {
		tb.Fatalf("nothing is under %q", prefix)
	}
	return found
}

// withoutSum returns the text of a header or a slot without its checksum, which
// a fuzzer does not guess.
func withoutSum(raw []byte) string {
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	return strings.Join(lines[:len(lines)-1], "\n")
}

// FuzzHeader parses headers with a valid checksum, or as they are. What is
// accepted says the same when it is written again.
func FuzzHeader(f *testing.F) {
	for _, raw := range stored(f, ondisk.HeaderKey) {
		f.Add(withoutSum(raw), true)
		f.Add(string(raw), false)
	}
	for _, lines := range [][]string{
		{headerMagic, `{"version":1,"id":"00112233445566778899aabbccddeeff","suite":"` + suite + `","incompatible":["x"]}`, "00"},
		{headerMagic, `{"version":1,"id":"00112233445566778899aabbccddeeff","suite":"` + suite + `","read_only_compatible":["x"],"compatible":["y"]}`, "00"},
		{headerMagic, `{"version":7}`, ""},
		{headerMagic + ", experimental format", "{}", ""},
		{},
		{headerMagic},
		{"", "", ""},
	} {
		f.Add(strings.Join(lines, "\n"), true)
	}
	f.Fuzz(func(t *testing.T, text string, valid bool) {
		raw := []byte(text)
		if valid {
			raw = sum(strings.Split(text, "\n")...)
		}
		h, err := parseHeader(ondisk.HeaderKey, raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
				t.Fatalf("unexpected class of error: %v", err)
			}
			return
		}
		if h.Version != ondisk.Version || h.Suite != suite || fmt.Sprintf("%x", h.id) != strings.ToLower(h.ID) || len(unknown(h.Incompatible)) > 0 {
			t.Fatalf("header %+v of %x", h, h.id)
		}
		line, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseHeader(ondisk.HeaderKey, sum(headerMagic, string(line), fmt.Sprintf("%x", h.mac)))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		again.line = h.line
		if diff := cmp.Diff(h, again, cmp.AllowUnexported(header{}), equalEmpty); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// equalEmpty takes an empty list for one that is not there, as the stored form
// does.
var equalEmpty = cmp.Transformer("empty", func(s []string) string { return fmt.Sprintf("%q", s) })

// FuzzKeySlot does the same with key slots.
func FuzzKeySlot(f *testing.F) {
	for _, raw := range stored(f, ondisk.SlotPrefix) {
		f.Add(withoutSum(raw), true)
		f.Add(string(raw), false)
	}
	for _, lines := range [][]string{
		{slotMagic, "{}", ""},
		{slotMagic, `{"kind":"kms","epoch":0,"wrapped":"AAAA"}`, "00"},
		{slotMagic, `{"kind":"recipient","epoch":0,"wrapped":"AAAA"}`, "00"},
		{slotMagic, `{"kind":"kms","requires":["x"],"epoch":7,"name":"n"}`, "00"},
		{slotMagic, `{"kind":"passphrase","argon2id":{"time":4294967295,"memory":4294967295,"threads":255}}`, "00"},
	} {
		f.Add(strings.Join(lines, "\n"), true)
	}
	const key = ondisk.SlotPrefix + "0123456789abcdef"
	f.Fuzz(func(t *testing.T, text string, valid bool) {
		raw := []byte(text)
		if valid {
			raw = sum(strings.Split(text, "\n")...)
		}
		s, err := parseSlot(key, raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("unexpected class of error: %v", err)
			}
			return
		}
		if s.known() && s.Check() != nil {
			t.Fatalf("slot %+v", s)
		}
		line, err := json.Marshal(s.Slot)
		if err != nil {
			return // a time that JSON cannot say
		}
		again, err := parseSlot(key, sum(slotMagic, string(line), fmt.Sprintf("%x", s.check)))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if diff := cmp.Diff(s.Slot, again.Slot, equalEmpty, equalNil); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// equalNil takes empty bytes for none.
var equalNil = cmp.Transformer("nil", func(b []byte) string { return string(b) })

// FuzzDecodeSession decodes sessions. What is accepted says the same when it is
// written again.
func FuzzDecodeSession(f *testing.F) {
	r, _ := initTest(f)
	for _, parents := range [][]attempt{nil, {{Name: [16]byte{3}, N: 4}}, make([]attempt, maxParents)} {
		s, err := r.beginSession(f.Context(), attempt{Name: [16]byte{1}, N: 2}, "app", parents...)
		if err != nil {
			f.Fatal(err)
		}
		plain, err := r.getObject(f.Context(), s.object.Key, ondisk.MaxRecord)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(strings.TrimPrefix(s.object.Key, ondisk.SessionPrefix), plain)
	}
	f.Add("0", []byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, id string, plain []byte) {
		s, err := decodeSession(id, plain)
		if err != nil {
			return
		}
		if sessionKey(s.id) != ondisk.SessionPrefix+id || len(s.parents) > maxParents {
			t.Fatalf("session %q is %+v", id, s)
		}
		rec := sessionJSON{Version: ondisk.Version, Commit: s.at.String(), Name: s.name}
		for _, p := range s.parents {
			rec.Parents = append(rec.Parents, p.String())
		}
		line, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeSession(id, line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if diff := cmp.Diff(s, again, cmp.AllowUnexported(session{})); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// FuzzMarks decodes what forget, hold and wait objects say.
func FuzzMarks(f *testing.F) {
	for _, v := range []any{
		mark{Version: ondisk.Version, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)},
		mark{Version: ondisk.Version, Holder: "case 4711"},
		waitRecord{Version: ondisk.Version, Sessions: []string{strings.Repeat("0a", 16), strings.Repeat("0b", 16)}},
		waitRecord{Version: ondisk.Version},
	} {
		plain, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Add([]byte(`{"version":2,"sessions":null}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if holder := decodeHolder(plain); holder == "" && !json.Valid(plain) {
			t.Fatal("nobody holds by what cannot be read")
		}
		waits, err := decodeWaits(plain)
		if err != nil {
			return
		}
		if waits == nil {
			t.Fatal("a record of nobody is as none")
		}
		var rec waitRecord
		rec.Version = ondisk.Version
		for s := range waits {
			rec.Sessions = append(rec.Sessions, s)
		}
		line, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeWaits(line)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(waits, again); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// FuzzHead parses what a caller kept. There is one text for each head.
func FuzzHead(f *testing.F) {
	f.Add(head{}.String())
	f.Add(head{at: attempt{Name: [16]byte{1}, N: 2}, digest: [32]byte{3}, closed: 1<<31 - 1}.String())
	f.Add("1:::")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHead(s)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("unexpected class of error: %v", err)
			}
			return
		}
		if h.String() != s || h.closed < 0 {
			t.Fatalf("%q is %q", s, h)
		}
	})
}

// FuzzObjectKeys parses the keys of objects, which anybody may make up who can
// write to the bucket. Each object of ours has one key.
func FuzzObjectKeys(f *testing.F) {
	id, a := [16]byte{1, 0xab}, attempt{Name: [16]byte{2, 0xcd}, N: 3}
	for _, key := range []string{
		ondisk.PackRef{Session: id, Seq: 7}.Key(), index.Name{Level: 1, ID: id, Part: 2}.Key(), index.Name{ID: id}.Key(),
		a.Key(), a.ForgetKey(), a.HoldKey(id), setKey(ondisk.ClosedPrefix, 0), setKey(ondisk.CondemnPrefix, 255),
		sessionKey(id), journalKey(id, 5), epochKey(1), epochKey(ondisk.MaxEpoch), ondisk.SlotPrefix + "0123456789abcdef",
		"", "pack/", "epoch/0000000A", "session/" + strings.Repeat("AB", 16),
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		var ours []string
		is := func(k string) { ours = append(ours, k) }
		if ref, ok := parsePackKey(key); ok {
			is(ref.Key())
		}
		if n, ok := index.ParseKey(key); ok {
			is(n.Key())
		}
		if rest, ok := strings.CutPrefix(key, ondisk.PointPrefix); ok {
			if at, err := ondisk.ParseAttempt(rest); err == nil {
				is(at.Key())
			}
		}
		if strings.HasPrefix(key, ondisk.ForgetPrefix) {
			if at, err := parseAttemptKey(ondisk.ForgetPrefix, key); err == nil {
				is(at.ForgetKey())
			}
		}
		if rest, ok := strings.CutPrefix(key, ondisk.HoldPrefix); ok {
			if at, holder, err := ondisk.ParseHold(rest); err == nil {
				is(at.HoldKey(holder))
			}
		}
		for _, prefix := range []string{ondisk.ClosedPrefix, ondisk.CondemnPrefix} {
			if level, id, ok := parseSetKey(prefix, key); ok {
				is(fmt.Sprintf("%s%02x-%x", prefix, level, id))
			}
		}
		if sid, ok := sessionID(key); ok {
			is(sessionKey(sid))
		}
		if n, ok := parseEpochKey(key); ok {
			is(epochKey(n))
		}
		if len(ours) > 1 || len(ours) == 1 && ours[0] != key {
			t.Fatalf("%q is %q", key, ours)
		}
		for _, prefix := range []string{ondisk.IndexPrefix, ondisk.PackPrefix, ondisk.ResumePrefix, ondisk.SessionPrefix} {
			if sid, ok := sessionOf(prefix, key); ok && strings.HasPrefix(key, prefix) && !strings.Contains(key, fmt.Sprintf("%x", sid)) {
				t.Fatalf("%q is of session %x", key, sid)
			}
		}
	})
}

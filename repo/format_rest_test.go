// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// What readers do not need to restore: FORMAT.md, sections 4, 12 and 13.

const (
	formatAttempt = `[0-9a-f]{32}-[0-9a-f]{8}`
	formatID      = `[0-9a-f]{32}`
)

// formatRest says how to check the objects that restoring does not take.
var formatRest = []struct {
	key   *regexp.Regexp
	check func(r *formatReader, key string)
}{
	{regexp.MustCompile(`^key/[0-9a-f]{16}$`), (*formatReader).checkSlot},
	{regexp.MustCompile(`^pack/` + formatID + `-[0-9a-f]{8}$`), (*formatReader).readFooter},
	{regexp.MustCompile(`^condemn/[0-9a-f]{2}-` + formatID + `$`), func(r *formatReader, key string) {
		d := &formatDecoder{r.object(key, 4<<20)}
		must(d.fixed(1)[0] == 1, "version")
		d.sessions(func() string {
			reason := d.fixed(1)[0]
			must(reason == 1 || reason == 2, "reason %d", reason)
			return string(reason)
		})
	}},
	{regexp.MustCompile(`^session/` + formatID + `$`), func(r *formatReader, key string) {
		var s struct {
			Version int       `json:"version"`
			Commit  string    `json:"commit"`
			Name    *string   `json:"name"`
			Parents []string  `json:"parents"`
			Started time.Time `json:"started"`
		}
		r.json(key, 4<<20, &s)
		at := regexp.MustCompile("^" + formatAttempt + "$")
		must(s.Version == 1 && at.MatchString(s.Commit) && s.Name != nil && len(s.Parents) <= 16 && !s.Started.IsZero(), "session")
		for _, p := range s.Parents {
			must(at.MatchString(p), "parent %q", p)
		}
	}},
	{regexp.MustCompile(`^(forget/` + formatAttempt + `|hold/` + formatAttempt + `-` + formatID + `)$`), func(r *formatReader, key string) {
		var m struct {
			Version int       `json:"version"`
			Holder  string    `json:"holder"`
			Time    time.Time `json:"time"`
		}
		r.json(key, 64<<10, &m)
		must(m.Version == 1 && !m.Time.IsZero() && (m.Holder != "") == strings.HasPrefix(key, "hold/"), "mark")
	}},
	{regexp.MustCompile(`^resume/` + formatID + `-[0-9a-f]{8}$`), func(r *formatReader, key string) {
		d := &formatDecoder{r.object(key, 8<<20)}
		must(len(d.bytes(255)) > 0, "volume")
		for last := ""; len(d.b) > 0; {
			name := string(d.bytes(4096))
			must(name > last || last == "", "order")
			r.entry(d.bytes(4 << 20))
			last = name
		}
	}},
	{regexp.MustCompile(`^ledger/verify-[0-9a-f]{16}-` + formatID + `$`), func(r *formatReader, key string) {
		d := &formatDecoder{r.object(key, 4<<20)}
		must(d.fixed(1)[0] == 1, "version")
		run := d.varint(1<<62 - 1)
		must(strings.HasPrefix(key, fmt.Sprintf("ledger/verify-%016x-", run)), "run %d", run)
		packs := d.sessions(func() string {
			ago, state := d.varint(run), d.fixed(1)[0]
			must(state <= 2, "state %d", state)
			return fmt.Sprint(ago, state)
		})
		must(packs <= 262144, "%d packs", packs)
	}},
	{regexp.MustCompile(`^ledger/wait-` + formatID + `$`), func(r *formatReader, key string) {
		var w struct {
			Version  int      `json:"version"`
			Sessions []string `json:"sessions"`
		}
		r.json(key, 4<<20, &w)
		must(w.Version == 1 && len(w.Sessions) > 0, "wait")
		for _, s := range w.Sessions {
			must(len(check(hex.DecodeString(s))) == 16, "session %q", s)
		}
	}},
	{regexp.MustCompile(`^ledger/(collect-[0-9a-f]{64}|clock-` + formatID + `)$`), func(r *formatReader, key string) { r.object(key, 4<<20) }},
}

func (r *formatReader) json(key string, limit int, v any) {
	must(json.Unmarshal(r.object(key, limit), v) == nil, "JSON")
}

// sessions reads the runs of packs of sessions, and what else says of each, and
// returns the number of packs.
func (d *formatDecoder) sessions(what func() string) (packs uint64) {
	last := ""
	for n := d.varint(4 << 20); n > 0; n-- {
		session := string(d.fixed(16))
		must(session > last || last == "", "order")
		last = session
		runs := d.varint(4 << 20)
		must(runs > 0, "a session without packs")
		end, before := uint64(0), ""
		for i := range runs {
			distance, length := d.varint(1<<32-1), d.varint(1<<32-1)+1
			same := what()
			must(end+distance+length <= 1<<32 && (i == 0 || distance > 0 || same != before), "run")
			end, before = end+distance+length, same
			packs += length
		}
	}
	must(len(d.b) == 0, "trailing bytes")
	return packs
}

// checkSlot checks a slot of any kind with the secret that it says to wrap.
func (r *formatReader) checkSlot(key string) {
	line, tag := r.lines(key, "protect key slot")
	var s struct {
		Kind  string `json:"kind"`
		Epoch int    `json:"epoch"`
		Name  string `json:"name"`
	}
	must(json.Unmarshal(line, &s) == nil && s.Epoch < len(r.secrets) && len(s.Name) <= 255, "slot")
	must(bytes.Equal(tag, r.tag(r.secrets[s.Epoch], "slot check", key, line)), "tag")
}

// rest checks all objects that restoring does not take, and returns the kinds.
func (r *formatReader) rest() (kinds map[string]int, err error) {
	kinds = map[string]int{}
	others := regexp.MustCompile(`^(protect\.(repository|header-copy)$|(epoch|index|point|closed|probe)/)`) // read already, or junk
	for _, key := range slices.Sorted(maps.Keys(r.objects)) {
		known := others.MatchString(key)
		for _, k := range formatRest {
			if k.key.MatchString(key) {
				known = true
				kinds[regexp.MustCompile(`^[a-z]+/([a-z]{4,}-)?`).FindString(key)]++
				if kerr := try(func() { k.check(r, key) }); kerr != nil {
					err = errors.Join(err, fmt.Errorf("%s: %w", key, kerr))
				}
			}
		}
		if !known {
			err = errors.Join(err, fmt.Errorf("%s is not in FORMAT.md", key))
		}
	}
	return kinds, err
}

// TestFormatRest checks what readers do not need: in the golden repositories, and
// in one that has each kind of object.
func TestFormatRest(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		g := loadGolden(t, filepath.Base(name))
		r, err := openFormat(g.objects, g.Passphrase, false)
		if err == nil {
			_, err = r.rest()
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := smallWorld(t)
	e := mustOpen(t, w.bucket.Bucket(), key("secret"))
	dir, failed := t.TempDir(), errors.New("failed")
	for i := range 3 {
		put(t, dir, fmt.Sprint(i), random(uint64(i), 200_000))
		if err := os.Chtimes(filepath.Join(dir, fmt.Sprint(i)), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil { // a young file may change yet
			t.Fatal(err)
		}
	}
	_, err = e.Write(t.Context(), repo.WriteOptions{ID: "journaled", Name: "one", Reuse: repo.ReuseByModTime}, func(ctx context.Context, wr *repo.Writer) error {
		if err := wr.Put(ctx, "v", dir); err != nil {
			return err
		}
		wr.WaitJournal()
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	for range 2 { // a session is at work: what is condemned has to wait
		if _, err := e.Collect(t.Context(), &repo.CollectOptions{MaxDelete: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Forget(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	r, err := openFormat(w.bucket.Objects(), "secret", false)
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := r.rest()
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"key/", "pack/", "condemn/", "session/", "forget/", "hold/", "resume/", "ledger/verify-", "ledger/wait-"} {
		if kinds[want] == 0 {
			t.Errorf("there is no %s: %v", want, kinds)
		}
	}
}

// TestFormatCopy finds the record of which a copy says to be one.
func TestFormatCopy(t *testing.T) {
	src := loadGolden(t, "v1-files")
	b, dst := repotest.NewBucket(nil), newPlace(t, nil)
	for key, data := range src.objects {
		b.Set(key, data)
	}
	if _, err := mustOpen(t, b.Bucket(), key(src.Passphrase)).CopyTo(t.Context(), dst.Repository, nil, nil); err != nil {
		t.Fatal(err)
	}
	points := func(objects map[string][]byte, passphrase string) (*formatReader, map[string]*formatPoint) {
		r, err := openFormat(objects, passphrase, false)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.points()
		if err != nil {
			t.Fatal(err)
		}
		return r, p
	}
	original, want := points(src.objects, src.Passphrase)
	_, got := points(dst.bucket.Objects(), "secret")
	for id, p := range want {
		c := got[id]
		if c == nil || c.Origin != hex.EncodeToString(original.repo) || c.OriginDigest != hex.EncodeToString(p.digest[:]) || c.Committed.IsZero() {
			t.Errorf("%s: %+v of %+v", id, c, p)
		}
	}
}

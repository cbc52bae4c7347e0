// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestRepairNamesWhatIsLost harms the packs all over: repair must name the points
// that cannot be restored, and no others. Who has lost nothing but hashes of pages
// need not forget anything.
func TestRepairNamesWhatIsLost(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "large", random(1, 2<<20))
	write(t, r, "one", dir)
	hashes := false
	for _, object := range bucket.Keys() {
		size := len(bucket.Objects()[object])
		if kindOf(object) != "pack/" {
			continue
		}
		for at := range 10 {
			b := bucket.Clone(nil)
			b.Flip(object, int64(8*(size*at/10)))
			r := reopen(t, b.Bucket())
			rep := repair(t, r, nil)
			p, err := r.Point(t.Context(), "one")
			if err != nil {
				t.Fatal(err)
			}
			_, err = readAll(t.Context(), r, p)
			if (err != nil) != slices.Contains(rep.Points, "one") {
				t.Errorf("%s, %d tenths: the point reads with %v, %+v", object, at, err, rep)
			}
			hashes = hashes || err == nil && len(rep.Damage) > 0
		}
	}
	if !hashes {
		t.Error("nothing has hit the hashes of pages")
	}
}

// TestRepairTrustsNoCopy has a chunk in two packs. That one looks damaged and holds
// it, while the other one looks sound and does not: a repair that reads no more
// than it is told to must not give up the former.
func TestRepairTrustsNoCopy(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	data := random(1, 200_000)
	var first, second []string
	packs := func() (keys []string) {
		for _, object := range bucket.Keys() {
			if kindOf(object) == "pack/" && len(bucket.Objects()[object]) > len(data) {
				keys = append(keys, object)
			}
		}
		return keys
	}
	_, err = r.Write(t.Context(), repo.WriteOptions{ID: "late"}, func(ctx context.Context, w *repo.Writer) error {
		writeStream(t, reopen(t, bucket.Bucket()), "early", data)
		first = packs()
		return w.PutStream(ctx, "v", bytes.NewReader(data))
	})
	if err != nil {
		t.Fatal(err)
	}
	second = slices.DeleteFunc(packs(), func(key string) bool { return slices.Contains(first, key) })
	if len(first) != 1 || len(second) != 1 {
		t.Fatalf("packs %q and %q", first, second)
	}
	whole := bucket.Objects()[first[0]]
	bucket.Set(first[0], whole[:len(whole)-1])
	bucket.Flip(second[0], 8*1000)
	repair(t, reopen(t, bucket.Bucket()), &repo.RepairOptions{Level: repo.VerifyStructure})
	bucket.Delete(first[0]) // as a collection may now
	again := reopen(t, bucket.Bucket())
	for _, id := range []string{"early", "late"} {
		p, err := again.Point(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(t.Context(), again, p); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestRepairIndex deletes and damages index segments, of sessions that
// committed and of one that died.
func TestRepairIndex(t *testing.T) {
	p := newPatient(t, true)
	failed := errors.New("failed")
	_, err := reopen(t, p.bucket.Bucket()).Write(t.Context(), repo.WriteOptions{ID: "dead"}, func(ctx context.Context, w *repo.Writer) error {
		err := w.PutStream(ctx, "v", bytes.NewReader(random(9, 40<<20)))
		return errors.Join(err, failed)
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	for _, how := range []string{"deleted", "damaged"} {
		b := p.bucket.Clone(nil)
		var damaged []string
		for _, object := range b.Keys() {
			switch {
			case kindOf(object) != "index/":
			case how == "deleted":
				b.Delete(object)
			default:
				b.Flip(object, 8*50)
				damaged = append(damaged, object)
			}
		}
		r := reopen(t, b.Bucket())
		if rep := verify(t, r, false); len(rep.Damage) == 0 || len(rep.Unindexed) == 0 {
			t.Errorf("%s: before: %+v", how, rep)
		}
		for _, dry := range []bool{true, false} { // without a look at what points refer to
			b := b.Clone(nil)
			o := repo.VerifyOptions{Level: repo.VerifyStructure}
			rep, err := reopen(t, b.Bucket()).Verify(t.Context(), &o)
			if err != nil || !named(rep, "index/") {
				t.Errorf("%s: structure: %+v, %v", how, rep, err)
			}
			fixed := repair(t, reopen(t, b.Bucket()), &repo.RepairOptions{Level: o.Level, Remove: damaged, DryRun: dry})
			if len(fixed.Damage) > 0 {
				t.Errorf("%s: dry %t: %+v", how, dry, fixed)
			}
			if rep, err = reopen(t, b.Bucket()).Verify(t.Context(), &o); err != nil || named(rep, "index/") != dry {
				t.Errorf("%s: dry %t: structure after repair: %+v, %v", how, dry, rep, err)
			}
		}
		rep := repair(t, r, &repo.RepairOptions{Remove: damaged})
		if len(rep.Indexed) < 4 || len(rep.Condemned) > 0 || len(rep.Damage) > 0 || !slices.Equal(rep.Removed, damaged) {
			t.Errorf("%s: %+v", how, rep)
		}
		p.check(t, how, b, "one", "two")
		if rep := repair(t, r, nil); len(rep.Indexed) > 0 || len(rep.Damage) > 0 {
			t.Errorf("%s: second repair: %+v", how, rep)
		}
	}
}

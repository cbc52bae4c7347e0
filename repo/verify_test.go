// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// readsOf counts what a verification reads of packs.
func readsOf(tb testing.TB, b *repotest.Bucket, opts *repo.VerifyOptions) (rep *repo.VerifyReport, requests int, bytes int64) {
	tb.Helper()
	seen := b.Open(nil)
	r := reopen(tb, seen.Bucket())
	rep, err := r.Verify(tb.Context(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	objects := b.Objects()
	whole := map[string]bool{}
	for _, op := range seen.Calls() {
		if op.Kind == repotest.Get && kindOf(op.Key) == "pack/" {
			requests++
			whole[op.Key] = true
		}
	}
	for key := range whole {
		bytes += int64(len(objects[key]))
	}
	return rep, requests, bytes
}

// TestLevels checks what each level finds, and that it reads no more than it
// needs for that.
func TestLevels(t *testing.T) {
	p := newPatient(t, true)
	var data, meta []string // packs
	for object, content := range p.bucket.Objects() {
		switch {
		case kindOf(object) != "pack/":
		case len(content) > 100_000:
			data = append(data, object)
		default:
			meta = append(meta, object)
		}
	}
	slices.Sort(data)
	slices.Sort(meta)
	for _, c := range []struct {
		what   string
		object string
		harm   string
		level  repo.VerifyLevel // the lowest that finds it
	}{
		{"a data pack is gone", data[0], "gone", repo.VerifyStructure},
		{"a metadata pack is short", meta[0], "short", repo.VerifyStructure},
		{"a metadata pack has a wrong bit", meta[0], "a wrong bit", repo.VerifyMetadata},
		{"another one has", meta[1], "a wrong bit", repo.VerifyMetadata},
		{"a data pack has a wrong bit", data[0], "a wrong bit", repo.VerifyFull},
		{"a data pack has a wrong footer", data[0], "a wrong footer", repo.VerifyFull},
	} {
		b := p.bucket.Clone(nil)
		harms()[c.harm](b, c.object)
		found := false
		for _, level := range []repo.VerifyLevel{repo.VerifyStructure, repo.VerifyMetadata, repo.VerifyFull} {
			found = found || level == c.level
			rep, _, _ := readsOf(t, b, &repo.VerifyOptions{Level: level})
			if named(rep, c.object) != found || rep.Level != level {
				t.Errorf("%s: level %s: %+v", c.what, level, rep.Damage)
			}
		}
	}
	var all, metaSize int64
	for object, content := range p.bucket.Objects() {
		if slices.Contains(meta, object) {
			metaSize += int64(len(content))
		}
		if kindOf(object) == "pack/" {
			all += int64(len(content))
		}
	}
	if rep, n, _ := readsOf(t, p.bucket, &repo.VerifyOptions{Level: repo.VerifyStructure}); n != 0 || rep.Packs != 0 {
		t.Errorf("structure: %d reads of packs", n)
	}
	// Three points share all but a few nodes.
	if rep, n, bytes := readsOf(t, p.bucket, nil); rep.Level != repo.VerifyMetadata || n == 0 || n > 8 || bytes > metaSize || rep.Points != 3 {
		t.Errorf("metadata: %d reads of packs with %d of %d bytes: %+v", n, bytes, metaSize, rep)
	}
	if rep, _, bytes := readsOf(t, p.bucket, &repo.VerifyOptions{Level: repo.VerifyFull}); bytes != all || rep.Packs != int64(len(data)+len(meta)) {
		t.Errorf("full: %d of %d bytes: %+v", bytes, all, rep)
	}
	for _, bad := range []*repo.VerifyOptions{{Level: "deep"}, {Budget: -1}} {
		if _, err := reopen(t, p.bucket.Bucket()).Verify(t.Context(), bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestBudget finds damage that is anywhere within as many runs as it takes to
// read everything, and then each time.
func TestBudget(t *testing.T) {
	p := newPatient(t, true)
	for i := range 6 {
		put(t, p.dir, "fresh", random(uint64(50+i), 250_000))
		write(t, reopen(t, p.bucket.Bucket()), fmt.Sprint("more", i), p.dir)
	}
	const budget = 300_000
	p.each(func(what, object string, b *repotest.Bucket) {
		if !strings.HasSuffix(what, "bit") {
			return
		}
		var stored int64
		for key, content := range b.Objects() {
			if kindOf(key) == "pack/" {
				stored += int64(len(content))
			}
		}
		runs := int(stored+budget-1) / budget
		at := -1
		for i := range runs + 3 {
			rep, _, _ := readsOf(t, b, &repo.VerifyOptions{Level: repo.VerifyData, Budget: budget})
			switch hit := named(rep, object); {
			case hit && at < 0:
				at = i
			case !hit && at >= 0:
				t.Errorf("%s: found by run %d, and not by run %d", what, at, i)
			}
			if i < runs-1 && rep.Bytes > 7_000_000 {
				t.Errorf("%s: run %d read %d bytes with a budget of %d", what, i, rep.Bytes, budget)
			}
		}
		if at < 0 || at >= runs {
			t.Errorf("%s: found by run %d of %d", what, at, runs)
		}
	})
}

// TestLedgerIsAHint verifies without the right to write, and with a ledger that
// is damaged.
func TestLedgerIsAHint(t *testing.T) {
	p := newPatient(t, true)
	before := len(p.bucket.Keys())
	readOnly := p.bucket.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Kind != repotest.Get && op.Kind != repotest.List && op.Kind != repotest.Attributes {
			return repotest.Fault{Action: repotest.FailBefore, Err: fs.ErrPermission}
		}
		return repotest.Fault{}
	}})
	r, err := repo.Open(t.Context(), readOnly.Bucket(), key("secret"), &repo.Options{Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, r, true); len(rep.Damage) > 0 || len(p.bucket.Keys()) != before {
		t.Errorf("%+v", rep)
	}
	for range 5 {
		verify(t, reopen(t, p.bucket.Bucket()), true)
	}
	var ledger []string
	for _, object := range p.bucket.Keys() {
		if kindOf(object) == "ledger/" {
			ledger = append(ledger, object)
		}
	}
	if len(ledger) != 1 || len(p.bucket.Keys()) != before+1 {
		t.Fatalf("the ledger is %q", ledger)
	}
	p.bucket.Flip(ledger[0], 400)
	if rep := verify(t, reopen(t, p.bucket.Bucket()), true); len(rep.Damage) != 1 || rep.Damage[0].Object != ledger[0] || len(rep.Damage[0].Affects) > 0 {
		t.Errorf("damaged: %+v", rep)
	}
}

// TestLies lets the store list each object in turn, and not have it.
func TestLies(t *testing.T) {
	w := smallWorld(t)
	keys, _ := w.objects()
	for _, object := range keys {
		if kindOf(object) == "key/" {
			continue // it does not open
		}
		rep := verify(t, reopen(t, w.bucket.Clone(&repotest.Options{Fault: lie(object)}).Bucket()), true)
		if !named(rep, object) {
			t.Errorf("%s: %+v", object, rep.Damage)
		}
	}
}

// TestVerifyBesideOthers verifies while others write, forget and collect. None
// of that is damage.
func TestVerifyBesideOthers(t *testing.T) {
	bucket := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), bucket.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var points atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for i := range 12 {
				r, err := repo.Open(t.Context(), bucket.Bucket(), key("secret"), nil)
				if err != nil {
					return err
				}
				id := fmt.Sprint(i)
				if _, err := r.Write(t.Context(), repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
					return w.PutStream(ctx, "v", strings.NewReader(string(random(uint64(i), 200_000))))
				}); err != nil {
					return err
				}
				points.Add(1)
				if i > 1 {
					if err := r.Forget(t.Context(), fmt.Sprint(i-2)); err != nil {
						return err
					}
				}
				if _, err := r.Collect(t.Context(), &repo.CollectOptions{MaxDelete: 1}); err != nil {
					return err
				}
			}
			return nil
		}()
		cancel()
	}()
	runs := 0
	for ; ctx.Err() == nil; runs++ {
		rep, err := r.Verify(t.Context(), &repo.VerifyOptions{Level: []repo.VerifyLevel{repo.VerifyMetadata, repo.VerifyFull}[runs%2]})
		if err != nil || len(rep.Damage) > 0 {
			t.Errorf("run %d: %+v, %v", runs, rep, err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d verifications beside %d sessions", runs, points.Load())
}

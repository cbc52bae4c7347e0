// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// patient is a repository with the source that it was made from.
type patient struct {
	bucket *repotest.Bucket
	dir    string
	want   map[string]string // of the points "one" and "two", which are equal
}

// newPatient has files of all sizes. With a history, there is a point before
// some of them were written.
func newPatient(tb testing.TB, history bool) *patient {
	tb.Helper()
	p := &patient{bucket: repotest.NewBucket(nil), dir: tb.TempDir()}
	r, err := repo.Init(tb.Context(), p.bucket.Bucket(), key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	put(tb, p.dir, "large", random(1, 3<<20))
	for i := range 40 {
		put(tb, p.dir, fmt.Sprintf("small/%d", i), random(uint64(100+i), 10_000+i))
	}
	if history {
		write(tb, r, "zero", p.dir)
		put(tb, p.dir, "fresh", random(2, 300_000))
		put(tb, p.dir, "small/7x", random(3, 5_000))
	}
	write(tb, r, "one", p.dir)
	p.want = contents(tb, r, write(tb, r, "two", p.dir))
	return p
}

func repair(tb testing.TB, r *repo.Repository, opts *repo.RepairOptions) *repo.RepairReport {
	tb.Helper()
	rep, err := r.Repair(tb.Context(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	return rep
}

func collectAll(tb testing.TB, r *repo.Repository) {
	tb.Helper()
	if _, err := r.Collect(tb.Context(), &repo.CollectOptions{StaleAfter: -1, MaxDelete: 1}); err != nil {
		tb.Errorf("collect: %v", err)
	}
}

// check reads the points and compares them with the source.
func (p *patient) check(tb testing.TB, what string, b *repotest.Bucket, ids ...string) {
	tb.Helper()
	r := reopen(tb, b.Bucket())
	if rep := verify(tb, r, true); len(rep.Damage) > 0 || len(rep.Unindexed) > 0 {
		tb.Errorf("%s: %+v", what, rep)
	}
	for _, id := range ids {
		pt, err := r.Point(tb.Context(), id)
		if err != nil {
			tb.Fatal(what, err)
		}
		got, err := readAll(tb.Context(), r, pt)
		if err != nil || !maps.Equal(p.want, got) {
			tb.Errorf("%s: point %s: %d of %d files, %v", what, id, len(got), len(p.want), err)
		}
	}
}

// harms are what can happen to an object.
func harms() map[string]func(b *repotest.Bucket, object string) {
	return map[string]func(b *repotest.Bucket, object string){
		"gone":           func(b *repotest.Bucket, object string) { b.Delete(object) },
		"a wrong bit":    func(b *repotest.Bucket, object string) { b.Flip(object, 8*600) },
		"a wrong footer": func(b *repotest.Bucket, object string) { b.Flip(object, int64(8*(len(b.Objects()[object])-20))) },
		"short": func(b *repotest.Bucket, object string) {
			data := b.Objects()[object]
			b.Set(object, data[:len(data)/2])
		},
		"empty": func(b *repotest.Bucket, object string) { b.Set(object, nil) },
	}
}

// each calls fn with a repository for each pack and each harm to it.
func (p *patient) each(fn func(what, object string, b *repotest.Bucket)) (packs int) {
	for _, object := range p.bucket.Keys() {
		if kindOf(object) != "pack/" {
			continue
		}
		packs++
		for name, harm := range harms() {
			b := p.bucket.Clone(nil)
			harm(b, object)
			fn(fmt.Sprintf("%s is %s", object, name), object, b)
		}
	}
	return packs
}

// losesContent reports whether more than hashes of pages is lost.
func losesContent(rep *repo.RepairReport) bool {
	return slices.ContainsFunc(rep.Damage, func(d repo.Damage) bool {
		return slices.ContainsFunc(d.Affects, func(s string) bool { return !strings.HasSuffix(s, "(hashes of its pages)") })
	})
}

// TestHeal damages each pack in turn, repairs, backs up the same source again
// and collects. Everything can be restored again then, older points as well.
func TestHeal(t *testing.T) {
	p := newPatient(t, false)
	packs := p.each(func(what, object string, b *repotest.Bucket) {
		r := reopen(t, b.Bucket())
		rep := repair(t, r, nil)
		if !slices.Equal(rep.Condemned, []string{object}) || losesContent(rep) != (len(rep.Points) > 0) {
			t.Errorf("%s: %+v", what, rep)
		}
		if strings.HasSuffix(what, "bit") && rep.Rescued == 0 {
			t.Errorf("%s: nothing was rescued: %+v", what, rep)
		}
		again := repair(t, r, nil)
		if len(again.Condemned)+len(again.Indexed) > 0 || again.Rescued > 0 || !slices.Equal(again.Points, rep.Points) {
			t.Errorf("%s: second repair: %+v, first %+v", what, again, rep)
		}
		write(t, reopen(t, b.Bucket()), "again", p.dir)
		p.check(t, what+", stored again", b, "one", "two", "again")
		collectAll(t, reopen(t, b.Bucket()))
		collectAll(t, reopen(t, b.Bucket()))
		p.check(t, what+", collected", b, "one", "two", "again")
		if b.Objects()[object] != nil {
			t.Errorf("%s: it is still there", what)
		}
	})
	if packs < 2 {
		t.Errorf("%d packs", packs)
	}
}

// TestHealHistory does so where points have a history: what changed since, the
// source does not bring back, and not the tree of a point that was made from
// its parent. Repair names these points, the others are whole, and when they
// are forgotten nothing is left of the damage.
func TestHealHistory(t *testing.T) {
	p := newPatient(t, true)
	lost := 0
	p.each(func(what, object string, b *repotest.Bucket) {
		repair(t, reopen(t, b.Bucket()), nil)
		write(t, reopen(t, b.Bucket()), "again", p.dir)
		rep := repair(t, reopen(t, b.Bucket()), nil)
		if slices.Contains(rep.Points, "again") || len(rep.Condemned) > 0 {
			t.Errorf("%s: %+v", what, rep)
		}
		lost += len(rep.Points)
		if err := reopen(t, b.Bucket()).Forget(t.Context(), rep.Points...); err != nil {
			t.Error(err)
		}
		collectAll(t, reopen(t, b.Bucket()))
		collectAll(t, reopen(t, b.Bucket()))
		whole := slices.DeleteFunc([]string{"one", "two", "again"}, func(id string) bool { return slices.Contains(rep.Points, id) })
		p.check(t, what, b, whole...)
		if b.Objects()[object] != nil {
			t.Errorf("%s: it is still there", what)
		}
	})
	t.Logf("%d points were lost", lost)
}

// TestRepairFromReplica takes everything that is lost from a replica, the nodes
// of trees and what they refer to.
func TestRepairFromReplica(t *testing.T) {
	p := newPatient(t, true)
	replica := reopen(t, p.bucket.Clone(nil).Bucket())
	all := p.bucket.Clone(nil)
	for _, object := range p.bucket.Keys() {
		if kindOf(object) != "pack/" {
			continue
		}
		all.Delete(object)
		b := p.bucket.Clone(nil)
		b.Delete(object)
		rep := repair(t, reopen(t, b.Bucket()), &repo.RepairOptions{From: replica})
		if rep.Fetched == 0 || len(rep.Damage) > 0 || len(rep.Points) > 0 {
			t.Errorf("without %s: %+v", object, rep)
		}
		p.check(t, "without "+object, b, "one", "two")
	}
	dry := all.Objects()
	plan := repair(t, reopen(t, all.Bucket()), &repo.RepairOptions{From: replica, DryRun: true})
	if diff := cmp.Diff(dry, all.Objects()); diff != "" {
		t.Errorf("a dry run changed something:\n%s", diff)
	}
	rep := repair(t, reopen(t, all.Bucket()), &repo.RepairOptions{From: replica, Level: repo.VerifyStructure})
	if diff := cmp.Diff(rep, plan); diff != "" || rep.Fetched == 0 {
		t.Errorf("(-done +planned):\n%s", diff)
	}
	p.check(t, "without any pack", all, "one", "two")

	other, _ := newRepo(t)
	if _, err := reopen(t, all.Bucket()).Repair(t.Context(), &repo.RepairOptions{From: other}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("from another repository: %v", err)
	}
}

// lie makes a store list objects that it does not have.
func lie(objects ...string) func(repotest.Op) repotest.Fault {
	return func(op repotest.Op) repotest.Fault {
		if op.Kind == repotest.Get && slices.Contains(objects, op.Key) {
			return repotest.Fault{Action: repotest.FailBefore, Err: fs.ErrNotExist, Code: gcerrors.NotFound}
		}
		return repotest.Fault{}
	}
}

// TestRepairLies repairs a repository whose store lists a pack that it does not
// have.
func TestRepairLies(t *testing.T) {
	p := newPatient(t, false)
	for _, object := range p.bucket.Keys() {
		if kindOf(object) != "pack/" {
			continue
		}
		b := p.bucket.Clone(&repotest.Options{Fault: lie(object)})
		r := reopen(t, b.Bucket())
		if rep := repair(t, r, nil); !slices.Equal(rep.Condemned, []string{object}) {
			t.Errorf("%s: %+v", object, rep)
		}
		write(t, reopen(t, b.Bucket()), "again", p.dir)
		p.check(t, object, b, "one", "two", "again")
	}
}

// TestRemoveUseless has Repair remove objects that cannot be read.
func TestRemoveUseless(t *testing.T) {
	p := newPatient(t, true)
	r := reopen(t, p.bucket.Bucket())
	if err := errors.Join(r.Hold(t.Context(), "one", "somebody"), r.Forget(t.Context(), "zero")); err != nil {
		t.Fatal(err)
	}
	verify(t, r, true) // for the ledger
	id := strings.Repeat("ab", 16)
	objects := map[string]bool{ // and whether it takes Offline
		"ledger/wait-" + id: false, "resume/" + id + "-00000000": false, "index/03-" + id + "-00000000": false,
		"session/" + id: true, "forget/" + id + "-00000000": true, "hold/" + id + "-00000000-" + id: true,
		"closed/00-" + id: true, "condemn/01-" + id: true,
	}
	for _, object := range p.bucket.Keys() {
		switch kindOf(object) {
		case "ledger/":
			objects[object] = false
		case "forget/", "hold/", "closed/":
			objects[object] = true
		}
	}
	for _, object := range slices.Sorted(maps.Keys(objects)) {
		b := p.bucket.Clone(nil)
		b.Set(object, []byte("nonsense"))
		r := reopen(t, b.Bucket())
		rep := repair(t, r, nil)
		if len(rep.Useless) != 1 || rep.Useless[0].Object != object || len(rep.Removed) > 0 || b.Objects()[object] == nil || !named(&repo.VerifyReport{Damage: rep.Damage}, object) {
			t.Errorf("%s: %+v", object, rep)
		}
		opts := &repo.RepairOptions{Remove: []string{object}, Level: repo.VerifyStructure}
		if objects[object] {
			rep, err := r.Repair(t.Context(), opts)
			if !errors.Is(err, fs.ErrPermission) || len(rep.Removed) > 0 || b.Objects()[object] == nil {
				t.Errorf("%s: without Offline: %+v, %v", object, rep, err)
			}
			opts.Offline = true
		}
		if rep := repair(t, r, opts); !slices.Equal(rep.Removed, []string{object}) || len(rep.Damage) > 0 || b.Objects()[object] != nil {
			t.Errorf("%s: %+v", object, rep)
		}
		repair(t, r, opts) // once more
		p.check(t, object, b, "one", "two")
		if _, err := reopen(t, b.Bucket()).Point(t.Context(), "zero"); !errors.Is(err, fs.ErrNotExist) && kindOf(object) != "forget/" {
			t.Errorf("%s: the forgotten point is back: %v", object, err)
		}
		collectAll(t, reopen(t, b.Bucket()))
		p.check(t, object+", collected", b, "one", "two")
	}
	for _, object := range p.bucket.Keys() {
		b := p.bucket.Clone(nil)
		rep, err := reopen(t, b.Bucket()).Repair(t.Context(), &repo.RepairOptions{Remove: []string{object}, Offline: true, Level: repo.VerifyStructure})
		if !errors.Is(err, fs.ErrInvalid) || len(rep.Removed) > 0 || b.Objects()[object] == nil {
			t.Errorf("%s is in order: %+v, %v", object, rep, err)
		}
	}
}

// TestRepairSweep has a process that repairs die at every call to the store.
// Another one completes the work.
func TestRepairSweep(t *testing.T) {
	p, deleted := newPatient(t, true), false
	for _, object := range p.bucket.Keys() {
		switch kind := kindOf(object); {
		case kind == "pack/":
			p.bucket.Flip(object, 8*600)
		case kind == "index/" && !deleted:
			p.bucket.Delete(object)
			deleted = true
		}
	}
	replica := newPatientReplica(t, p)
	for i := 0; ; i++ {
		b := p.bucket.Clone(nil)
		dying := b.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: repotest.FailAfter, Kill: true})})
		r, err := repo.Open(t.Context(), dying.Bucket(), key("secret"), &repo.Options{Attempts: 1})
		if err == nil {
			_, err = r.Repair(t.Context(), nil)
		}
		if !dying.Killed() {
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
			t.Logf("%d calls", i)
			break
		}
		rep := repair(t, reopen(t, b.Bucket()), &repo.RepairOptions{From: replica})
		if len(rep.Damage) > 0 {
			t.Errorf("call %d: %+v", i, rep)
		}
		p.check(t, fmt.Sprint("killed at call ", i), b, "one", "two")
	}
}

// newPatientReplica returns a replica from before the damage, whose flips it
// takes back.
func newPatientReplica(tb testing.TB, p *patient) *repo.Repository {
	tb.Helper()
	b := p.bucket.Clone(nil)
	for _, object := range b.Keys() {
		if kindOf(object) == "pack/" {
			b.Flip(object, 8*600)
		}
	}
	r := reopen(tb, b.Bucket())
	repair(tb, r, &repo.RepairOptions{Level: repo.VerifyStructure})
	return r
}

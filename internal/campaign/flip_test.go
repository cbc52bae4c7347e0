// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// museum is a repository with an object of every kind, and its earlier states.
type museum struct {
	p      *pantry
	bucket *repotest.Bucket
	points map[string]string // recipes by id
	states []map[string][]byte
	head   string
	tried  int
}

// newMuseum makes a repository in which most things have happened.
func newMuseum(t *testing.T) *museum {
	t.Helper()
	p, err := newPantry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &museum{p: p, bucket: repotest.NewBucket(nil), points: map[string]string{}}
	ctx, b := t.Context(), m.bucket.Bucket()
	r, err := repo.Init(ctx, b, key(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*event{
		{verb: doWrite, id: "a", recipe: "1:0,1"},
		{verb: doWrite, id: "b", recipe: "2:1,2,6"},
		{verb: doHold, id: "a"},
		{verb: doForget, id: "b"},
		{verb: doCollect, recipe: thorough},
		{verb: doWrite, id: "c", recipe: "3:2,7"},
		{verb: doForget, id: "c"},
		{verb: doWrite, id: "c", recipe: "0:7"},
		{verb: doWrite, id: "d", recipe: "-1:3"},
	} {
		m.states = append(m.states, m.bucket.Objects())
		if err := p.change(ctx, r, e); err != nil {
			t.Fatalf("%v: %v", e, err)
		}
	}
	if m.head, err = r.Head(ctx); err != nil {
		t.Fatal(err)
	}
	m.leave(t)
	for i, step := range []func() error{
		func() error { return r.RotateKeys(ctx, key()) },
		func() error { return p.change(ctx, r, &event{verb: doWrite, id: "e", recipe: "0:4"}) },
		func() error { _, err := r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyData}); return err },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if r, err = repo.Open(ctx, b, key(), nil); err != nil {
		t.Fatal(err)
	}
	points, err := p.sound(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	for id, pt := range points {
		m.points[id] = pt.Labels[recipeLabel]
	}
	return m
}

// leave lets processes die in the middle of a session and of forgetting.
func (m *museum) leave(t *testing.T) {
	t.Helper()
	for prefix, e := range map[string]*event{
		"point/":  {verb: doWrite, id: "died", recipe: "2:5"},
		"closed/": {verb: doForget, id: "d"},
	} {
		dying := m.bucket.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
			return repotest.Fault{Kill: op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, prefix)}
		}})
		r, err := repo.Open(t.Context(), dying.Bucket(), key(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.p.change(t.Context(), r, e); !errors.Is(err, repotest.ErrKilled) {
			t.Fatalf("%v: %v", e, err)
		}
	}
}

func (m *museum) objects() ([]string, map[string][]byte) {
	all := m.bucket.Objects()
	return slices.Sorted(maps.Keys(all)), all
}

// hint reports whether the object only saves work: its loss is no damage.
func hint(object string) bool {
	kind, _, _ := strings.Cut(object, "/")
	return kind == "ledger" || kind == "resume"
}

// look opens the damaged repository and reads and verifies everything. What can
// be read must be what was written, and all errors must say that it is damage.
// It returns the report, nil if the repository does not open, and whether all
// points were there as they were.
func (m *museum) look(t *testing.T, b *repotest.Bucket, what string) (rep *repo.VerifyReport, whole bool) {
	t.Helper()
	m.tried++
	ctx := t.Context()
	r, err := repo.Open(ctx, b.Bucket(), key(), &repo.Options{Attempts: 1})
	if err != nil {
		m.class(t, what+": open", err, repo.ErrKey, repo.ErrFormat)
		return nil, false
	}
	points, err := r.Points(ctx)
	m.class(t, what+": list", err)
	found := 0
	for _, pt := range points {
		err := m.p.check(ctx, r, pt)
		m.class(t, what+": read "+pt.ID, err)
		if err == nil && m.points[pt.ID] == pt.Labels[recipeLabel] {
			found++
		}
	}
	rep, err = r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
	m.class(t, what+": verify", err)
	if rep == nil {
		rep = &repo.VerifyReport{}
	}
	return rep, found == len(m.points)
}

// class checks that an error is one of damage.
func (m *museum) class(t *testing.T, what string, err error, others ...error) {
	t.Helper()
	for _, right := range append(others, nil, repo.ErrCorrupt, fs.ErrNotExist) {
		if errors.Is(err, right) && !errors.Is(err, errWrong) {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}

// reported checks that a damaged object is named, unless nobody needs it.
func (m *museum) reported(t *testing.T, rep *repo.VerifyReport, whole bool, object, what string) {
	t.Helper()
	named := rep == nil || slices.ContainsFunc(rep.Damage, func(d repo.Damage) bool { return d.Object == object }) ||
		slices.Contains(rep.Unknown, object)
	if !named && !(hint(object) && whole) {
		t.Errorf("%s: %s is not reported, but %+v", what, object, rep.Damage)
	}
}

// sparse reports whether a case belongs to the short form as well.
func sparse(rng *rand.Rand, one int) bool { return *long || rng.IntN(one) == 0 }

// TestFlip changes every byte of every object of a repository with objects of
// all kinds, in three ways. The short form takes a sample:
//
//	go test ./internal/campaign -run 'TestFlip|TestCut|TestExchange|TestRollback' -timeout 0 -v -args -long
func TestFlip(t *testing.T) {
	m := newMuseum(t)
	rng := rand.New(rand.NewPCG(firstSeed(t), 0))
	keys, objects := m.objects()
	kinds, total := map[string]int{}, 0
	for _, object := range keys {
		kind, _, _ := strings.Cut(object, "/")
		kinds[kind]++
		total += len(objects[object])
		for i, old := range objects[object] {
			for name, b := range map[string]byte{"^0x01": old ^ 1, "^0x80": old ^ 0x80, "=0": 0} {
				if b == old || !sparse(rng, 120) {
					continue
				}
				data := bytes.Clone(objects[object])
				data[i] = b
				m.bucket.Set(object, data)
				what := fmt.Sprintf("byte %d of %s %s", i, object, name)
				rep, whole := m.look(t, m.bucket, what)
				m.reported(t, rep, whole, object, what)
			}
		}
		m.bucket.Set(object, objects[object])
	}
	if len(kinds) < 11 || total > 64<<10 {
		t.Errorf("%d kinds of objects, %d bytes: %v", len(kinds), total, kinds)
	}
	t.Logf("%d changes of %d bytes in %d objects: %v", m.tried, total, len(keys), kinds)
}

// TestCut truncates every object to every length, and makes it longer.
func TestCut(t *testing.T) {
	m := newMuseum(t)
	rng := rand.New(rand.NewPCG(firstSeed(t), 0))
	keys, objects := m.objects()
	for _, object := range keys {
		old := objects[object]
		try := func(data []byte) {
			m.bucket.Set(object, data)
			what := fmt.Sprintf("%s with %d of %d bytes", object, len(data), len(old))
			rep, whole := m.look(t, m.bucket, what)
			m.reported(t, rep, whole, object, what)
		}
		for n := range old {
			if sparse(rng, 100) {
				try(old[:n])
			}
		}
		for n := 1; n <= 64; n++ {
			if sparse(rng, 64) {
				try(append(bytes.Clone(old), noise(uint64(n), n)...))
			}
		}
		m.bucket.Set(object, old)
	}
	t.Logf("%d cases", m.tried)
}

// TestExchange removes each object, puts each in the place of each other, and
// swaps each two.
func TestExchange(t *testing.T) {
	m := newMuseum(t)
	rng := rand.New(rand.NewPCG(firstSeed(t), 0))
	keys, objects := m.objects()
	for _, a := range keys {
		b := m.bucket.Clone(nil)
		b.Delete(a)
		rep, whole := m.look(t, b, "without "+a)
		// A point that is gone looks as if it had never been: see TestRollback.
		if kind, _, _ := strings.Cut(a, "/"); rep != nil && !whole && len(rep.Damage) == 0 && kind != "point" {
			t.Errorf("without %s: points are lost, and nothing is reported", a)
		}
		for _, o := range keys {
			if a == o || bytes.Equal(objects[a], objects[o]) || !sparse(rng, 12) {
				continue
			}
			for _, both := range []bool{false, true} {
				b := m.bucket.Clone(nil)
				b.Set(a, objects[o])
				if both {
					b.Set(o, objects[a])
				}
				what := fmt.Sprintf("%s holds %s, both ways: %t", a, o, both)
				rep, whole := m.look(t, b, what)
				m.reported(t, rep, whole, a, what)
				if both {
					m.reported(t, rep, whole, o, what)
				}
			}
		}
	}
	t.Logf("%d cases of %d objects", m.tried, len(keys))
}

// TestRollback puts the whole store back to each earlier state, and each kind
// of object alone: whoever remembers the head notices the former.
func TestRollback(t *testing.T) {
	m := newMuseum(t)
	_, now := m.objects()
	for i, state := range m.states {
		b := repotest.NewBucket(nil)
		for object, data := range state {
			b.Set(object, data)
		}
		_, err := m.open(t.Context(), b)
		if !errors.Is(err, repo.ErrRollback) {
			t.Errorf("state %d: %v", i, err)
		}
		for kind := range kindsOf(now) {
			b := m.bucket.Clone(nil)
			for object := range now {
				if strings.HasPrefix(object, kind) && state[object] == nil {
					b.Delete(object)
				}
			}
			for object, data := range state {
				if strings.HasPrefix(object, kind) {
					b.Set(object, data)
				}
			}
			m.look(t, b, fmt.Sprintf("%s as in state %d", kind, i))
		}
	}
	if _, err := m.open(t.Context(), m.bucket); err != nil {
		t.Errorf("the present state: %v", err)
	}
	t.Logf("%d states, %d cases of one kind of object", len(m.states), m.tried)
}

func (m *museum) open(ctx context.Context, b *repotest.Bucket) (*repo.Repository, error) {
	return repo.Open(ctx, b.Bucket(), key(), &repo.Options{Head: m.head})
}

// kindsOf returns the first elements of the keys, with their slash.
func kindsOf(objects map[string][]byte) map[string]bool {
	kinds := map[string]bool{}
	for object := range objects {
		kinds[strings.SplitAfter(object, "/")[0]] = true
	}
	return kinds
}

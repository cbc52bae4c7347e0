// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// TestFenced lets a collector give up a session while it runs. It must not
// commit, and must say so; the next session under the same ID does commit.
func TestFenced(t *testing.T) {
	for _, folded := range []bool{false, true} {
		r, _ := initTest(t)
		session := func(fn func(context.Context, *Writer) error) (*Point, error) {
			return r.Write(t.Context(), WriteOptions{ID: "p", Name: "n"}, func(ctx context.Context, w *Writer) error {
				return errors.Join(w.PutStream(ctx, "v", bytes.NewReader([]byte("content"))), fn(ctx, w))
			})
		}
		_, err := session(func(ctx context.Context, w *Writer) error {
			fenced, err := r.putFence(ctx, w.session.at, "test")
			if err != nil || !fenced {
				t.Fatal(fenced, err)
			}
			if folded { // and so long ago that the fence itself is gone
				err = r.putSet(ctx, ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(w.session.at).Encode())
				return errors.Join(err, r.store.Delete(ctx, w.session.at.Key()))
			}
			return nil
		})
		if !errors.Is(err, ErrFenced) || errors.Is(err, ErrAmbiguous) {
			t.Errorf("folded %t: %v", folded, err)
		}
		if points, err := r.Points(t.Context()); err != nil || len(points) > 0 {
			t.Errorf("folded %t: points %v, %v", folded, points, err)
		}
		p, err := session(func(context.Context, *Writer) error { return nil })
		if err != nil || p.at.N != 1 {
			t.Errorf("folded %t: next attempt: %+v, %v", folded, p, err)
		}
		if fenced, err := r.putFence(t.Context(), p.at, "late"); fenced || err != nil {
			t.Errorf("folded %t: a committed point was fenced: %v", folded, err)
		}
	}
}

// TestForgottenParent forgets the parent at the last moment before the session
// is on record: its chunks may go, and the session must not rely on them.
func TestForgottenParent(t *testing.T) {
	r, _ := initTest(t)
	write := func(id string, fn func(w *Writer)) {
		_, err := r.Write(t.Context(), WriteOptions{ID: id, Name: "n"}, func(ctx context.Context, w *Writer) error {
			fn(w)
			return w.PutStream(ctx, "v", bytes.NewReader([]byte("content")))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	write("one", func(*Writer) {})
	write("two", func(w *Writer) {
		if w.parent == nil || w.parent.ID != "one" || len(w.session.parents) != 1 {
			t.Errorf("parent %+v, pinned %v", w.parent, w.session.parents)
		}
	})
	two, err := r.Point(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.confirm(t.Context(), two); p == nil || err != nil {
		t.Errorf("live parent: %v, %v", p, err)
	}
	if err := r.Forget(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if p, err := r.confirm(t.Context(), two); p != nil || err != nil {
		t.Errorf("forgotten parent: %v, %v", p, err)
	}
	write("three", func(w *Writer) {
		if w.parent == nil || w.parent.ID != "one" {
			t.Errorf("parent %+v", w.parent)
		}
	})
}

// TestCondemnedIsNotUsed stores again what only condemned packs hold.
func TestCondemnedIsNotUsed(t *testing.T) {
	r, _ := initTest(t)
	write := func(id string) *Point {
		p, err := r.Write(t.Context(), WriteOptions{ID: id, Name: id}, func(ctx context.Context, w *Writer) error {
			return w.PutStream(ctx, "v", bytes.NewReader(bytes.Repeat([]byte("content"), 100)))
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := write("one")
	if p := write("two"); p.Stats.New >= one.Stats.New/2 {
		t.Errorf("stored again: %+v", p.Stats)
	}
	packs := []ondisk.PackRef{{Session: one.session}, {Session: one.session, Seq: 1}}
	if err := r.putSet(t.Context(), ondisk.CondemnPrefix, 0, ondisk.NewPackSet(ondisk.Garbage, packs...).Encode()); err != nil {
		t.Fatal(err)
	}
	if p := write("three"); p.Stats.New < 700 {
		t.Errorf("relied on a condemned pack: %+v, first %+v", p.Stats, one.Stats)
	}
}

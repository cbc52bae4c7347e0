// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// scenario is a repository with one point, and a session for a second one.
type scenario struct {
	base     *repotest.Bucket
	old, new map[string]string
	dir      string
}

func newScenario(tb testing.TB) *scenario {
	tb.Helper()
	s := &scenario{base: repotest.NewBucket(nil), dir: tb.TempDir()}
	put(tb, s.dir, "same", random(1, 3000))
	put(tb, s.dir, "large", random(2, 150_000))
	put(tb, s.dir, "changing", []byte("old"))
	r, err := repo.Init(tb.Context(), s.base.Bucket(), key("secret"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	s.old = contents(tb, r, write(tb, r, "old", s.dir))
	put(tb, s.dir, "changing", []byte("new"))
	put(tb, s.dir, "d/more", random(3, 1000))
	s.new = onDisk(tb, s.dir)
	return s
}

// session is what the faults hit: a process that opens the repository, writes
// a point and ends.
func (s *scenario) session(ctx context.Context, b *repotest.Bucket, attempts int) (*repo.Point, error) {
	r, err := repo.Open(ctx, b.Bucket(), key("secret"), &repo.Options{Attempts: attempts})
	if err != nil {
		return nil, err
	}
	return r.Write(ctx, repo.WriteOptions{ID: "new", Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.Put(ctx, "v", s.dir)
	})
}

// check looks at the world as a new process sees it, and then writes the point
// again. It returns whether the point was there before that.
func (s *scenario) check(t *testing.T, b *repotest.Bucket, what string, committed bool) bool {
	t.Helper()
	r := reopen(t, b.Bucket())
	p, err := r.Point(t.Context(), "old")
	if err != nil {
		t.Fatalf("%s: the earlier point: %v", what, err)
	}
	if diff := cmp.Diff(s.old, contents(t, r, p)); diff != "" {
		t.Errorf("%s: the earlier point (-want +got):\n%s", what, diff)
	}
	p, err = r.Point(t.Context(), "new")
	there := err == nil
	switch {
	case there:
		if diff := cmp.Diff(s.new, contents(t, r, p)); diff != "" {
			t.Errorf("%s: a half point is visible (-want +got):\n%s", what, diff)
		}
	case !errors.Is(err, fs.ErrNotExist):
		t.Errorf("%s: the point: %v", what, err)
	case committed:
		t.Errorf("%s: an acknowledged point is gone", what)
	}
	for _, data := range []bool{false, true} {
		if rep := verify(t, r, data); len(rep.Damage)+len(rep.Unknown) > 0 {
			t.Errorf("%s: verify: %+v", what, rep)
		}
	}
	if p, err = s.session(t.Context(), b, 0); err != nil {
		t.Fatalf("%s: once more: %v", what, err)
	}
	if diff := cmp.Diff(s.new, contents(t, reopen(t, b.Bucket()), p)); diff != "" {
		t.Errorf("%s: once more (-want +got):\n%s", what, diff)
	}
	return there
}

// TestSweep fails every store call of a session, in every way.
func TestSweep(t *testing.T) {
	s := newScenario(t)
	counts := map[string]int{}
	for _, action := range []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Hang, repotest.HangAfter, repotest.Late} {
		for _, kill := range []bool{false, true} {
			for _, attempts := range []int{1, 3} {
				if action == repotest.None && !kill || kill && attempts > 1 {
					continue
				}
				for i, more := 0, true; more; i++ {
					what := fmt.Sprintf("%v at call %d, kill: %t, %d attempts", action, i, kill, attempts)
					synctest.Test(t, func(t *testing.T) {
						b := s.base.Clone(nil)
						process := b.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Kill: kill})})
						p, err := s.session(t.Context(), process, attempts)
						if more = len(process.Calls()) > i; !more {
							return
						}
						counts["runs"]++
						switch {
						case err == nil:
							counts["went on"]++
							if p == nil || kill && len(process.Calls()) > i+1 {
								t.Errorf("%s: no error", what)
							}
						case errors.Is(err, repo.ErrAmbiguous):
							counts["ambiguous"]++
						default:
							counts["failed"]++
						}
						if err != nil && !kill && attempts > 1 {
							t.Errorf("%s: one fault was too much: %v", what, err)
						}
						// Whoever is told of a failure must not find the point
						// later, unless told that this may be.
						late := b.Clone(nil)
						if s.check(t, b, what, err == nil) && err != nil && !kill && !errors.Is(err, repo.ErrAmbiguous) {
							t.Errorf("%s: the point is there in spite of %v", what, err)
						}
						late.Settle()
						if s.check(t, late, what+", settled", err == nil) && err != nil && !kill && !errors.Is(err, repo.ErrAmbiguous) {
							t.Errorf("%s: the point is there in the end, in spite of %v", what, err)
						}
						b.Settle() // a late write meets the point that was written again
						s.check(t, b, what+", settled after all", true)
					})
				}
			}
		}
	}
	t.Log(counts)
	if counts["runs"] < 100 || counts["ambiguous"] == 0 || counts["failed"] == 0 || counts["went on"] == 0 {
		t.Errorf("the sweep did not reach what it should: %v", counts)
	}
}

// TestSweepInit fails every store call of Init: a rerun, if need be, makes a
// repository.
func TestSweepInit(t *testing.T) {
	runs := 0
	for _, action := range []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Hang, repotest.HangAfter, repotest.Late} {
		for _, kill := range []bool{false, true} {
			for i, more := 0, action != repotest.None || kill; more; i++ {
				synctest.Test(t, func(t *testing.T) {
					b := repotest.NewBucket(nil)
					process := b.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Kill: kill})})
					_, err := repo.Init(t.Context(), process.Bucket(), key("secret"), nil)
					if more = len(process.Calls()) > i; !more {
						return
					}
					runs++
					what := fmt.Sprintf("%v at call %d, kill: %t", action, i, kill)
					if err != nil && !kill {
						t.Errorf("%s: one fault was too much: %v", what, err)
					}
					b.Settle()
					if err != nil {
						if _, err = repo.Init(t.Context(), b.Bucket(), key("secret"), nil); err != nil && !errors.Is(err, fs.ErrExist) {
							t.Errorf("%s: once more: %v", what, err)
						}
					}
					r := reopen(t, b.Bucket())
					if !r.AtomicCreate() {
						t.Errorf("%s: the store is said to be bad", what)
					}
				})
			}
		}
	}
	t.Logf("%d runs", runs)
}

// TestSweepReads fails every store call of a restore and of a verification.
func TestSweepReads(t *testing.T) {
	s := newScenario(t)
	runs := 0
	for _, action := range []repotest.Action{repotest.FailBefore, repotest.FailAfter, repotest.Hang, repotest.Corrupt, repotest.Truncate} {
		for i, more := 0, true; more; i++ {
			synctest.Test(t, func(t *testing.T) {
				process := s.base.Clone(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Offset: 10})})
				r, err := repo.Open(t.Context(), process.Bucket(), key("secret"), nil)
				var p *repo.Point
				var got map[string]string
				if err == nil {
					p, err = r.Point(t.Context(), "old")
				}
				if err == nil {
					got, err = readAll(t.Context(), r, p)
				}
				var rep *repo.VerifyReport
				if err == nil {
					rep, err = r.Verify(t.Context(), &repo.VerifyOptions{Level: repo.VerifyFull})
				}
				if more = len(process.Calls()) > i; !more {
					return
				}
				runs++
				what := fmt.Sprintf("%v at call %d, %v", action, i, process.Calls()[i])
				for path, desc := range got {
					if s.old[path] != desc {
						t.Errorf("%s: %s is %s", what, path, desc)
					}
				}
				lies := action == repotest.Corrupt || action == repotest.Truncate
				if err != nil && (!lies || !errors.Is(err, repo.ErrCorrupt)) {
					t.Errorf("%s: %v", what, err)
				}
				if err == nil && !lies && (len(got) != len(s.old) || len(rep.Damage) > 0) {
					t.Errorf("%s: read %d entries, %+v", what, len(got), rep)
				}
			})
		}
	}
	t.Logf("%d runs", runs)
}

// TestAmbiguousCommit loses the answer to the commit, and then all contact.
func TestAmbiguousCommit(t *testing.T) {
	for _, action := range []repotest.Action{repotest.FailAfter, repotest.HangAfter, repotest.Late, repotest.FailBefore} {
		synctest.Test(t, func(t *testing.T) {
			s := newScenario(t)
			b := s.base.Clone(nil)
			lost := false
			process := b.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
				if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, "point/") {
					lost = true
					return repotest.Fault{Action: action}
				}
				if lost {
					return repotest.Fault{Action: repotest.FailBefore}
				}
				return repotest.Fault{}
			}})
			p, err := s.session(t.Context(), process, 2)
			if !errors.Is(err, repo.ErrAmbiguous) || p != nil {
				t.Fatalf("%v: got %v, %v", action, p, err)
			}
			b.Settle()
			there := s.check(t, b, action.String(), false)
			if there != (action != repotest.FailBefore) {
				t.Errorf("%v: the point is there: %t", action, there)
			}
			first, err := s.session(t.Context(), b, 0)
			if err != nil {
				t.Fatal(err)
			}
			again, err := s.session(t.Context(), b, 0)
			if err != nil || !first.Time.Equal(again.Time) {
				t.Errorf("%v: %v and %v, %v", action, first.Time, again.Time, err)
			}
		})
	}
}

// TestOutageIsNotAWrongKey: only a definite answer may be called a wrong key.
func TestOutageIsNotAWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScenario(t).base
		process := base.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
			if op.Kind == repotest.Get && strings.HasPrefix(op.Key, "key/") {
				return repotest.Fault{Action: repotest.FailBefore}
			}
			return repotest.Fault{}
		}})
		if _, err := repo.Open(t.Context(), process.Bucket(), key("secret"), nil); err == nil || errors.Is(err, repo.ErrKey) || errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		process = base.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.Hang} }})
		if _, err := repo.Open(ctx, process.Bucket(), key("secret"), nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, repo.ErrKey) {
			t.Errorf("got %v", err)
		}
	})
}

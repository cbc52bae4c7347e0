// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

const (
	headerKey = "protect.repository"
	copyKey   = "protect.header-copy"
)

// headerHarms are ways to lose an object.
var headerHarms = map[string]func(b *repotest.Bucket, object string){
	"gone":    func(b *repotest.Bucket, object string) { b.Delete(object) },
	"flipped": func(b *repotest.Bucket, object string) { b.Flip(object, 8*100) },
	"empty":   func(b *repotest.Bucket, object string) { b.Set(object, nil) },
	"huge":    func(b *repotest.Bucket, object string) { b.Set(object, random(1, 1<<20)) },
}

// TestHeaderHasACopy loses one of both: all can be read, the log warns of a lost
// header, Verify reports it, and Repair mends it.
func TestHeaderHasACopy(t *testing.T) {
	w := smallWorld(t)
	before := w.bucket.Objects()
	if !bytes.Equal(before[headerKey], before[copyKey]) {
		t.Fatal("the copy is none")
	}
	for _, object := range []string{headerKey, copyKey} {
		for how, harm := range headerHarms {
			what := object + " is " + how
			b := w.bucket.Clone(nil)
			harm(b, object)
			rep, whole := w.look(t, b, what)
			if rep == nil || !whole || len(rep.Damage) != 1 || rep.Damage[0].Object != object || len(rep.Damage[0].Affects) > 0 {
				t.Errorf("%s: %+v, all is there: %t", what, rep, whole)
			}
			var log bytes.Buffer
			r, err := repo.Open(t.Context(), b.Bucket(), key("secret"), &repo.Options{Logger: hclog.New(&hclog.LoggerOptions{Output: &log})})
			if err != nil {
				t.Fatal(err)
			}
			if warned := strings.Contains(log.String(), "[WARN]"); warned != (object == headerKey) {
				t.Errorf("%s: the log has %q", what, &log)
			}
			if _, err := repo.Open(t.Context(), b.Bucket(), key("wrong"), nil); !errors.Is(err, repo.ErrKey) {
				t.Errorf("%s: with a wrong key: %v", what, err)
			}
			for _, dry := range []bool{true, false} {
				fixed := repair(t, r, &repo.RepairOptions{DryRun: dry, Level: repo.VerifyStructure})
				if !slices.Equal(fixed.Restored, []string{object}) || len(fixed.Damage) > 0 {
					t.Errorf("%s: repair, dry run %t: %+v", what, dry, fixed)
				}
				if got := b.Objects(); bytes.Equal(got[object], before[object]) == dry {
					t.Errorf("%s: after repair, dry run %t, there is %q", what, dry, got[object])
				}
			}
			if rep := repair(t, r, nil); len(rep.Restored)+len(rep.Damage) > 0 {
				t.Errorf("%s: second repair: %+v", what, rep)
			}
		}
	}
}

// TestNoHeader loses both. Whoever has the repository open can still restore them.
func TestNoHeader(t *testing.T) {
	for how, harm := range headerHarms {
		w := smallWorld(t)
		before := w.bucket.Objects()
		r := reopen(t, w.bucket.Bucket())
		harm(w.bucket, headerKey)
		harm(w.bucket, copyKey)
		_, err := repo.Open(t.Context(), w.bucket.Bucket(), key("secret"), nil)
		if gone := how == "gone"; errors.Is(err, fs.ErrNotExist) != gone || errors.Is(err, repo.ErrCorrupt) == gone {
			t.Errorf("both are %s: open: %v", how, err)
		}
		if rep := verify(t, r, false); len(rep.Damage) != 2 || !named(rep, headerKey) || !named(rep, copyKey) {
			t.Errorf("both are %s: %+v", how, rep)
		}
		if rep := repair(t, r, nil); len(rep.Restored) != 2 || len(rep.Damage) > 0 {
			t.Errorf("both are %s: repair: %+v", how, rep)
		}
		after := w.bucket.Objects()
		for _, object := range []string{headerKey, copyKey} {
			if diff := cmp.Diff(before[object], after[object]); diff != "" {
				t.Errorf("both are %s, then repaired: %s (-want +got):\n%s", how, object, diff)
			}
		}
	}
	w := smallWorld(t)
	w.bucket.Delete(headerKey)
	w.bucket.Flip(copyKey, 800)
	if _, err := repo.Open(t.Context(), w.bucket.Bucket(), key("secret"), nil); !errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one is gone, one damaged: %v", err)
	}
	deaf := w.bucket.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
		if op.Key == copyKey {
			return repotest.Fault{Action: repotest.FailBefore}
		}
		return repotest.Fault{}
	}})
	_, err := repo.Open(t.Context(), deaf.Bucket(), key("secret"), &repo.Options{Attempts: 1})
	if err == nil || errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, repo.ErrKey) {
		t.Errorf("one is gone, one cannot be read now: %v", err)
	}
}

// TestSweepRestoreHeader fails every call of a repair of a damaged header: at no
// time is there neither, and in the end another repair has both.
func TestSweepRestoreHeader(t *testing.T) {
	base := newScenario(t).base
	want := base.Objects()[headerKey]
	runs := 0
	for _, object := range []string{headerKey, copyKey} {
		for _, harm := range []string{"gone", "flipped"} {
			for _, action := range []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Hang, repotest.HangAfter, repotest.Late} {
				for _, kill := range []bool{false, true} {
					for i, more := 0, action != repotest.None || kill; more; i++ {
						synctest.Test(t, func(t *testing.T) {
							b := base.Clone(nil)
							headerHarms[harm](b, object)
							process := b.Open(&repotest.Options{Fault: repotest.At(i, repotest.Fault{Action: action, Kill: kill})})
							r, err := repo.Open(t.Context(), process.Bucket(), key("secret"), nil)
							if err == nil {
								_, err = r.Repair(t.Context(), &repo.RepairOptions{Level: repo.VerifyStructure})
							}
							if more = len(process.Calls()) > i; !more {
								return
							}
							runs++
							what := fmt.Sprintf("%s is %s, %v at call %v, kill: %t", object, harm, action, process.Calls()[i], kill)
							if err != nil && !kill {
								t.Errorf("%s: one fault was too much: %v", what, err)
							}
							b.Settle()
							if rep := repair(t, reopen(t, b.Bucket()), &repo.RepairOptions{Level: repo.VerifyStructure}); len(rep.Damage) > 0 {
								t.Errorf("%s: repair again: %+v", what, rep)
							}
							after := b.Objects()
							if !bytes.Equal(after[headerKey], want) || !bytes.Equal(after[copyKey], want) {
								t.Errorf("%s: the header is %q, its copy %q", what, after[headerKey], after[copyKey])
							}
						})
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

// TestInitDiesBetween lets Init die after each of its calls that write: what it
// leaves keeps nobody from initialising, with whatever key, before the header is
// there, and after that the next Init adds the copy.
func TestInitDiesBetween(t *testing.T) {
	for _, object := range []string{"key/", headerKey, copyKey} {
		for _, after := range []repotest.Action{repotest.FailBefore, repotest.FailAfter} {
			b := repotest.NewBucket(nil)
			dying := b.Open(&repotest.Options{Fault: func(op repotest.Op) repotest.Fault {
				if op.Kind == repotest.PutOnce && strings.HasPrefix(op.Key, object) {
					return repotest.Fault{Action: after, Kill: true}
				}
				return repotest.Fault{}
			}})
			if _, err := repo.Init(t.Context(), dying.Bucket(), key("first"), nil); !errors.Is(err, repotest.ErrKilled) {
				t.Fatal(err)
			}
			what := fmt.Sprintf("dead at %s, %v", object, after)
			won := object == copyKey || object == headerKey && after == repotest.FailAfter
			secret := "second"
			if won {
				secret = "first"
				healthyBut(t, mustOpen(t, b.Bucket(), key(secret)), copyKey, object == copyKey && after == repotest.FailAfter)
			}
			if _, err := repo.Init(t.Context(), b.Bucket(), key("second"), nil); errors.Is(err, fs.ErrExist) != won || err != nil != won {
				t.Errorf("%s: init again: %v", what, err)
			}
			b.Delete(headerKey)
			r := mustOpen(t, b.Bucket(), key(secret)) // by the copy of the one that won
			if err := writes(t.Context(), r, "point"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			repair(t, r, nil)
			healthy(t, mustOpen(t, b.Bucket(), key(secret)), 1)
		}
	}
}

// healthyBut checks that nothing is damaged, or just that object.
func healthyBut(tb testing.TB, r *repo.Repository, object string, whole bool) {
	tb.Helper()
	if rep := verify(tb, r, false); named(rep, object) == whole || len(rep.Damage) > 1 {
		tb.Errorf("%s in order: %t, but %+v", object, whole, rep)
	}
}

// TestInitsRace initialises one bucket several times at once: one wins, and the
// copy is of its header.
func TestInitsRace(t *testing.T) {
	for range 20 {
		b := repotest.NewBucket(nil)
		var wg sync.WaitGroup
		var ids [4]string
		for i := range ids {
			wg.Go(func() {
				r, err := repo.Init(t.Context(), b.Bucket(), key(fmt.Sprint(i)), nil)
				if err == nil {
					ids[i] = r.ID()
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		won := slices.IndexFunc(ids[:], func(id string) bool { return id != "" })
		if won < 0 || strings.Join(ids[:], "") != ids[won] {
			t.Fatalf("winners: %q", ids)
		}
		healthy(t, mustOpen(t, b.Bucket(), key(fmt.Sprint(won))), 0)
		b.Delete(headerKey)
		if r := mustOpen(t, b.Bucket(), key(fmt.Sprint(won))); r.ID() != ids[won] {
			t.Errorf("the copy is of %s, and %s has won", r.ID(), ids[won])
		}
	}
}

// TestRepairAddsTheCopy to a repository of before there were any: it lacks
// nothing, and its header stays as it is.
func TestRepairAddsTheCopy(t *testing.T) {
	g := loadGolden(t, "v1-keys")
	b := repotest.NewBucket(nil)
	for key, data := range g.objects {
		b.Set(key, data)
	}
	r := mustOpen(t, b.Bucket(), key(g.Passphrase))
	healthy(t, r, len(g.Points))
	if rep := repair(t, r, nil); !slices.Equal(rep.Restored, []string{copyKey}) || len(rep.Damage) > 0 {
		t.Errorf("repair: %+v", rep)
	}
	b.Delete(headerKey)
	r = mustOpen(t, b.Bucket(), key(g.Passphrase))
	healthyBut(t, r, headerKey, false)
	repair(t, r, nil)
	healthy(t, r, len(g.Points))
	if diff := cmp.Diff(g.objects[headerKey], b.Objects()[headerKey]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// isHeader reports whether the object is the header or the copy of it.
func isHeader(object string) bool {
	return object == "protect.repository" || object == "protect.header-copy"
}

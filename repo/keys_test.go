// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// mustOpen opens the repository with a key that must open it for writing.
func mustOpen(tb testing.TB, b *blob.Bucket, k repo.Key) *repo.Repository {
	tb.Helper()
	r, err := repo.Open(tb.Context(), b, k, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// writes reports whether a session can run.
func writes(ctx context.Context, r *repo.Repository, id string) error {
	_, err := r.Write(ctx, repo.WriteOptions{ID: id, Name: "app"}, func(ctx context.Context, w *repo.Writer) error {
		return w.PutStream(ctx, "v", strings.NewReader("content of "+id))
	})
	return err
}

func addKey(tb testing.TB, r *repo.Repository, k repo.Key) string {
	tb.Helper()
	id, err := r.AddKey(tb.Context(), k)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func slots(tb testing.TB, r *repo.Repository) []repo.KeySlot {
	tb.Helper()
	s, err := r.Keys(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestAddAndRemoveKeys(t *testing.T) {
	r, b := newRepo(t)
	ctx := t.Context()
	first := slots(t, r)[0].ID
	if err := r.RemoveKey(ctx, first); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "the only key") {
		t.Errorf("the only key: %v", err)
	}
	second := addKey(t, r, key("another"))
	third := addKey(t, r, keeper(t, 1, "projects/p/keys/k"))
	for _, k := range []repo.Key{key("secret"), key("another"), keeper(t, 1, "")} {
		if err := writes(ctx, mustOpen(t, b, k), "p"); err != nil {
			t.Errorf("%v: %v", k, err)
		}
	}
	var got []string
	for _, s := range slots(t, r) {
		got = append(got, fmt.Sprintf("%s %s %q %q %t", s.ID, s.Kind, s.Name, s.Problem, s.Created.IsZero()))
	}
	want := []string{third + ` kms "projects/p/keys/k" "" false`, second + ` passphrase "" "" false`, first + ` passphrase "" "" false`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("slots:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := r.RemoveKey(ctx, third); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "the newest key") {
		t.Errorf("the newest key: %v", err)
	}
	for _, id := range []string{"", "0123456789abcdef", "../protect.repository", strings.ToUpper(first), first + "0"} {
		if err := r.RemoveKey(ctx, id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
	for _, id := range []string{first, second} {
		if err := r.RemoveKey(ctx, id); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	for _, k := range []repo.Key{key("secret"), key("another"), keeper(t, 2, "")} {
		if _, err := repo.Open(ctx, b, k, nil); err == nil {
			t.Error("a removed key opens")
		}
	}
	mustOpen(t, b, keeper(t, 1, ""))
	healthy(t, mustOpen(t, b, keeper(t, 1, "")), 1)
}

func TestKeysThatAreNone(t *testing.T) {
	r, b := newRepo(t)
	for name, k := range map[string]repo.Key{
		"zero": {}, "zero with KDF": repo.Key{}.WithKDF(1, 8, 1), "empty": repo.Passphrase(""), "bounds": key("x").WithKDF(17, 8, 1),
		"nil keeper": repo.Keeper(nil, ""), "name": keeper(t, 1, "a\nb"), "long name": keeper(t, 1, strings.Repeat("x", 256)),
	} {
		_, oerr := repo.Open(t.Context(), b, k, nil)
		_, aerr := r.AddKey(t.Context(), k)
		rerr := r.RotateKeys(t.Context(), key("good"), k)
		for _, err := range []error{oerr, aerr, rerr} {
			if err == nil || errors.Is(err, repo.ErrKey) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := r.RotateKeys(t.Context()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("rotation to no key: %v", err)
	}
	if n := len(slots(t, r)); n != 1 {
		t.Errorf("%d slots are left", n)
	}
	addKey(t, r, keeper(t, 1, strings.Repeat("x", 255)))
	mustOpen(t, b, keeper(t, 1, ""))
}

func TestMaxSlots(t *testing.T) {
	r, b := newRepo(t)
	for i := range 63 {
		addKey(t, r, key(fmt.Sprint(i)))
	}
	if _, err := r.AddKey(t.Context(), key("one too many")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("65 keys: %v", err)
	}
	mustOpen(t, b, key("62"))
	mustOpen(t, b, key("secret"))
	many := make([]repo.Key, 65)
	for i := range many {
		many[i] = key("x")
	}
	if err := r.RotateKeys(t.Context(), many...); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("rotation to 65 keys: %v", err)
	}
}

// TestPlantedSlots: whoever can write to the bucket can add slots. They must
// neither open, nor keep others from opening, nor cost much.
func TestPlantedSlots(t *testing.T) {
	b := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), b.Bucket(), key("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var good string
	for name := range b.Objects() {
		if strings.HasPrefix(name, "key/") {
			good = name
		}
	}
	genuine := string(b.Objects()[good])
	plant := func(i int, old, new string) {
		b.Set(fmt.Sprintf("key/%016x", i), resum(strings.Replace(genuine, old, new, 1)))
	}
	for i := range 1000 {
		switch i % 4 {
		case 0: // as expensive as can be: minutes
			plant(i, `"argon2id":{"time":1,"memory":8,"threads":1}`, `"argon2id":{"time":16,"memory":1048576,"threads":1}`)
		case 1:
			plant(i, `"epoch":0`, `"epoch":0`)
		case 2:
			plant(i, `"kind":"passphrase"`, `"kind":"telepathy"`)
		case 3:
			plant(i, "protect", "detect")
		}
	}
	again := mustOpen(t, b.Bucket(), key("secret"))
	if err := writes(t.Context(), again, "p"); err != nil {
		t.Error(err)
	}
	problems := map[string]int{}
	for _, s := range slots(t, again) {
		problems[s.Problem]++
	}
	if len(problems) != 253 || problems[""] != 1 { // each damaged one has a text of its own
		t.Errorf("%d problems, %d without", len(problems), problems[""])
	}
	if id := addKey(t, again, key("more")); strings.TrimPrefix(good, "key/") < id {
		t.Errorf("%s does not come before %s", id, good)
	}
	if err := again.RotateKeys(t.Context(), key("secret")); err != nil {
		t.Error(err)
	}
	_ = r
}

// resum corrects the checksum of a text.
func resum(text string) []byte {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return repo.Sum(lines[:len(lines)-1]...)
}

// TestKeyHints: whoever cannot open a repository is told why.
func TestKeyHints(t *testing.T) {
	base := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), base.Bucket(), key("secret"), nil); err != nil {
		t.Fatal(err)
	}
	var name string
	for n := range base.Objects() {
		if strings.HasPrefix(n, "key/") {
			name = n
		}
	}
	genuine := string(base.Objects()[name])
	for what, c := range map[string]struct {
		change func(b *repotest.Bucket)
		want   string
	}{
		"wrong": {func(*repotest.Bucket) {}, `repo: open: the key does not open the repository`},
		"none":  {func(b *repotest.Bucket) { b.Delete(name) }, `repo: open: the key does not open the repository: it has no key slots`},
		"kind": {func(b *repotest.Bucket) {
			b.Set(name, resum(strings.Replace(genuine, `"passphrase"`, `"recipient"`, 1)))
		}, `repo: open: the key does not open the repository: 1 slots need a release of protect that knows "recipient"`},
		"feature": {func(b *repotest.Bucket) {
			b.Set(name, resum(strings.Replace(genuine, `"kind"`, `"requires":["parity"],"kind"`, 1)))
		}, `repo: open: the key does not open the repository: 1 slots need a release of protect that knows "passphrase" with ["parity"]`},
		"damage": {func(b *repotest.Bucket) { b.Set(name, []byte("x")) }, "repo: open: the key does not open the repository\nrepository is damaged: object " + name + ": checksum does not match"},
	} {
		b := base.Clone(nil)
		c.change(b)
		if _, err := repo.Open(t.Context(), b.Bucket(), key("wrong"), nil); !errors.Is(err, repo.ErrKey) || err.Error() != c.want {
			t.Errorf("%s:\n%v\nwant:\n%s", what, err, c.want)
		}
	}
}

// TestRemoveKeysAtOnce runs one removal within another, at each of its store
// calls: one slot that works is always left.
func TestRemoveKeysAtOnce(t *testing.T) {
	base := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), base.Bucket(), key("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{slots(t, r)[0].ID, addKey(t, r, key("b"))}
	for _, with := range []string{"remove", "add and remove"} {
		for _, x := range ids {
			for _, y := range ids {
				for i, more := 0, true; more; i++ {
					world := base.Clone(nil)
					second := mustOpen(t, world.Open(nil).Bucket(), key("b"))
					armed, calls := false, atomic.Int32{}
					first := mustOpen(t, world.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault {
						if armed {
							if calls.Add(1)-1 == int32(i) {
								if with != "remove" {
									addKey(t, second, key("c"))
								}
								_ = second.RemoveKey(t.Context(), y)
							}
						}
						return repotest.Fault{}
					}}).Bucket(), key("a"))
					armed = true
					_ = first.RemoveKey(t.Context(), x)
					armed, more = false, int(calls.Load()) > i
					left := slots(t, first)
					opens := 0
					for _, k := range []string{"a", "b", "c"} {
						if _, err := repo.Open(t.Context(), world.Bucket(), key(k), nil); err == nil {
							opens++
						}
					}
					if len(left) == 0 || opens != len(left) {
						t.Fatalf("%s %s at call %d of the removal of %s: %d slots, %d open", with, y, i, x, len(left), opens)
					}
				}
			}
		}
	}
}

// TestSweepKeys fails every store call of adding and removing a key.
func TestSweepKeys(t *testing.T) {
	base := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), base.Bucket(), key("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	old := slots(t, r)[0].ID
	addKey(t, r, key("b"))
	runs := 0
	for _, op := range []struct {
		name string
		run  func(ctx context.Context, r *repo.Repository) error
		key  string
		open bool // whether the key opens afterwards
	}{
		{"add", func(ctx context.Context, r *repo.Repository) error { _, err := r.AddKey(ctx, key("c")); return err }, "c", true},
		{"remove", func(ctx context.Context, r *repo.Repository) error { return r.RemoveKey(ctx, old) }, "a", false},
	} {
		for _, f := range faults {
			for i, more := 0, true; more; i++ {
				synctestRun(t, func(t *testing.T) {
					world := base.Clone(nil)
					process := world.Open(&repotest.Options{Fault: repotest.At(i, f)})
					r, err := repo.Open(t.Context(), process.Bucket(), key("b"), nil)
					if err == nil {
						err = op.run(t.Context(), r)
					}
					if more = len(process.Calls()) > i; !more {
						return
					}
					runs++
					world.Settle()
					what := fmt.Sprintf("%s: %v at call %d: %v", op.name, f, i, err)
					_, oerr := repo.Open(t.Context(), world.Bucket(), key(op.key), nil)
					if err == nil && (oerr == nil) != op.open || oerr != nil && !errors.Is(oerr, repo.ErrKey) {
						t.Errorf("%s: %v", what, oerr)
					}
					if err := writes(t.Context(), mustOpen(t, world.Bucket(), key("b")), "p"); err != nil {
						t.Errorf("%s: the other key: %v", what, err)
					}
				})
			}
		}
	}
	t.Logf("%d runs", runs)
}

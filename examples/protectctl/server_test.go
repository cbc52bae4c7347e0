// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var outages = flag.Int("outages", 0, "number of outages of TestServer; 0 is the short form")

// outageWorld is a repository in a store that fails, and what it owes.
type outageWorld struct {
	*world
	store *s3Store
	rng   *rand.Rand
	kept  map[string]map[string]string // the trees of the points, by id
	took  map[string]time.Duration     // by commands, without an outage
	next  int
	// Counts for the log: outages that hit a running command, and those of
	// them that it did not survive.
	hit, lost int
	longest   time.Duration // from an outage for good to the end of a command
}

func newOutageWorld(t *testing.T, rng *rand.Rand) *outageWorld {
	t.Helper()
	s := newS3Store(t)
	w := &outageWorld{world: s.world(), store: s, rng: rng, kept: map[string]map[string]string{}, took: map[string]time.Duration{}}
	for _, verb := range []string{"backup", "gc", "verify", "restore"} {
		w.took[verb] = 150 * time.Millisecond // for a start
	}
	for range 2 { // something to restore, and something to free
		w.change()
		w.keep(w.id())
	}
	return w
}

func (w *outageWorld) id() string {
	w.next++
	return fmt.Sprintf("p%03d", w.next)
}

// change replaces, adds and removes files of the volume.
func (w *outageWorld) change() {
	w.t.Helper()
	for range 1 + w.rng.IntN(5) {
		b := make([]byte, w.rng.IntN(400_000))
		for i := range b {
			b[i] = byte(w.rng.Uint32())
		}
		w.write(fmt.Sprintf("data/%d/%d", w.rng.IntN(3), w.rng.IntN(5)), string(b))
	}
}

// keep makes sure that the volume is there as a point, whatever was before.
func (w *outageWorld) keep(id string) {
	w.t.Helper()
	w.ok(nil, "backup", "--id", id, w.path("data"))
	w.kept[id] = tree(w.t, w.path("data"))
}

// oldest is the id of the oldest point.
func (w *outageWorld) oldest() string {
	ids := w.points()
	return ids[len(ids)-1]
}

// plan returns a command, and what has to be done before it.
func (w *outageWorld) plan(verb string) []string {
	w.t.Helper()
	switch verb {
	case "backup":
		w.change()
		return []string{"backup", "--id", w.id(), w.path("data")}
	case "gc":
		if len(w.kept) > 2 {
			id := w.oldest()
			w.ok(nil, "forget", id)
			delete(w.kept, id)
		}
		return []string{"gc", "--max-delete", "1", "--stale-after", "1ms"}
	case "verify":
		return []string{"verify", "--data"}
	default:
		return []string{"restore", w.oldest(), w.path("out")}
	}
}

// giveUp is when a command must have ended for which the store is gone. The SDK
// and the library both repeat requests, and backup whole steps.
const giveUp = 10 * time.Minute

// outage kills the server at some moment of a command. If it comes back the
// command must not notice; if not, it must end, and say why.
func (w *outageWorld) outage(verb string, back bool) {
	w.t.Helper()
	args := w.plan(verb)
	what := fmt.Sprintf("%q, store back: %t", args, back)
	p := w.start(nil, args...)
	ended := make(chan outcome, 1)
	go func() { ended <- p.wait() }()
	// Where in the command, if it takes as long as the last of its kind.
	after := time.Duration(w.rng.Float64() * 1.1 * float64(w.took[verb]))
	var o outcome
	start, done := time.Now(), false
	select {
	case <-time.After(after):
	case o = <-ended:
		done = true
	}
	w.store.kill()
	died := time.Now()
	if !done {
		w.hit++
	}
	if back {
		time.Sleep(time.Duration(w.rng.Int64N(int64(700 * time.Millisecond))))
		w.store.start()
	}
	if !done {
		select {
		case o = <-ended:
		case <-time.After(giveUp):
			_ = p.Process.Kill()
			w.t.Fatalf("%s: still running %v after the store died", what, giveUp)
		}
	}
	switch {
	case o.code == exitOK && done:
		w.took[verb] = time.Since(start)
	case o.code == exitOK:
	case back || o.code != exitFailure || o.stdout != "" || !saysUnreachable(o.stderr):
		w.t.Errorf("%s: exit status %d\n%s%s", what, o.code, o.stdout, o.stderr)
	default:
		w.lost++
		w.longest = max(w.longest, time.Since(died))
	}
	if !back {
		w.store.start()
	}
	w.aftermath(what, args, o.code == exitOK)
}

// saysUnreachable reports whether the errors say what is the matter.
func saysUnreachable(stderr string) bool {
	_, reason, ok := strings.Cut("\n"+stderr, "\nprotectctl: ")
	return ok && strings.Contains(reason, "connection refused")
}

// aftermath checks that nothing is lost or half there, and that the command
// succeeds now.
func (w *outageWorld) aftermath(what string, args []string, ok bool) {
	w.t.Helper()
	switch {
	case args[0] == "backup":
		if got := slices.Contains(w.points(), args[2]); ok && !got {
			w.t.Errorf("%s: the point was acknowledged, and is not there", what)
		}
		w.keep(args[2])
	case args[0] == "restore" && ok:
	case args[0] == "restore":
		if _, err := os.Lstat(args[2]); err == nil {
			w.t.Errorf("%s: it failed, and its target is there", what)
		}
		fallthrough
	default:
		w.ok(nil, args...)
	}
	if args[0] == "restore" {
		w.same(what, args[1], args[2])
	}
	w.ok(nil, "verify", "--data")
	id := w.oldest()
	w.ok(nil, "restore", id, w.path("earlier"))
	w.same(what, id, w.path("earlier"))
	left, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".") {
			w.t.Errorf("%s: %s is left", what, e.Name())
		}
	}
}

// same compares a restored point with what it was, and removes it.
func (w *outageWorld) same(what, id, dir string) {
	w.t.Helper()
	if diff := cmp.Diff(w.kept[id], tree(w.t, dir)); diff != "" {
		w.t.Errorf("%s: %s (-want +got):\n%s", what, id, diff)
	}
	if err := os.RemoveAll(dir); err != nil {
		w.t.Fatal(err)
	}
}

// TestServer kills an S3 server with SIGKILL while protectctl works on it. Most
// times it is back after less than a second; sometimes not, for the command:
//
//	go test -run 'TestServer$' -timeout 0 -v -args -outages 500
func TestServer(t *testing.T) {
	t.Parallel()
	seed := firstSeed(t)
	verbs := []string{"backup", "gc", "verify", "restore"}
	if *outages > 0 {
		w := newOutageWorld(t, rand.New(rand.NewPCG(seed, 0)))
		for i := 0; i < *outages && !t.Failed(); i++ {
			w.outage(verbs[w.rng.IntN(len(verbs))], i%8 != 7)
		}
		w.end()
		return
	}
	for i, verb := range verbs { // each waits more than it works
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			w := newOutageWorld(t, rand.New(rand.NewPCG(seed, uint64(i))))
			w.outage(verb, true)
			w.end()
		})
	}
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		w := newOutageWorld(t, rand.New(rand.NewPCG(seed, uint64(len(verbs)))))
		w.gone()
		w.end()
	})
}

// end restores all points.
func (w *outageWorld) end() {
	w.t.Helper()
	all := w.points()
	for _, id := range all {
		w.ok(nil, "restore", id, w.path("all"))
		w.same("at the end", id, w.path("all"))
	}
	if len(all) != len(w.kept) {
		w.t.Errorf("%d points, want %d", len(all), len(w.kept))
	}
	w.t.Logf("%d outages hit a command, which gave up in %d of those for good, after %v at most; %d points restored",
		w.hit, w.lost, w.longest.Round(time.Millisecond), len(all))
}

// gone is the end of a store, as every command finds it. That the SDK tries each
// request several times as well is not on trial, and does not happen here.
func (w *outageWorld) gone() {
	w.t.Helper()
	w.store.kill()
	whole := w.repo
	w.repo += "&rate_limiter_capacity=1"
	var running []*process
	for _, args := range [][]string{{"backup", w.path("data")}, {"gc"}, {"verify"}, {"restore", "latest", w.path("out")}, {"list"}} {
		running = append(running, w.start(nil, args...))
	}
	for _, p := range running {
		if o := p.wait(); o.code != exitFailure || o.stdout != "" || !saysUnreachable(o.stderr) {
			w.t.Errorf("%q without a store: exit status %d\n%s%s", p.Args, o.code, o.stdout, o.stderr)
		}
	}
	w.repo = whole
	w.store.start()
}

// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/durable"
	"github.com/stillpoint-go/protect/internal/durable/durabletest"
)

// TestPowerCut runs a writer, lets a second process do its whole work at every
// single step of the first one, and cuts the power after every step of both:
// whatever was acknowledged to either, a win, a loss or a removal, must hold.
func TestPowerCut(t *testing.T) {
	const long = "complete content"
	ops := map[string]func(d *durable.Dir, fact func(key string, exists bool)) error{
		"create": func(d *durable.Dir, fact func(string, bool)) error {
			err := put(d, "a/b/k", long, true)
			if err == nil || errors.Is(err, fs.ErrExist) {
				fact("a/b/k", true)
			}
			return err
		},
		"create beside": func(d *durable.Dir, fact func(string, bool)) error {
			err := put(d, "a/b/other", long, true)
			if err == nil {
				fact("a/b/other", true)
			}
			return err
		},
		"replace": func(d *durable.Dir, fact func(string, bool)) error {
			err := put(d, "a/b/k", long, false)
			if err == nil {
				fact("a/b/k", true)
			}
			return err
		},
		"remove": func(d *durable.Dir, fact func(string, bool)) error {
			err := d.Remove("a/old")
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				fact("a/old", false)
			}
			return err
		},
	}
	for _, noLinks := range []bool{false, true} {
		for firstName, first := range ops {
			for secondName, second := range ops {
				t.Run(fmt.Sprintf("%s-%s-nolinks=%t", firstName, secondName, noLinks), func(t *testing.T) {
					for at := 0; ; at++ {
						p := newPowerCut(t, noLinks, long)
						if !p.run(first, second, at) {
							break
						}
					}
				})
			}
		}
	}
}

type powerCut struct {
	t     *testing.T
	c     *durabletest.CrashFS
	long  string
	facts map[string]bool
	rng   *rand.Rand
}

func newPowerCut(t *testing.T, noLinks bool, long string) *powerCut {
	p := &powerCut{t: t, c: durabletest.New(), long: long, facts: map[string]bool{}, rng: rand.New(rand.NewPCG(1, 2))}
	if err := put(durable.NewDir(p.c, nil), "a/old", long, true); err != nil {
		t.Fatal(err)
	}
	p.c.Log, p.c.NoLinks = nil, noLinks
	p.facts["a/old"] = true
	p.c.After = func(string) { p.check() }
	return p
}

// run reports whether first had a step number at, before which second ran.
func (p *powerCut) run(first, second func(*durable.Dir, func(string, bool)) error, at int) bool {
	fact := func(key string, exists bool) {
		p.facts[key] = exists
		p.check()
	}
	forget := func(op string) {
		if strings.HasPrefix(op, "remove a/old") {
			delete(p.facts, "a/old") // from here on it may be gone
		}
	}
	n := 0
	hook := func(op string) {
		forget(op)
		n++
	}
	p.c.Before = func(op string) {
		hook(op)
		if n-1 != at {
			return
		}
		p.c.Before = forget
		if err := second(durable.NewDir(p.c, nil), fact); err != nil &&
			!errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			p.t.Fatalf("second process: %v", err)
		}
		p.c.Before = hook
	}
	if err := first(durable.NewDir(p.c, nil), fact); err != nil &&
		!errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		p.t.Fatalf("first process: %v", err)
	}
	p.check()
	return n > at
}

// check cuts the power in the worst ways: nothing that is not flushed survives,
// all of it, all names without the content, and random mixtures.
func (p *powerCut) check() {
	p.t.Helper()
	ways := []func() bool{func() bool { return false }, func() bool { return true }}
	for range 8 {
		ways = append(ways, func() bool { return p.rng.IntN(2) == 0 })
	}
	for _, keep := range ways {
		found := p.c.Crash(keep)
		for name, data := range found {
			if !durable.IsTemp(name) && data != p.long {
				p.t.Fatalf("after %q: %s has content %q", p.c.Log, name, data)
			}
		}
		for name, want := range p.facts {
			if _, got := found[name]; got != want {
				p.t.Fatalf("after %q: %s exists: %t, acknowledged: %t", p.c.Log, name, got, want)
			}
		}
	}
}

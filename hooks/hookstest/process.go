// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"sync"

	"github.com/stillpoint-go/protect/hooks"
)

// ErrKilled is what calls of a killed Process return, to nobody's use: nothing
// that the code under test still does has an effect.
var ErrKilled = errors.New("hookstest: the process was killed")

// Process stands for the process in which the code under test runs. Killing it
// cuts that code off from its targets and its journal, and session freezes
// end. The test then drops the code under test and starts it anew, with the
// same targets, the same journal, and another Process. The zero value is
// alive. It is safe for concurrent use.
type Process struct {
	mu     sync.Mutex
	dead   bool
	killed []func()
}

// Kill kills the process. Killing it again does nothing.
func (p *Process) Kill() {
	p.mu.Lock()
	killed := p.killed
	p.dead, p.killed = true, nil
	p.mu.Unlock()
	for _, f := range killed {
		f()
	}
}

// Dead says whether the process was killed.
func (p *Process) Dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// Journal returns the process's own handle on j, which dies with it.
func (p *Process) Journal(j hooks.Journal) hooks.Journal { return &journal{p: p, j: j} }

func (p *Process) onKill(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = append(p.killed, f)
}

// reach lets the process have an effect on the world, if it lives.
func (p *Process) reach(effect func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return ErrKilled
	}
	return effect()
}

type journal struct {
	p *Process
	j hooks.Journal
}

var _ hooks.History = (*journal)(nil)

// Remember implements hooks.History, if the journal does.
func (j *journal) Remember(ctx context.Context, past hooks.PastFreeze) error {
	return j.p.reach(func() error {
		if h, ok := j.j.(hooks.History); ok {
			return h.Remember(ctx, past)
		}
		return errors.ErrUnsupported
	})
}

// Past implements hooks.History, if the journal does.
func (j *journal) Past(ctx context.Context, application string) (past []hooks.PastFreeze, err error) {
	err = j.p.reach(func() error {
		h, ok := j.j.(hooks.History)
		if !ok {
			return errors.ErrUnsupported
		}
		past, err = h.Past(ctx, application)
		return err
	})
	return past, err
}

func (j *journal) Begin(ctx context.Context, in hooks.Intent) (epoch hooks.Epoch, err error) {
	err = j.p.reach(func() error {
		epoch, err = j.j.Begin(ctx, in)
		return err
	})
	return epoch, err
}

func (j *journal) End(ctx context.Context, epoch hooks.Epoch) error {
	return j.p.reach(func() error { return j.j.End(ctx, epoch) })
}

func (j *journal) Pending(ctx context.Context) (intents []hooks.Intent, err error) {
	err = j.p.reach(func() error {
		intents, err = j.j.Pending(ctx)
		return err
	})
	return intents, err
}

// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"context"
	"sync"
)

// pool runs tasks that make further tasks. The youngest runs first, so that a
// tree is worked on depth first and few directories are open at a time.
type pool struct {
	run  func(task) error
	drop func(task) // for tasks that never run

	mu    sync.Mutex
	more  sync.Cond
	stack []task
	busy  int
	err   error
}

// work runs first and all that follows from it on n goroutines, and returns
// the first error.
func (p *pool) work(ctx context.Context, n int, first task) error {
	p.more.L = &p.mu
	p.stack = append(p.stack, first)
	stop := context.AfterFunc(ctx, func() { p.fail(ctx.Err()) })
	defer stop()
	var wg sync.WaitGroup
	for range n {
		wg.Go(p.worker)
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.stack {
		p.drop(t)
	}
	return p.err
}

func (p *pool) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.more.Broadcast()
}

// add makes t run, some time.
func (p *pool) add(t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stack = append(p.stack, t)
	p.more.Signal()
}

func (p *pool) worker() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.stack) == 0 && p.busy > 0 && p.err == nil {
			p.more.Wait()
		}
		if len(p.stack) == 0 || p.err != nil {
			p.more.Broadcast()
			return
		}
		t := p.stack[len(p.stack)-1]
		p.stack = p.stack[:len(p.stack)-1]
		p.busy++
		p.mu.Unlock()
		err := p.run(t)
		p.mu.Lock()
		p.busy--
		if err != nil && p.err == nil {
			p.err = err
		}
	}
}

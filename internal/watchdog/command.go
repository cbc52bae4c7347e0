// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stillpoint-go/protect/internal/holder"
)

// killGrace is what a program gets between the request to end and the kill.
const killGrace = 500 * time.Millisecond

// errStuck marks a program that is still there.
var errStuck = errors.New("a program was left behind")

// RunProgram runs argv to its end and returns its stdout. When ctx ends, its
// process group is terminated and then killed; when RunProgram returns the
// program is gone, unless the error wraps errStuck. Output of more than limit
// bytes is cut to one byte more. The program inherits the lock, if there is one.
func RunProgram(ctx context.Context, argv, env []string, limit int, lock *os.File) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := holder.Start(holder.Spec{Argv: argv, Env: env, MaxOutput: limit + 1, Inherit: lock})
	if err != nil {
		return nil, err
	}
	p.CloseInput()
	select {
	case <-p.Done():
	case <-ctx.Done():
		if _, err := p.Stop(ctx, killGrace); err != nil {
			return nil, fmt.Errorf("%w: %w: %w", ctx.Err(), errStuck, err)
		}
		return nil, ctx.Err()
	}
	out, _ := p.Output()
	return out, p.Err()
}

// programs is a target that one program freezes and another one thaws.
type programs struct {
	spec  Spec
	lock  *os.File
	stuck bool // a program is still there
	out   map[string][]byte
}

// run runs one of the programs. It inherits the lock: should it outlive the
// helper, what it does late belongs to this freeze all the same.
func (p *programs) run(ctx context.Context, argv []string) ([]byte, error) {
	out, err := RunProgram(ctx, argv, p.spec.Env, p.spec.MaxOutput, p.lock)
	p.stuck = p.stuck || errors.Is(err, errStuck)
	return out, err
}

func (p *programs) freeze(ctx context.Context) error {
	out, err := p.run(ctx, p.spec.Freeze)
	if len(out) > 0 {
		p.out["freeze"] = out
	}
	if err != nil {
		return fmt.Errorf("freeze program: %w", err)
	}
	return nil
}

// undo is always true: a program that failed may have frozen first.
func (p *programs) undo() bool { return true }

// held has nobody to ask: that no other program thaws the target is the
// caller's word.
func (p *programs) held() error { return nil }

func (p *programs) thaw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.spec.Timeout)
	defer cancel()
	out, err := p.run(ctx, p.spec.Thaw)
	if err != nil {
		return fmt.Errorf("thaw program: %w", err)
	}
	if len(out) > 0 {
		p.out["thaw"] = out
	}
	return nil
}

func (p *programs) output() map[string][]byte {
	out := p.out
	p.out = make(map[string][]byte)
	return out
}

// close gives up the lock, unless somebody is left who must keep it: then it
// is free when he is gone.
func (p *programs) close(thawed bool) { release(p.lock, thawed && !p.stuck) }

// release closes a lock, and gives it up also for others who inherited it.
func release(lock *os.File, free bool) {
	if lock == nil {
		return
	}
	if free {
		unlock(lock)
	}
	_ = lock.Close()
}

// open makes the target that spec asks for.
func open(spec Spec) (target, error) {
	lock, err := inherit(spec.Lock)
	if err != nil {
		return nil, err
	}
	if spec.Path != "" {
		return openFS(spec, lock)
	}
	if len(spec.Freeze) == 0 || len(spec.Thaw) == 0 || spec.Timeout <= 0 {
		return nil, errors.New("incomplete specification")
	}
	return &programs{spec: spec, lock: lock, out: make(map[string][]byte)}, nil
}

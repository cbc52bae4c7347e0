// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stillpoint-go/protect/internal/holder"
)

// killGrace is what a program gets between the request to end and the kill.
const killGrace = 500 * time.Millisecond

// RunProgram runs argv to its end and returns its stdout. When ctx ends, its
// process group is terminated and then killed; when RunProgram returns the
// program is gone. Output of more than limit bytes is cut to one byte more.
func RunProgram(ctx context.Context, argv, env []string, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := holder.Start(holder.Spec{Argv: argv, Env: env, MaxOutput: limit + 1})
	if err != nil {
		return nil, err
	}
	p.CloseInput()
	select {
	case <-p.Done():
	case <-ctx.Done():
		if _, err := p.Stop(ctx, killGrace); err != nil {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, ctx.Err()
	}
	out, _ := p.Output()
	return out, p.Err()
}

// programs is a target that one program freezes and another one thaws.
type programs struct {
	spec Spec
	out  map[string][]byte
}

func (p *programs) freeze(ctx context.Context) error {
	out, err := RunProgram(ctx, p.spec.Freeze, p.spec.Env, p.spec.MaxOutput)
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
	out, err := RunProgram(ctx, p.spec.Thaw, p.spec.Env, p.spec.MaxOutput)
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

func (p *programs) close() {}

// open makes the target that spec asks for.
func open(spec Spec) (target, error) {
	if spec.Path != "" {
		return openFS(spec)
	}
	if len(spec.Freeze) == 0 || len(spec.Thaw) == 0 || spec.Timeout <= 0 {
		return nil, errors.New("incomplete specification")
	}
	return &programs{spec: spec, out: make(map[string][]byte)}, nil
}

// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"github.com/stillpoint-go/protect/internal/holder"
)

// Client is the parent's end of one watchdog. Its calls exclude each other.
type Client struct {
	proc *holder.Process

	mu     sync.Mutex
	id     int
	asked  bool // to thaw
	final  *reply
	output map[string][]byte
}

// Arm starts the program argv, a prefix to which Arg is appended, and returns
// when the helper is armed. The Client must be closed. The lock of the target
// is taken before, which may have to wait, and shared with the helper. It stays
// the caller's to close, who keeps it as long as he may thaw himself.
func Arm(ctx context.Context, argv, env []string, spec Spec, lock *os.File) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := Lock(ctx, lock); err != nil {
		return nil, err
	}
	var err error
	if spec.Lock, err = identify(lock); err != nil {
		return nil, err
	}
	if spec.Lock == nil {
		lock = nil // it cannot be inherited
	}
	full := append(append([]string{}, argv...), Arg)
	proc, err := holder.Start(holder.Spec{Argv: full, Env: env, Session: true, MaxOutput: maxLine, Inherit: lock})
	if err != nil {
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	c := &Client{proc: proc, output: make(map[string][]byte)}
	spec.Version = protocolVersion
	if err := c.ask(ctx, request{Op: opArm, Spec: &spec}); err != nil {
		c.Close()
		return nil, fmt.Errorf("arm the watchdog: %w", err)
	}
	return c, nil
}

// Freeze freezes. After an error of ctx the target may freeze yet; once the
// client is closed and Gone, the helper has thawed it.
func (c *Client) Freeze(ctx context.Context) error { return c.ask(ctx, request{Op: opFreeze}) }

// Held asks the helper whether the freeze is in force. ErrLost and ErrDead are
// definite.
func (c *Client) Held(ctx context.Context) error { return c.ask(ctx, request{Op: opHeld}) }

// Thaw thaws. Nil and ErrLost say that the target is thawed. After ErrDead
// nobody knows. It is idempotent: the helper's last word is kept.
func (c *Client) Thaw(ctx context.Context) error { return c.ask(ctx, request{Op: opThaw}) }

// Output returns what the programs of the helper wrote to stdout, by name of
// the phase.
func (c *Client) Output() map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.output)
}

// Close lets go of the helper, which thaws if it must and ends. It does not
// wait for that.
func (c *Client) Close() { c.proc.CloseInput() }

// Gone is closed when the helper has ended and its last word is there.
func (c *Client) Gone() <-chan struct{} { return c.proc.Done() }

// LastWord returns what a helper that is Gone said last: nil if it thawed as
// asked, ErrLost if it thawed early, ErrDead if it said nothing.
func (c *Client) LastWord(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.await(ctx, -1)
}

// ask sends a request and waits for its reply.
func (c *Client) ask(ctx context.Context, req request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.final == nil && !(req.Op == opThaw && c.asked) {
		c.id++
		req.ID = c.id
		line, err := json.Marshal(req)
		if err != nil {
			return err
		}
		if len(line) >= maxLine/2 {
			return fmt.Errorf("watchdog request of %d bytes is too long", len(line))
		}
		// A helper that is gone has left its last word in the pipe.
		_ = c.proc.Send(append(line, '\n'))
		c.asked = req.Op == opThaw
	}
	err := c.await(ctx, c.id)
	if err == nil && c.final != nil && req.Op != opThaw {
		return ErrLost // it was thawed before
	}
	return err
}

// await reads until the reply to request id, or the last word.
func (c *Client) await(ctx context.Context, id int) error {
	for c.final == nil {
		line, err := c.proc.ReadLine(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			return c.died(ctx, err)
		}
		var r reply
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return fmt.Errorf("the program is no watchdog, it says %.100q", line)
		}
		maps.Copy(c.output, r.Output)
		if r.Final {
			c.final = &r
		}
		if r.ID == id || r.Final {
			return r.err()
		}
	}
	return c.final.err()
}

// died describes the end of a helper without a last word.
func (c *Client) died(ctx context.Context, cause error) error {
	select {
	case <-c.proc.Exited():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.proc.Err(); err != nil {
		cause = err
	}
	if errors.Is(cause, ErrDead) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrDead, cause)
}

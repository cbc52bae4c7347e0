// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// hold vouches for a cut at one instant, or is a snapshot on its way.
type hold struct {
	q      *Quiescer
	before *State // before the cut, and before the stream
	// life ends with the window, or when nobody needs the stream any more.
	life   context.Context //nolint:containedctx // a hold outlives the context of Quiesce
	end    context.CancelFunc
	stream *stream // nil: cut at one instant
	ours   bool    // we have the turn

	mu   sync.Mutex
	done bool
	kept hooks.Evidence
	last error
}

func newHold(ctx context.Context, q *Quiescer, window time.Duration) *hold {
	h := &hold{q: q}
	h.life, h.end = context.WithTimeoutCause(context.WithoutCancel(ctx), window, errors.New("the window is over"))
	return h
}

// begin looks at the member, and begins the snapshot. The caller abandons the
// hold if it fails.
func (h *hold) begin(ctx context.Context) error {
	if h.q.atomic() {
		return h.look(ctx)
	}
	select {
	case h.q.turn <- struct{}{}:
		h.ours = true
	case <-ctx.Done():
		return fmt.Errorf("another snapshot is on its way: %w", ctx.Err())
	}
	if err := h.look(ctx); err != nil {
		return err
	}
	var err error
	if h.stream, err = openStream(ctx, h.life, h.q); err != nil {
		return err
	}
	go h.guard()
	// No later than this: the stream has begun.
	now, err := h.q.client.State(ctx)
	if err != nil {
		return err
	}
	h.stream.newest = now.Revision
	if h.q.opts.Whole {
		return h.stream.wait(ctx)
	}
	return nil
}

// look notes the state of a member that is fit.
func (h *hold) look(ctx context.Context) (err error) {
	if h.before, err = h.q.client.State(ctx); err != nil {
		return err
	}
	return errors.Join(h.q.check(h.before)...)
}

// guard discards what is unfinished when the window ends. It ends with the hold.
func (h *hold) guard() {
	<-h.life.Done()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.done {
		h.finish(nil, lost(context.Cause(h.life)))
	}
}

// abandon ends a hold that did not come about.
func (h *hold) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.done {
		h.finish(nil, lost(errors.New("it was abandoned")))
	}
}

// finish ends the hold, with the lock.
func (h *hold) finish(e hooks.Evidence, err error) {
	h.done, h.kept, h.last = true, e, err
	h.end()
	if h.stream != nil {
		h.stream.discard()
	}
	if h.ours {
		<-h.q.turn
	}
}

// lost says that the cut proves nothing.
func lost(err error) error {
	return fmt.Errorf("etcd: %w: %w", hooks.ErrHoldLost, err)
}

// Held implements hooks.Hold: the stream is whole or goes on; or, without one,
// it is the same member, and it is fit.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("etcd: thawed: %w", errors.Join(hooks.ErrHoldLost, h.last))
	}
	if h.life.Err() != nil {
		return lost(context.Cause(h.life)) //nolint:contextcheck // it is why the hold has ended
	}
	if h.stream != nil {
		if err := h.stream.failed(); err != nil {
			return lost(err)
		}
		return nil
	}
	if _, err := h.ask(ctx); err != nil {
		return lost(err)
	}
	return nil
}

// ask compares the member with what it was before the cut.
func (h *hold) ask(ctx context.Context) (*State, error) {
	now, err := h.q.client.State(ctx)
	if err != nil {
		return nil, err
	}
	was := h.before
	switch {
	case now.Cluster != was.Cluster || now.Member != was.Member:
		return nil, fmt.Errorf("it is member %x of cluster %x, not %x of %x", now.Member, now.Cluster, was.Member, was.Cluster)
	case now.Revision < was.Revision:
		return nil, fmt.Errorf("the revision went back from %d to %d", was.Revision, now.Revision)
	case !slices.Equal(now.Members, was.Members):
		return nil, errors.New("the members of the cluster have changed")
	}
	return now, errors.Join(h.q.check(now)...)
}

// Thaw implements hooks.Hold. It waits for the end of the stream, gives the file
// its name, and asks for the hash of what is in it. The evidence is for
// PrepareRestore; see ParseEvidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("etcd: thaw: %w", err) // nothing is tried, and nothing lost
	}
	info, err := h.conclude(ctx)
	var e hooks.Evidence
	if err == nil {
		e, err = info.evidence()
	}
	if err == nil {
		h.finish(e, nil)
		return e, nil
	}
	if h.stream != nil {
		err = errors.Join(err, h.stream.withdraw())
	}
	h.finish(nil, lost(err))
	return nil, h.last
}

// conclude returns what is to be known of the copy.
func (h *hold) conclude(ctx context.Context) (*Info, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.life, func() { cancel(context.Cause(h.life)) })() //nolint:contextcheck // both bound it
	info := &Info{Format: infoFormat, Method: MethodAtomic, Revision: h.before.Revision}
	if h.stream != nil {
		if err := h.stream.publish(ctx, h.before.Revision, info); err != nil {
			return nil, err
		}
	}
	now, err := h.ask(ctx)
	if err != nil {
		return nil, err
	}
	info.describe(now)
	if h.stream == nil {
		info.LastRevision = now.Revision
	}
	if h.q.opts.NoHash {
		return info, context.Cause(ctx)
	}
	hash, err := hashAt(ctx, h.q.client.HashKV, info.Revision)
	if err != nil {
		return nil, fmt.Errorf("hash of revision %d: %w", info.Revision, err)
	}
	info.Hash, info.CompactRevision, info.Hashed = hash.Hash, hash.CompactRevision, true
	return info, context.Cause(ctx)
}

// hashAt returns the hash of all keys up to a revision. Version 3.4 refuses that
// of a revision that is compacted, even if it is the newest, which can be had
// without naming it.
func hashAt(ctx context.Context, hashKV func(context.Context, int64) (*Hash, error), revision int64) (*Hash, error) {
	hash, err := hashKV(ctx, revision)
	if err == nil {
		return hash, nil
	}
	newest, again := hashKV(ctx, 0)
	if again == nil && newest.Revision == revision {
		return newest, nil
	}
	return nil, err
}

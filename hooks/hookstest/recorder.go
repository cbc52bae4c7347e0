// SPDX-License-Identifier: Apache-2.0

package hookstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stillpoint-go/protect/hooks"
)

// Recorder watches quiescers. When the test ends it fails it unless every hold
// was thawed exactly once, in the reverse order of freezing; holds whose
// Quiesce overlapped have no order. It is safe for concurrent use.
type Recorder struct {
	mu    sync.Mutex
	log   []string
	holds []*record
	wrong []string
}

// record is the life of one hold.
type record struct {
	name  string
	begun int  // how many holds were there when its Quiesce was called
	tried bool // a Thaw has returned
	acks  int  // how often the target said that it is thawed
}

// NewRecorder returns an empty recorder that checks itself when tb ends.
func NewRecorder(tb testing.TB) *Recorder {
	r := &Recorder{}
	tb.Cleanup(func() {
		if err := r.Check(); err != nil {
			tb.Errorf("%v; the log is:\n%s", err, r.Log())
		}
	})
	return r
}

// Event appends a line to the log, for instance "cut".
func (r *Recorder) Event(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// Log returns what happened, one line for each call that has returned, like
// "db quiesce" or "db thaw: " and its error.
func (r *Recorder) Log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, line := range r.log {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Check returns what is wrong so far: a hold that is not thawed, was thawed
// twice, or before one that froze after it. A successful Recover counts as the
// thaw of all holds of its quiescer that have none yet.
func (r *Recorder) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, text := range r.wrong {
		errs = append(errs, errors.New(text))
	}
	for _, h := range r.holds {
		if h.acks != 1 {
			errs = append(errs, fmt.Errorf("hookstest: a hold of %q was thawed %d times", h.name, h.acks))
		}
	}
	return errors.Join(errs...)
}

// Wrap returns q, watched under the given name. It implements hooks.Preparer
// and hooks.Recoverer exactly if q does.
func (r *Recorder) Wrap(name string, q hooks.Quiescer) hooks.Quiescer {
	w := &recorded{r: r, name: name, q: q}
	_, prepares := q.(hooks.Preparer)
	_, recovers := q.(hooks.Recoverer)
	switch {
	case prepares && recovers:
		return struct {
			*recorded
			recordedPreparer
			recordedRecoverer
		}{w, recordedPreparer{w}, recordedRecoverer{w}}
	case prepares:
		return struct {
			*recorded
			recordedPreparer
		}{w, recordedPreparer{w}}
	case recovers:
		return struct {
			*recorded
			recordedRecoverer
		}{w, recordedRecoverer{w}}
	}
	return w
}

// returned logs the end of a call, also if it panicked: then done is false.
func (r *Recorder) returned(name string, op Op, err error, done bool) {
	switch {
	case !done:
		r.Event("%s %s: panic", name, op)
	case err != nil:
		r.Event("%s %s: %v", name, op, err)
	default:
		r.Event("%s %s", name, op)
	}
}

type recorded struct {
	r    *Recorder
	name string
	q    hooks.Quiescer
}

func (w *recorded) Traits() hooks.Traits { return w.q.Traits() }

func (w *recorded) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hold hooks.Hold, err error) {
	done := false
	defer func() { w.r.returned(w.name, Quiesce, err, done) }()
	w.r.mu.Lock()
	rec := &record{name: w.name, begun: len(w.r.holds)}
	w.r.mu.Unlock()
	hold, err = w.q.Quiesce(ctx, req)
	done = true
	if hold == nil {
		return nil, err
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.r.holds = append(w.r.holds, rec)
	return &recordedHold{w: w, hold: hold, rec: rec}, err
}

type recordedPreparer struct{ rec *recorded }

// Prepare implements hooks.Preparer.
func (p recordedPreparer) Prepare(ctx context.Context) (err error) {
	done := false
	defer func() { p.rec.r.returned(p.rec.name, Prepare, err, done) }()
	err = p.rec.q.(hooks.Preparer).Prepare(ctx)
	done = true
	return err
}

type recordedRecoverer struct{ rec *recorded }

// Recover implements hooks.Recoverer.
func (p recordedRecoverer) Recover(ctx context.Context, epoch hooks.Epoch) (err error) {
	done := false
	defer func() { p.rec.r.returned(p.rec.name, Recover, err, done) }()
	err = p.rec.q.(hooks.Recoverer).Recover(ctx, epoch)
	done = true
	if err == nil {
		p.rec.r.recovered(p.rec.name)
	}
	return err
}

func (r *Recorder) recovered(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.holds {
		if h.name == name && h.acks == 0 {
			h.tried, h.acks = true, 1
		}
	}
}

type recordedHold struct {
	w    *recorded
	hold hooks.Hold
	rec  *record
}

func (h *recordedHold) Held(ctx context.Context) (err error) {
	done := false
	defer func() { h.w.r.returned(h.w.name, Held, err, done) }()
	err = h.hold.Held(ctx)
	done = true
	return err
}

func (h *recordedHold) Thaw(ctx context.Context) (evidence hooks.Evidence, err error) {
	done := false
	h.w.r.order(h.rec)
	defer func() {
		h.w.r.returned(h.w.name, Thaw, err, done)
		h.w.r.thawed(h.rec, done && (err == nil || errors.Is(err, hooks.ErrHoldLost)))
	}()
	evidence, err = h.hold.Thaw(ctx)
	done = true
	return evidence, err
}

// order checks that whatever froze after rec has had its thaw. Those that froze
// at the same time may thaw at the same time.
func (r *Recorder) order(rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	place := slices.Index(r.holds, rec)
	for _, later := range r.holds[place+1:] {
		if later.begun > place && !later.tried {
			r.wrong = append(r.wrong, fmt.Sprintf("hookstest: %q thaws before %q, which froze after it", rec.name, later.name))
		}
	}
}

func (r *Recorder) thawed(rec *record, acknowledged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.tried = true
	if acknowledged {
		rec.acks++
	}
}

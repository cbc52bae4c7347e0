// SPDX-License-Identifier: Apache-2.0

package callback

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/hooks"
)

const (
	// readTimeout bounds how long a request may take to arrive.
	readTimeout = 10 * time.Second
	// thawTimeout bounds one attempt to thaw at the end of a window, and
	// thawPause the time between two.
	thawTimeout = 10 * time.Second
	thawPause   = time.Second
)

// HandlerOptions are the optional settings of NewHandler.
type HandlerOptions struct {
	// Token must be the bearer token of every request. Empty lets everybody in:
	// then something in front of the handler has to look who it is.
	Token string
	// MaxWindow is the longest window that is accepted. Zero means
	// hooks.MaxWindow.
	MaxWindow time.Duration
	// MinEpoch is the smallest epoch that may freeze, for an application that
	// keeps the largest one that it has thawed, plus one, over restarts.
	MinEpoch hooks.Epoch
	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
}

// Handler serves the protocol for one quiescer. It is safe for concurrent use
// and has one freeze at a time.
type Handler struct {
	q    hooks.Quiescer
	opts HandlerOptions

	turn chan struct{} // holds a token while a request works
	min  hooks.Epoch   // the smallest one that may freeze
	now  *frozen       // the newest freeze, also when it has ended
	shut bool
}

// frozen is one freeze.
type frozen struct {
	id       string
	epoch    hooks.Epoch
	hold     hooks.Hold // nil when it has ended
	end      time.Time
	lease    *time.Timer
	held     bool // how it ended
	evidence hooks.Evidence
}

// NewHandler returns the handler of the application, or of any other quiescer.
// Requests are told apart by the last element of their path.
func NewHandler(q hooks.Quiescer, opts *HandlerOptions) (*Handler, error) {
	if a, ok := q.(Application); q == nil || ok && (a.Freeze == nil || a.Thaw == nil) {
		return nil, errors.New("callback: there is nothing to freeze and to thaw with")
	}
	h := &Handler{q: q, turn: make(chan struct{}, 1)}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.MaxWindow <= 0 {
		h.opts.MaxWindow = hooks.MaxWindow
	}
	if h.opts.Logger == nil {
		h.opts.Logger = hclog.NewNullLogger()
	}
	h.min = h.opts.MinEpoch
	return h, nil
}

// refusal is an error with a status of its own.
type refusal struct {
	status     int
	code, text string
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := h.serve(w, r)
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		answer = &reply{Message: err.Error()}
		if refused, ok := errors.AsType[*refusal](err); ok {
			status, answer.Error = refused.status, refused.code
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Who does not get the reply asks again, or recovers.
	_ = json.NewEncoder(w).Encode(answer)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (*reply, error) {
	if r.Method != http.MethodPost {
		return nil, &refusal{http.StatusMethodNotAllowed, "", "only POST is allowed"}
	}
	if !h.mayAsk(r) {
		return nil, &refusal{http.StatusUnauthorized, "", "the token is not the right one"}
	}
	req, err := readRequest(w, r)
	if err != nil {
		return nil, err
	}
	return h.act(r.Context(), path.Base(r.URL.Path), req)
}

// readRequest reads a request that must be short and must not take long.
func readRequest(w http.ResponseWriter, r *http.Request) (request, error) {
	var req request
	// Not every writer can do that; what is in front of it has timeouts then.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(readTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	_ = conn.SetReadDeadline(time.Time{}) // the work may take longer
	if err == nil {
		err = json.Unmarshal(b, &req)
	}
	if err != nil || req.Epoch > math.MaxInt64 {
		return req, &refusal{http.StatusBadRequest, "", "the request cannot be read"}
	}
	return req, nil
}

// act does what is asked for.
func (h *Handler) act(ctx context.Context, what string, req request) (*reply, error) {
	arrived := time.Now()
	if what == "prepare" {
		// It may take its time, which a freeze has not.
		if p, ok := h.q.(hooks.Preparer); ok {
			return &reply{}, p.Prepare(ctx)
		}
		return &reply{}, nil
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch what {
	case "freeze":
		return h.freeze(ctx, arrived, req)
	case "held":
		return h.ask(ctx, req), nil
	case "thaw":
		return h.thaw(ctx, req)
	case "recover":
		return &reply{}, h.recover(ctx, req.Epoch)
	}
	return nil, &refusal{http.StatusNotFound, "", "there is no such request"}
}

// mayAsk compares tokens without telling how much of one is right.
func (h *Handler) mayAsk(r *http.Request) bool {
	if h.opts.Token == "" {
		return true
	}
	got, want := sha256.Sum256([]byte(r.Header.Get("Authorization"))), sha256.Sum256([]byte("Bearer "+h.opts.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// freeze freezes, or finds that this very freeze is in force.
func (h *Handler) freeze(ctx context.Context, arrived time.Time, req request) (*reply, error) {
	window := time.Duration(req.Window) * time.Millisecond
	switch {
	case h.shut:
		return nil, &refusal{http.StatusServiceUnavailable, "", "the handler is closed"}
	case req.Epoch == 0 || req.Window <= 0 || req.Window > h.opts.MaxWindow.Milliseconds():
		return nil, &refusal{http.StatusBadRequest, "", "the epoch is missing, or the window is none that is accepted"}
	case req.Epoch < h.min:
		return nil, &refusal{http.StatusConflict, refusedStale, "the epoch is stale"}
	case h.now != nil && h.now.hold != nil && h.now.epoch == req.Epoch:
		return &reply{Freeze: h.now.id}, nil
	case h.now != nil && h.now.hold != nil:
		return nil, &refusal{http.StatusConflict, refusedForeign, "another freeze is in force"}
	}
	end := arrived.Add(window)
	short, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	hold, err := h.q.Quiesce(short, hooks.FreezeRequest{Epoch: req.Epoch, Window: time.Until(end)})
	switch {
	case errors.Is(err, hooks.ErrForeignFreeze):
		return nil, &refusal{http.StatusConflict, refusedForeign, err.Error()}
	case err != nil:
		if r, ok := h.q.(hooks.Recoverer); ok {
			err = errors.Join(err, r.Recover(context.WithoutCancel(ctx), req.Epoch))
		}
		return nil, err
	}
	f := &frozen{id: rand.Text(), epoch: req.Epoch, hold: hold, end: end}
	h.now = f
	detached := context.WithoutCancel(ctx)
	f.lease = time.AfterFunc(time.Until(end), func() { h.expire(detached, f) })
	if ctx.Err() != nil {
		// Nobody waits for the reply any more.
		return nil, errors.Join(ctx.Err(), h.end(detached, f, false))
	}
	return &reply{Freeze: f.id}, nil
}

// expire thaws when the window is over, whatever it takes.
func (h *Handler) expire(ctx context.Context, f *frozen) {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	if f.hold == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, thawTimeout)
	defer cancel()
	if err := h.end(ctx, f, false); err != nil {
		h.opts.Logger.Error("the window is over, and the thaw failed; it is tried again", "epoch", f.epoch, "error", err)
		f.lease.Reset(thawPause)
		return
	}
	h.opts.Logger.Warn("thawed because the window is over", "epoch", f.epoch)
}

// end thaws. A freeze of its epoch will not come again.
func (h *Handler) end(ctx context.Context, f *frozen, inTime bool) error {
	held := inTime && time.Now().Before(f.end) && f.hold.Held(ctx) == nil
	evidence, err := f.hold.Thaw(ctx)
	if err != nil && !errors.Is(err, hooks.ErrHoldLost) {
		return err
	}
	f.lease.Stop()
	f.hold, f.held = nil, held && err == nil
	if f.held {
		f.evidence = evidence
	}
	h.min = max(h.min, f.epoch+1)
	return nil
}

// is says whether a request is about the newest freeze.
func (h *Handler) is(req request) bool {
	return h.now != nil && h.now.epoch == req.Epoch && h.now.id == req.Freeze
}

// ask says whether a freeze holds.
func (h *Handler) ask(ctx context.Context, req request) *reply {
	f := h.now
	if !h.is(req) || f.hold == nil || !time.Now().Before(f.end) {
		return &reply{}
	}
	// The end of the window must not wait for the answer.
	ctx, cancel := context.WithDeadline(ctx, f.end)
	defer cancel()
	return &reply{Held: f.hold.Held(ctx) == nil}
}

// thaw ends a freeze, if it is in force, and says how it ended.
func (h *Handler) thaw(ctx context.Context, req request) (*reply, error) {
	h.min = max(h.min, req.Epoch+1)
	f := h.now
	if !h.is(req) {
		return &reply{}, nil // one that this process does not know
	}
	if f.hold != nil {
		// What has begun is not left half done.
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
		defer cancel()
		if err := h.end(detached, f, true); err != nil {
			return nil, fmt.Errorf("thaw: %w", err)
		}
	}
	return &reply{Held: f.held, Evidence: f.evidence}, nil
}

// recover ends whatever is frozen under the epoch or before.
func (h *Handler) recover(ctx context.Context, epoch hooks.Epoch) error {
	h.min = max(h.min, epoch+1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	if f := h.now; f != nil && f.hold != nil {
		if f.epoch > epoch {
			return nil
		}
		if err := h.end(ctx, f, false); err != nil {
			return err
		}
	}
	if r, ok := h.q.(hooks.Recoverer); ok {
		return r.Recover(ctx, epoch)
	}
	return nil
}

// Close thaws what is frozen and refuses to freeze from now on. Call it before
// the application ends.
func (h *Handler) Close(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return fmt.Errorf("callback: close: %w", ctx.Err())
	}
	h.shut = true
	if f := h.now; f != nil && f.hold != nil {
		if err := h.end(ctx, f, false); err != nil {
			return fmt.Errorf("callback: close: %w", err)
		}
	}
	return nil
}

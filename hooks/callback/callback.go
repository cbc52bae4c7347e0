// SPDX-License-Identifier: Apache-2.0

// Package callback freezes an application that offers an endpoint for it, over
// HTTP: [New] is the quiescer, [NewHandler] the endpoint, for applications
// written in Go. Any other application implements the few rules below.
//
// An application that can stop its own writes needs this:
//
//	h, err := callback.NewHandler(callback.Application{
//		Freeze: func(ctx context.Context) error { return shop.StopWrites(ctx) },
//		Thaw:   func(ctx context.Context) (hooks.Evidence, error) { return nil, shop.ResumeWrites(ctx) },
//	}, &callback.HandlerOptions{Token: token})
//	…
//	mux.Handle("POST /protect/", h)
//	defer h.Close(ctx)
//
// and the other side
//
//	q, err := callback.New("https://shop.internal/protect", nil, &callback.Options{Token: token})
//
// The handler also serves any other hooks.Quiescer, for a freeze that has to be
// made on another machine or in another container.
//
// # The protocol
//
// All requests are POST, with a JSON object of at most 4 KiB, to a path below
// the URL; all replies are JSON objects. A number that identifies the freeze,
// the epoch, is in all but the first; it grows.
//
//		prepare  {}                             {}
//		freeze   {"epoch": 7, "window_ms": 9000} {"freeze": "some text"}
//		held     {"epoch": 7, "freeze": "…"}     {"held": true}
//		thaw     {"epoch": 7, "freeze": "…"}     {"held": true, "evidence": {"name": "base64"}}
//		recover  {"epoch": 7}                    {}
//
//	  - freeze returns once writes are blocked. The text is another one for every
//	    freeze, also over restarts; the same epoch again, while it is frozen, gets
//	    the same text and no longer window.
//	  - The application itself thaws when the window is over, counted from the
//	    arrival of the request, whoever asks or does not.
//	  - held says whether this very freeze has lasted without a gap. After a
//	    restart, or for a text that is not known, it has not.
//	  - thaw ends that very freeze and no other, and says whether it had lasted
//	    until then; again is fine, with the same reply.
//	  - recover ends whatever is frozen under that epoch or a smaller one.
//	  - A freeze under an epoch that was thawed or recovered, or a smaller one, is
//	    stale: {"error": "stale"}, status 409. One while another is in force is
//	    {"error": "foreign"}, status 409. Anything else that fails has another
//	    status than 200 and may have a "message".
//
// The reply of thaw has at most 64 KiB, and evidence is limited further by
// hooks.MaxEvidence. Redirects are not followed.
//
// # Who may ask
//
// Who can freeze an application can stop it: use a Token, or what the
// *http.Client adds, and TLS. Neither the token nor the URL is in any error.
//
// # Limits
//
// The handler remembers epochs as long as it lives. An application that restarts
// often, behind a network that delivers requests late, keeps the largest epoch
// it has thawed and sets HandlerOptions.MinEpoch; without it a freeze that comes
// late blocks writes for its window. A proof of an [Application] is worth what
// its functions are: that nobody but the handler calls them.
package callback

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// ErrStale reports a freeze that came late: the application has already thawed
// one of its epoch, or of a later one.
var ErrStale = errors.New("callback: stale epoch")

// Options are the optional settings of New.
type Options struct {
	// Token is sent as a bearer token. Empty sends none.
	Token string
}

// Quiescer freezes the application behind a URL. It is safe for concurrent use.
type Quiescer struct {
	client http.Client
	base   string
	token  string
}

var (
	_ hooks.Quiescer  = (*Quiescer)(nil)
	_ hooks.Preparer  = (*Quiescer)(nil)
	_ hooks.Recoverer = (*Quiescer)(nil)
)

// New returns a quiescer for the application that serves the protocol below
// base, an http or https URL without user, query and fragment. client is used
// for its transport, cookies and timeout; nil is a plain one.
func New(base string, client *http.Client, opts *Options) (*Quiescer, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// Not even quoted: what does not belong there may be a secret.
		return nil, errors.New("callback: the URL is not http or https with a host and a path, and nothing else")
	}
	q := &Quiescer{base: strings.TrimSuffix(u.String(), "/") + "/"}
	if client != nil {
		q.client = *client
	}
	q.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if opts != nil {
		q.token = opts.Token
	}
	return q, nil
}

// Traits implements hooks.Quiescer. That the application thaws by itself is its
// promise and not ours, so that a journal is asked for.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Persistent, Scope: hooks.Application}
}

// Prepare implements hooks.Preparer: the application is reachable and lets us
// in. Its error matches fs.ErrPermission if not.
func (q *Quiescer) Prepare(ctx context.Context) error {
	if _, err := q.call(ctx, "prepare", request{}); err != nil {
		return fmt.Errorf("callback: prepare: %w", err)
	}
	return nil
}

// Quiesce implements hooks.Quiescer. The error matches ErrStale for an epoch
// that the application has thawed.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	if req.Window <= 0 {
		req.Window = hooks.DefaultWindow
	}
	end := time.Now().Add(req.Window)
	r, err := q.call(ctx, "freeze", request{Epoch: req.Epoch, Window: max(1, req.Window.Milliseconds())})
	if err != nil {
		return nil, fmt.Errorf("callback: freeze: %w", err)
	}
	if r.Freeze == "" {
		return nil, errors.New("callback: freeze: the reply does not identify the freeze")
	}
	return &hold{q: q, end: end, which: request{Epoch: req.Epoch, Freeze: r.Freeze}}, nil
}

// Recover implements hooks.Recoverer.
func (q *Quiescer) Recover(ctx context.Context, epoch hooks.Epoch) error {
	if _, err := q.call(ctx, "recover", request{Epoch: epoch}); err != nil {
		return fmt.Errorf("callback: recover: %w", err)
	}
	return nil
}

// hold is a freeze of the application.
type hold struct {
	q     *Quiescer
	end   time.Time // of the window
	which request

	mu   sync.Mutex
	done bool
	kept hooks.Evidence
	last error
}

// Held implements hooks.Hold.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("callback: thawed: %w", hooks.ErrHoldLost)
	}
	r, err := h.q.call(ctx, "held", h.which)
	switch {
	case err != nil:
		return fmt.Errorf("callback: %w: %w", hooks.ErrHoldLost, err)
	case !r.Held:
		return fmt.Errorf("callback: %w: says the application", hooks.ErrHoldLost)
	case time.Until(h.end) <= 0:
		return fmt.Errorf("callback: %w: the window is over", hooks.ErrHoldLost)
	}
	return nil
}

// Thaw implements hooks.Hold.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	r, err := h.q.call(ctx, "thaw", h.which)
	if err != nil {
		return nil, fmt.Errorf("callback: thaw: %w", err)
	}
	h.done = true
	if r.Held {
		h.kept = r.Evidence
	} else {
		h.last = fmt.Errorf("callback: thaw: %w: says the application", hooks.ErrHoldLost)
	}
	return h.kept, h.last
}

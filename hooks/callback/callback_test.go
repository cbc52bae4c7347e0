// SPDX-License-Identifier: Apache-2.0

package callback_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/callback"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

const token = "correct-horse-battery"

// serve runs a handler on a port of its own.
func serve(t *testing.T, q hooks.Quiescer) *httptest.Server {
	t.Helper()
	h, err := callback.NewHandler(q, &callback.HandlerOptions{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		if err := h.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// connect returns a quiescer for a URL.
func connect(t *testing.T, url string, client *http.Client) *callback.Quiescer {
	t.Helper()
	q, err := callback.New(url, client, &callback.Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// shop is an application that can be frozen.
type shop struct{ frozen atomic.Bool }

func (s *shop) application() callback.Application {
	return callback.Application{
		Freeze: func(context.Context) error {
			if !s.frozen.CompareAndSwap(false, true) {
				return errors.New("frozen twice")
			}
			return nil
		},
		Thaw: func(context.Context) (hooks.Evidence, error) {
			if !s.frozen.CompareAndSwap(true, false) {
				return nil, errors.New("thawed twice")
			}
			return hooks.Evidence{"orders": []byte("17")}, nil
		},
	}
}

func (s *shop) isFrozen(context.Context) (bool, error) { return s.frozen.Load(), nil }

func TestConformanceApplication(t *testing.T) {
	hookstest.Run(t, func(t *testing.T) hookstest.Harness {
		s := new(shop)
		return hookstest.Harness{Quiescer: connect(t, serve(t, s.application()).URL, nil), Frozen: s.isFrozen, SelfThaws: true}
	})
}

func TestConformanceQuiescer(t *testing.T) {
	for name, traits := range map[string]hooks.Traits{"session": {Release: hooks.Session}, "persistent": {}} {
		t.Run(name, func(t *testing.T) {
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				target := new(hookstest.Target)
				q := hookstest.Scripted(target, &hookstest.ScriptedOptions{Traits: traits})
				return hookstest.Harness{
					Quiescer: connect(t, serve(t, q).URL+"/protect/", nil), Frozen: target.Frozen, SelfThaws: true,
					Lose: func(context.Context) error { target.Lose(); return nil },
				}
			})
		})
	}
}

func TestConformanceTLS(t *testing.T) {
	hookstest.Run(t, func(t *testing.T) hookstest.Harness {
		s := new(shop)
		h, err := callback.NewHandler(s.application(), &callback.HandlerOptions{Token: token})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewTLSServer(h)
		t.Cleanup(server.Close)
		if err := connect(t, server.URL, nil).Prepare(t.Context()); err == nil {
			t.Error("a certificate that nobody knows was accepted")
		}
		return hookstest.Harness{Quiescer: connect(t, server.URL, server.Client()), Frozen: s.isFrozen, SelfThaws: true}
	})
}

// roundTrip is a transport that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestConformanceDuplicates sends every request twice, and again some time
// later.
func TestConformanceDuplicates(t *testing.T) {
	hookstest.Run(t, func(t *testing.T) hookstest.Harness {
		s := new(shop)
		server := serve(t, s.application())
		resend := func(r *http.Request) {
			again := r.Clone(context.WithoutCancel(r.Context()))
			again.Body, _ = r.GetBody()
			if resp, err := http.DefaultTransport.RoundTrip(again); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		q := connect(t, server.URL, &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if err := r.Context().Err(); err != nil {
				return nil, err
			}
			resend(r)
			resp, err := http.DefaultTransport.RoundTrip(r)
			if !strings.HasSuffix(r.URL.Path, "held") {
				timer := time.AfterFunc(30*time.Millisecond, func() { resend(r) })
				t.Cleanup(func() { timer.Stop() })
			}
			return resp, err
		})})
		return hookstest.Harness{Quiescer: q, Frozen: s.isFrozen, SelfThaws: true}
	})
}

// TestLostReplies lets the application do what is asked for, and loses the
// reply.
func TestLostReplies(t *testing.T) {
	for _, what := range []string{"prepare", "freeze", "held", "thaw", "recover"} {
		t.Run(what, func(t *testing.T) {
			s := new(shop)
			server := serve(t, s.application())
			lose := true
			q := connect(t, server.URL, &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := http.DefaultTransport.RoundTrip(r)
				if err == nil && lose && strings.HasSuffix(r.URL.Path, what) {
					lose = false
					_ = resp.Body.Close()
					return nil, io.ErrUnexpectedEOF
				}
				return resp, err
			})})
			g, err := hooks.NewGroup("shop", []hooks.Member{{Name: "shop", Quiescer: q}}, &hooks.GroupOptions{Journal: hooks.NewMemJournal()})
			if err != nil {
				t.Fatal(err)
			}
			if what == "recover" {
				if err := q.Recover(t.Context(), 1); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("Recover: %v", err)
				}
				return
			}
			prepared := g.Prepare(t.Context())
			report, err := g.Do(t.Context(), "id", func(context.Context) error { return nil })
			if failed := prepared != nil || err != nil; failed != (what == "prepare" || what == "freeze") {
				t.Errorf("Prepare %v, Do %v", prepared, err)
			}
			if proven := report.Proven(); proven != (what == "prepare" || what == "thaw") {
				t.Errorf("proven: %t, %q", proven, report.Doubts())
			}
			if what == "thaw" && string(report.Evidence["shop"]["orders"]) != "17" {
				t.Errorf("evidence %q", report.Evidence)
			}
			if s.frozen.Load() {
				t.Error("the application is frozen")
			}
		})
	}
}

// TestRestart restarts the application during the hold.
func TestRestart(t *testing.T) {
	var current atomic.Pointer[callback.Handler]
	s := new(shop)
	start := func() {
		s.frozen.Store(false)
		h, err := callback.NewHandler(s.application(), nil)
		if err != nil {
			t.Fatal(err)
		}
		current.Store(h)
	}
	start()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { current.Load().ServeHTTP(w, r) }))
	defer server.Close()
	q := connect(t, server.URL, nil)
	freeze := func() hooks.Hold {
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return hold
	}
	hold := freeze()
	start()
	second := freeze() // a late request of the same epoch, which the new process cannot know
	for range 2 {
		if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
			t.Errorf("Held: %v", err)
		}
		if _, err := hold.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
			t.Errorf("Thaw: %v", err)
		}
		if !s.frozen.Load() {
			t.Error("the thaw of another freeze has thawed this one")
		}
	}
	if _, err := second.Thaw(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 7, Window: time.Minute}); !errors.Is(err, callback.ErrStale) {
		t.Errorf("Quiesce under a thawed epoch: %v", err)
	}
	if err := current.Load().Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 8, Window: time.Minute}); err == nil || s.frozen.Load() {
		t.Errorf("Quiesce of a closed handler: %v", err)
	}
}

// TestReplies answers in ways that no application should.
func TestReplies(t *testing.T) {
	slow := make(chan struct{})
	t.Cleanup(func() { close(slow) })
	tests := map[string]struct {
		answer http.HandlerFunc
		want   error
		says   string
	}{
		"unauthorized": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, fs.ErrPermission, "401"},
		"forbidden":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, fs.ErrPermission, "403"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
		}, nil, "307"},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, nil, "no reply"},
		"no text":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, nil, "identify"},
		"too long": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 1<<20)) }, nil, "more than 65536"},
		"stale":    {conflict("stale"), callback.ErrStale, ""},
		"foreign":  {conflict("foreign"), hooks.ErrForeignFreeze, ""},
		"message":  {conflict(`x","message":"\u001b[2Jfull disk`), nil, `\x1b[2Jfull disk`},
		"slow body": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"freeze":`)
			_ = http.NewResponseController(w).Flush()
			<-slow
		}, context.DeadlineExceeded, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.answer)
			t.Cleanup(server.CloseClientConnections)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			hold, err := connect(t, server.URL, nil).Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if hold != nil || err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %v with %q", err, tt.want, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), server.URL)) {
				t.Errorf("the error tells secrets: %v", err)
			}
		})
	}
}

func conflict(code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"error":"`+code+`"}`)
	}
}

// TestRequests asks in ways that nobody should.
func TestRequests(t *testing.T) {
	s := new(shop)
	server := serve(t, s.application())
	for name, tt := range map[string]struct {
		method, path, token, body string
		want                      int
	}{
		"GET":            {http.MethodGet, "/freeze", token, `{"epoch":1,"window_ms":1000}`, 405},
		"no token":       {http.MethodPost, "/freeze", "", `{"epoch":1,"window_ms":1000}`, 401},
		"another token":  {http.MethodPost, "/freeze", token + "x", `{"epoch":1,"window_ms":1000}`, 401},
		"too long":       {http.MethodPost, "/freeze", token, `{"epoch":1,"window_ms":1000` + strings.Repeat(" ", 5000) + `}`, 400},
		"no JSON":        {http.MethodPost, "/freeze", token, `epoch=1`, 400},
		"no epoch":       {http.MethodPost, "/freeze", token, `{"window_ms":1000}`, 400},
		"no window":      {http.MethodPost, "/freeze", token, `{"epoch":1}`, 400},
		"long window":    {http.MethodPost, "/freeze", token, `{"epoch":1,"window_ms":60001}`, 400},
		"last epoch":     {http.MethodPost, "/recover", token, `{"epoch":18446744073709551615}`, 400},
		"unknown":        {http.MethodPost, "/explode", token, `{}`, 404},
		"unknown freeze": {http.MethodPost, "/thaw", token, `{"epoch":1,"freeze":"x"}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+tt.token)
			resp, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.want || strings.Contains(string(b), token) {
				t.Errorf("status %d, want %d: %s, %v", resp.StatusCode, tt.want, b, err)
			}
			if s.frozen.Load() {
				t.Error("the application is frozen")
			}
		})
	}
}

// TestGone lets the client go away while the application freezes.
func TestGone(t *testing.T) {
	s := new(shop)
	app := s.application()
	began, goOn := make(chan struct{}), make(chan struct{})
	freeze := app.Freeze
	app.Freeze = func(ctx context.Context) error {
		close(began)
		<-goOn // deaf to ctx
		return freeze(ctx)
	}
	q := connect(t, serve(t, app).URL, nil)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := q.Quiesce(ctx, hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
		failed <- err
	}()
	<-began
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Quiesce: %v", err)
	}
	close(goOn)
	if err := q.Recover(t.Context(), 1); err != nil || s.frozen.Load() {
		t.Errorf("Recover: %v, frozen %t", err, s.frozen.Load())
	}
}

// TestLeaseRetries fails to thaw at the end of the window, at first.
func TestLeaseRetries(t *testing.T) {
	s := new(shop)
	app := s.application()
	thaw, failures := app.Thaw, 1
	app.Thaw = func(ctx context.Context) (hooks.Evidence, error) {
		if failures > 0 {
			failures--
			return nil, errors.New("not now")
		}
		return thaw(ctx)
	}
	q := connect(t, serve(t, app).URL, nil)
	if _, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); s.frozen.Load(); {
		if time.Now().After(deadline) {
			t.Fatal("the application is frozen")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestNew(t *testing.T) {
	for _, url := range []string{"", "ftp://x/", "http://", "http://user:hunter2@x/", "http://x/?key=hunter2", "http://x/#hunter2", "http://x:hunter2/"} {
		if _, err := callback.New(url, nil, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for name, q := range map[string]hooks.Quiescer{"nil": nil, "half": callback.Application{Freeze: func(context.Context) error { return nil }}} {
		if _, err := callback.NewHandler(q, nil); err == nil {
			t.Errorf("NewHandler: %s: no error", name)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build unix

package watchdog_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/internal/watchdog"
)

// helper is a Serve in this process.
type helper struct {
	in      *io.PipeWriter
	replies *bufio.Scanner
	code    chan int
}

func serve(t *testing.T) *helper {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	h := &helper{in: inW, replies: bufio.NewScanner(outR), code: make(chan int, 1)}
	go func() {
		h.code <- watchdog.Serve(t.Context(), inR, outW)
		_ = outW.Close()
	}()
	t.Cleanup(func() { _ = inW.Close(); _ = outR.Close() })
	return h
}

// say sends a line and returns the next reply.
func (h *helper) say(t *testing.T, line string) string {
	t.Helper()
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
	return h.reply()
}

func (h *helper) reply() string {
	if !h.replies.Scan() {
		return "end"
	}
	return h.replies.Text()
}

func (h *helper) exit(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-h.code:
		if code != want {
			t.Errorf("exit code %d, want %d", code, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the helper does not end")
	}
}

// arm is a request to arm with programs that make and remove a file.
func arm(path, freeze string, window time.Duration) string {
	return fmt.Sprintf(`{"id":1,"op":"arm","spec":{"version":2,"window":%d,"freeze":["/bin/sh","-c",%q],"thaw":["/bin/rm","-f",%q],"timeout":5000000000,"max_output":100}}`,
		window, freeze, path)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frozen")
	freeze := ": >" + path + "; echo -n pos"
	t.Run("thaw when asked", func(t *testing.T) {
		h := serve(t)
		if got := h.say(t, arm(path, freeze, time.Minute)); got != `{"id":1}` || exists(path) {
			t.Fatalf("armed: %s", got)
		}
		if got := h.say(t, `{"id":2,"op":"freeze"}`); got != `{"id":2,"output":{"freeze":"cG9z"}}` || !exists(path) {
			t.Fatalf("frozen: %s", got)
		}
		if got := h.say(t, `{"id":3,"op":"held"}`); got != `{"id":3}` {
			t.Errorf("held: %s", got)
		}
		if got := h.say(t, `{"id":4,"op":"thaw"}`); got != `{"id":4,"final":true}` || exists(path) {
			t.Errorf("thawed: %s", got)
		}
		h.exit(t, 0)
	})
	t.Run("thaw at the end of the input", func(t *testing.T) {
		h := serve(t)
		h.say(t, arm(path, freeze, time.Minute))
		h.say(t, `{"id":2,"op":"freeze"}`)
		_ = h.in.Close()
		if got := h.reply(); !strings.Contains(got, `"code":"lost"`) || exists(path) {
			t.Errorf("last word: %s", got)
		}
		h.exit(t, 0)
	})
	t.Run("thaw at the end of the window", func(t *testing.T) {
		h := serve(t)
		h.say(t, arm(path, freeze, 100*time.Millisecond))
		h.say(t, `{"id":2,"op":"freeze"}`)
		if got := h.reply(); !strings.Contains(got, "the window ended") || exists(path) {
			t.Errorf("last word: %s", got)
		}
		h.exit(t, 0)
	})
	t.Run("thaw on garbage", func(t *testing.T) {
		h := serve(t)
		h.say(t, arm(path, freeze, time.Minute))
		h.say(t, `{"id":2,"op":"freeze"}`)
		if got := h.say(t, "garbage"); !strings.Contains(got, `"code":"lost"`) || exists(path) {
			t.Errorf("last word: %s", got)
		}
		h.exit(t, 0)
	})
	t.Run("window ends while freezing", func(t *testing.T) {
		h := serve(t)
		h.say(t, arm(path, freeze+"; sleep 60", 100*time.Millisecond))
		if got := h.say(t, `{"id":2,"op":"freeze"}`); !strings.Contains(got, `"final":true,"code":"failed"`) || exists(path) {
			t.Errorf("last word: %s", got)
		}
		h.exit(t, 0)
	})
	t.Run("parent dies while freezing", func(t *testing.T) {
		h := serve(t)
		h.say(t, arm(path, freeze+"; sleep 60", time.Minute))
		if _, err := io.WriteString(h.in, `{"id":2,"op":"freeze"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); !exists(path) && time.Now().Before(deadline); {
			<-time.After(time.Millisecond)
		}
		_ = h.in.Close()
		if got := h.reply(); !strings.Contains(got, `"final":true`) || exists(path) {
			t.Errorf("last word: %s", got)
		}
		h.exit(t, 0)
	})
}

// TestServeRefuses ends without touching a target.
func TestServeRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frozen")
	good := arm(path, ": >"+path, time.Minute)
	tests := map[string]struct {
		line string
		code int
	}{
		"garbage":       {"hello", 2},
		"not armed":     {`{"id":1,"op":"freeze"}`, 2},
		"no spec":       {`{"id":1,"op":"arm"}`, 2},
		"other version": {strings.Replace(good, `"version":2`, `"version":1`, 1), 2},
		"no window":     {strings.Replace(good, `"window":60000000000`, `"window":0`, 1), 2},
		"no thaw":       {strings.Replace(good, `"thaw":["/bin/rm","-f",`, `"x":[`, 1), 2},
		"no mount":      {`{"id":1,"op":"arm","spec":{"version":2,"window":1,"path":"/no/such/dir"}}`, 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := serve(t)
			if got := h.say(t, test.line); !strings.Contains(got, `"final":true,"code":`) {
				t.Errorf("reply %s", got)
			}
			h.exit(t, test.code)
			if exists(path) {
				t.Error("it froze")
			}
		})
	}
	t.Run("parent dies before the freeze", func(t *testing.T) {
		h := serve(t)
		h.say(t, good)
		_ = h.in.Close()
		h.reply()
		h.exit(t, 0)
		if exists(path) {
			t.Error("it froze")
		}
	})
}

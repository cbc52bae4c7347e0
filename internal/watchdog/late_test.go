// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a target whose freeze cannot be interrupted, like a file system's,
// and whose thaw fails a few times.
type slow struct {
	takes  time.Duration
	fails  int
	frozen bool
	thawed time.Time
}

func (s *slow) freeze(context.Context) error {
	<-time.After(s.takes)
	s.frozen = true
	return nil
}

func (s *slow) undo() bool { return false }

func (s *slow) held() error { return nil }

func (s *slow) thaw(context.Context) error {
	if s.fails > 0 {
		s.fails--
		return errors.New("not now")
	}
	s.frozen, s.thawed = false, time.Now()
	return nil
}

func (s *slow) output() map[string][]byte { return nil }
func (s *slow) close(bool)                {}

// TestFreezeThatCannotBeInterrupted is thawed the moment it is complete, if
// the window has ended or the parent has died meanwhile.
func TestFreezeThatCannotBeInterrupted(t *testing.T) {
	tests := map[string]struct {
		target  slow
		parent  time.Duration // when it dies
		thawed  time.Duration
		code    int
		message string
	}{
		"window ends while freezing": {slow{takes: 5 * time.Second}, time.Hour, 5 * time.Second, 0, "the window ended while freezing"},
		"parent dies while freezing": {slow{takes: time.Second}, 500 * time.Millisecond, time.Second, 0, "the parent gave up"},
		"window ends":                {slow{takes: time.Second}, time.Hour, 2 * time.Second, 0, "the window ended"},
		"parent dies":                {slow{takes: time.Second}, 1500 * time.Millisecond, 1500 * time.Millisecond, 0, "the parent is gone"},
		"thaw fails twice":           {slow{fails: 2}, time.Hour, 2*time.Second + 60*time.Millisecond, 0, "the window ended"},
		"thaw never works":           {slow{fails: 1 << 30}, time.Hour, 0, 1, "the target may be frozen"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, parent := io.Pipe()
				var out strings.Builder
				s := &server{out: &out, requests: make(chan request), target: &test.target}
				go s.read(in)
				go func() {
					<-time.After(test.parent)
					_ = parent.Close()
				}()
				began := time.Now()
				if code := s.freeze(t.Context(), 1, 2*time.Second); code != test.code {
					t.Errorf("exit code %d, want %d", code, test.code)
				}
				if test.code == 0 && (test.target.frozen || test.target.thawed.Sub(began) != test.thawed) {
					t.Errorf("frozen: %t, thawed after %v, want %v", test.target.frozen, test.target.thawed.Sub(began), test.thawed)
				}
				if !strings.Contains(out.String(), test.message) {
					t.Errorf("the helper says %s, want %q", out.String(), test.message)
				}
				<-time.After(time.Hour) // the reader ends with the parent
			})
		})
	}
}

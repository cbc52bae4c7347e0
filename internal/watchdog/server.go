// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// armTimeout is how long the helper waits to be armed and then to be told
	// to freeze: a parent that hangs in between must not leave it behind.
	armTimeout = time.Minute
	// thawPatience is how long a thaw that fails is repeated.
	thawPatience = time.Minute
	firstPause   = 20 * time.Millisecond
	maxPause     = time.Second
)

// target is what the helper freezes.
type target interface {
	// freeze blocks writes. When ctx ends it gives up as soon as it can.
	freeze(ctx context.Context) error
	// undo says whether the target may be frozen although freeze failed.
	undo() bool
	// held checks that the freeze is in force. After an error, and only then,
	// it may have been renewed.
	held() error
	// thaw ends the freeze. ErrNotFrozen says that it had ended before.
	thaw(ctx context.Context) error
	// output returns what programs wrote, by phase.
	output() map[string][]byte
	// close lets go of the target and, if it is known to be thawed, of its
	// lock.
	close(thawed bool)
}

// server is one life of the helper.
type server struct {
	out      io.Writer
	requests chan request // closed when the parent is gone
	target   target
	doubt    bool // whether the target is thawed
}

// Serve is the helper. It returns the exit code of the process: 0 if the
// target is thawed or was never frozen, 1 if it may be frozen, 2 if it was
// called by something that is not a parent. The reader of in lives as long as
// the process.
func Serve(ctx context.Context, in io.Reader, out io.Writer) int {
	s := &server{out: out, requests: make(chan request)}
	go s.read(in)

	arm, ok := s.next(armTimeout)
	if !ok || arm.Op != opArm || arm.Spec == nil {
		s.say(reply{ID: arm.ID, Final: true, Code: "failed", Text: "expected to be armed"})
		return 2
	}
	spec := *arm.Spec
	var err error
	if spec.Version != protocolVersion {
		err = fmt.Errorf("parent speaks version %d, watchdog %d", spec.Version, protocolVersion)
	} else if spec.Window <= 0 {
		err = fmt.Errorf("window %v", spec.Window)
	} else {
		s.target, err = open(spec)
	}
	if err != nil {
		r := reply{ID: arm.ID, Final: true}
		r.setError(err)
		s.say(r)
		return 2
	}
	s.say(reply{ID: arm.ID})

	req, ok := s.next(armTimeout)
	if !ok || req.Op != opFreeze {
		s.say(reply{ID: req.ID, Final: true}) // nothing is frozen
		return 0
	}
	return s.freeze(ctx, req.ID, spec.Window)
}

// read passes requests on. Garbage counts as the end of the parent.
func (s *server) read(in io.Reader) {
	defer close(s.requests)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return
		}
		s.requests <- req
	}
}

// next waits for a request.
func (s *server) next(limit time.Duration) (request, bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case req, ok := <-s.requests:
		return req, ok
	case <-timer.C:
		return request{}, false
	}
}

// say sends a reply. A parent that cannot hear it is gone, and the end of the
// input tells so. Before the last word the target is let go, so that the parent
// can unmount it or freeze it again.
func (s *server) say(r reply) {
	if r.Final && s.target != nil {
		s.target.close(!s.doubt)
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, _ = s.out.Write(append(line, '\n'))
	}
}

// freeze freezes and holds. The window counts from here, because writes may be
// blocked long before the freeze is complete.
func (s *server) freeze(ctx context.Context, id int, window time.Duration) int {
	deadline := time.NewTimer(window)
	defer deadline.Stop()
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- s.target.freeze(fctx) }()

	var err error
	early := "" // why a freeze that comes now is too late
	requests, expired := s.requests, deadline.C
	for done := false; !done; {
		select {
		case err = <-result:
			done = true
		case _, ok := <-requests:
			// The parent died, or it asks for something before its freeze is
			// answered: it has given up on it.
			if !ok {
				requests = nil
			}
			early = "the parent gave up"
			cancel()
		case <-expired:
			expired, early = nil, "the window ended while freezing"
			cancel()
		}
	}
	if err != nil && early != "" {
		err = fmt.Errorf("%s: %w", early, err) // which may be why it failed
	}
	switch {
	case err != nil && !s.target.undo():
		r := reply{ID: id, Final: true, Output: s.target.output()}
		r.setError(err)
		s.say(r)
		return 0
	case err != nil:
		return s.thaw(ctx, id, err, err.Error())
	case early != "":
		return s.thaw(ctx, id, ErrLost, early)
	}
	s.say(reply{ID: id, Output: s.target.output()})
	return s.hold(ctx, deadline.C)
}

// hold answers until it is time to thaw.
func (s *server) hold(ctx context.Context, expired <-chan time.Time) int {
	for {
		// The window comes first if both are ready: late is late.
		select {
		case <-expired:
			return s.thaw(ctx, 0, ErrLost, "the window ended")
		default:
		}
		select {
		case <-expired:
			return s.thaw(ctx, 0, ErrLost, "the window ended")
		case req, ok := <-s.requests:
			switch {
			case !ok:
				return s.thaw(ctx, 0, ErrLost, "the parent is gone")
			case req.Op == opHeld:
				if err := s.target.held(); err != nil {
					return s.thaw(ctx, req.ID, ErrLost, err.Error())
				}
				s.say(reply{ID: req.ID})
			default:
				return s.thaw(ctx, req.ID, nil, "")
			}
		}
	}
}

// thaw thaws, first of all, and then reports how the freeze ended.
func (s *server) thaw(ctx context.Context, id int, how error, text string) int {
	ctx, cancel := context.WithTimeout(ctx, thawPatience)
	defer cancel()
	r := reply{ID: id, Final: true}
	code := 0
	err := s.insist(ctx)
	switch {
	case errors.Is(err, ErrNotFrozen) && how == nil:
		r.setError(fmt.Errorf("%w: the target was thawed by somebody else", ErrLost))
	case err != nil && !errors.Is(err, ErrNotFrozen):
		r.setError(fmt.Errorf("the target may be frozen, thaw: %w", err))
		code, s.doubt = 1, true
	case how != nil:
		r.setError(how)
		r.Text = text
	}
	r.Output = s.target.output()
	s.say(r)
	return code
}

// insist repeats a thaw that fails.
func (s *server) insist(ctx context.Context) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := s.target.thaw(ctx)
		if err == nil || errors.Is(err, ErrNotFrozen) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

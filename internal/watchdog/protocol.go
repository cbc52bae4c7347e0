// SPDX-License-Identifier: Apache-2.0

// Package watchdog is a helper process that freezes a target on behalf of its
// parent and is sure to thaw it: when the parent asks, when the parent dies,
// or when the window ends, whatever comes first.
//
// The helper is armed before it freezes. It runs in a session of its own,
// ignores the signals that end a program, and touches no file while it holds.
// Parent and helper talk in lines of JSON over the helper's standard input and
// output; the end of the input is the death of the parent.
package watchdog

import (
	"errors"
	"fmt"
	"time"
)

// Arg is the first argument of a program that makes it the helper.
const Arg = "protect-watchdog"

// protocolVersion is part of the first request: parent and helper can be two
// versions of a program that was replaced on disk.
const protocolVersion = 2

// maxLine bounds a line of the protocol, in bytes.
const maxLine = 64 << 10

var (
	// ErrBusy reports that somebody else has frozen the target.
	ErrBusy = errors.New("frozen by somebody else")
	// ErrLost reports that the target is thawed, but was so too early.
	ErrLost = errors.New("the freeze ended early")
	// ErrUnsupported reports a target that cannot be frozen at all.
	ErrUnsupported = errors.New("the target cannot be frozen")
	// ErrDenied reports missing privileges.
	ErrDenied = errors.New("the privilege to freeze is missing")
	// ErrNotFrozen reports a target without a freeze to end.
	ErrNotFrozen = errors.New("not frozen")
	// ErrDead reports a helper that ended without a last word.
	ErrDead = errors.New("the watchdog process died")
)

// Spec is what the helper is armed with.
type Spec struct {
	Version int           `json:"version"`
	Window  time.Duration `json:"window"`
	// Lock is the lock of the target, which the helper inherits.
	Lock *LockID `json:"lock,omitempty"`
	// Path is the mount point of the file system to freeze, or empty.
	Path string `json:"path,omitempty"`
	// Device is the number of that file system; it must not have changed.
	Device uint64 `json:"device,omitempty"`
	// Freeze and Thaw are the programs to run if Path is empty.
	Freeze []string `json:"freeze,omitempty"`
	Thaw   []string `json:"thaw,omitempty"`
	// Env is the environment of both.
	Env []string `json:"env,omitempty"`
	// Timeout bounds one run of Thaw.
	Timeout time.Duration `json:"timeout,omitempty"`
	// MaxOutput bounds the output of one program that is reported, in bytes.
	MaxOutput int `json:"max_output,omitempty"`
}

// LockID says which file the lock of a target is.
type LockID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// Names of requests.
const (
	opArm    = "arm"
	opFreeze = "freeze"
	opHeld   = "held"
	opThaw   = "thaw"
)

// request is a line from the parent.
type request struct {
	ID   int    `json:"id"`
	Op   string `json:"op"`
	Spec *Spec  `json:"spec,omitempty"`
}

// reply is a line from the helper. The last one of its life has Final set and
// may come unasked.
type reply struct {
	ID     int               `json:"id"`
	Final  bool              `json:"final,omitempty"`
	Code   string            `json:"code,omitempty"` // empty is success
	Text   string            `json:"text,omitempty"`
	Output map[string][]byte `json:"output,omitempty"`
}

// codes are the errors that cross the pipe with their meaning.
var codes = map[string]error{ //nolint:gochecknoglobals // a table that is only read
	"busy":        ErrBusy,
	"lost":        ErrLost,
	"unsupported": ErrUnsupported,
	"denied":      ErrDenied,
}

// setError puts err into the reply.
func (r *reply) setError(err error) {
	if err == nil {
		return
	}
	r.Code, r.Text = "failed", err.Error()
	if len(r.Text) > 2<<10 {
		r.Text = r.Text[:2<<10]
	}
	for code, known := range codes {
		if errors.Is(err, known) {
			r.Code = code
		}
	}
}

// err is the error in the reply. Its text came from another process, whose
// programs may have written it, so that it is quoted.
func (r *reply) err() error {
	if r.Code == "" {
		return nil
	}
	if known, ok := codes[r.Code]; ok {
		if r.Text == known.Error() {
			return known
		}
		return fmt.Errorf("%w: %q", known, r.Text)
	}
	return fmt.Errorf("watchdog reports %q", r.Text)
}

// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrHoldLost reports that a freeze ended, or may have ended, before it
	// was thawed: what was cut meanwhile is not proven consistent.
	ErrHoldLost = errors.New("hooks: the freeze did not hold")

	// ErrWindowExceeded reports that the window passed before the cut was
	// done. Every member has been thawed, unless the error also names one
	// whose thaw failed.
	ErrWindowExceeded = errors.New("hooks: freeze window exceeded")

	// ErrForeignFreeze reports that somebody else has frozen the target. It is
	// left as found.
	ErrForeignFreeze = errors.New("hooks: target is frozen by somebody else")

	// ErrThawFailed is wrapped by an error of Thaw that another call cannot
	// change: the target answered that it did not thaw properly. A Group does
	// not repeat such a thaw and keeps the intent for Recover.
	ErrThawFailed = errors.New("hooks: thaw failed for good")

	// errAbandoned marks a call that did not return although its context ended.
	errAbandoned = errors.New("hooks: the call ignores the end of its context")

	// errOtherMember ends the quiesce of the others in the rank of a member that
	// failed.
	errOtherMember = errors.New("hooks: given up, because another member failed")

	// errGoexit replaces the result that a call that ended its goroutine owes.
	errGoexit = errors.New("hooks: the call ended its goroutine with runtime.Goexit")
)

// PanicError is a panic of a cut or of a quiescer. The Group contains it,
// thaws, and returns it as an error.
type PanicError struct {
	// Value is what the code panicked with.
	Value any
	// Stack is the stack of the goroutine that panicked. It is not part of
	// the error text.
	Stack []byte
}

// Error names the value, quoted and cut to a few hundred bytes.
func (e *PanicError) Error() string {
	return fmt.Sprintf("hooks: panic: %q", brief(fmt.Sprint(e.Value)))
}

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// maxBrief bounds texts of foreign origin in reports, in bytes.
const maxBrief = 512

// brief makes s fit for a report that travels in the caller's state.
func brief(s string) string {
	if len(s) > maxBrief {
		s = s[:maxBrief] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/stillpoint-go/protect/internal/store"
)

var (
	// ErrCorrupt reports that stored bytes are not what was written: damaged,
	// forged, exchanged or missing. The error is a *CorruptError.
	ErrCorrupt = errors.New("repository is damaged")

	// ErrKey reports that no key slot of the repository opens with the key, or
	// that the keys were rotated since it was opened: then open it again.
	ErrKey = errors.New("the key does not open the repository")

	// ErrFormat reports a repository that this version cannot handle.
	ErrFormat = errors.New("repository format is not supported")

	// ErrAmbiguous reports that the store never gave a definite answer to the
	// commit: the recovery point may be there, now or later. Writing it again
	// under the same ID resolves this.
	ErrAmbiguous = errors.New("outcome of the commit is unknown")

	// ErrFull reports that the store has no room for what was to be written.
	// Nothing is damaged, and nothing of it became visible. Forget and Collect
	// make room; they need a few kilobytes themselves.
	ErrFull = store.ErrFull

	// ErrRollback reports that the bucket holds an earlier state of the
	// repository than the caller has seen: somebody put it back, or withholds
	// what came since.
	ErrRollback = errors.New("the repository was rolled back")

	// ErrFenced reports that a collector gave up waiting for the session, and
	// that it will never commit. Nothing is lost: a new session under the same
	// ID takes up what this one stored.
	ErrFenced = errors.New("the session was given up by a collector")
)

// CorruptError says what is damaged or missing. It matches ErrCorrupt, and never
// fs.ErrNotExist.
type CorruptError struct {
	Object string // key of the damaged or missing object; empty if not known
	Chunk  string // id of the chunk concerned, in hex, if any
	Err    error
}

// Error implements error.
func (e *CorruptError) Error() string {
	var b strings.Builder
	b.WriteString(ErrCorrupt.Error())
	if e.Object != "" {
		fmt.Fprintf(&b, ": object %s", e.Object)
	}
	if e.Chunk != "" {
		fmt.Fprintf(&b, ": chunk %.16s", e.Chunk)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns ErrCorrupt and the cause. An object that is missing is hidden:
// fs.ErrNotExist tells callers that what they asked for was never there.
func (e *CorruptError) Unwrap() []error {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}

func corrupt(object string, err error) error { return &CorruptError{Object: object, Err: err} }

// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"io/fs"
)

// ErrNotReady reports that a set could not be read in time. It may become
// ready later.
var ErrNotReady = errors.New("snapshot: not ready")

// final reports whether repeating the call that returned err is pointless.
func final(err error) bool {
	for _, target := range []error{
		fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, errors.ErrUnsupported,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// ambiguous reports whether a creation that returned err may have taken
// effect: the reply was lost, or the driver was stopped on the way.
func ambiguous(err error) bool {
	for _, target := range []error{
		fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, errors.ErrUnsupported,
	} {
		if errors.Is(err, target) {
			return false
		}
	}
	return true
}

// SPDX-License-Identifier: Apache-2.0

// Package watchdog is the helper process that keeps the promise to thaw when
// the program that froze cannot.
//
// hooks/fsfreeze and the pairs of hooks/command freeze through it, because
// their freezes outlive the process that made them. A program that uses these
// packages offers the helper as its first act:
//
//	func main() {
//		if len(os.Args) > 1 && os.Args[1] == watchdog.Arg {
//			os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
//		}
//		…
//	}
//
// and passes its own path as Helper in their options, for instance
// []string{executable} with what os.Executable returns. Nothing is started
// unless it is configured so. Any other program that calls Main does as well,
// for instance a small static one on a file system of its own.
//
// # What it does
//
// The helper is armed before it freezes. It thaws when it is asked to, when
// its parent is gone (its standard input ends: milliseconds after a SIGKILL),
// or when the window ends, also if the parent is stopped. It runs in a session
// of its own, does not end with SIGINT, SIGTERM or SIGHUP, and tries to lock
// its memory.
//
// It inherits, as descriptor 3, a lock that keeps the next freeze of the target
// waiting until the helper has ended: it may be stalled for as long as it
// likes, and meets no freeze but its own. Whatever starts it (nsenter is fine,
// sudo is not) has to leave that descriptor open, or it refuses to be armed.
//
// # What it cannot do
//
// It does not survive SIGKILL, the out-of-memory killer or a stop signal. If
// it dies while its parent lives, the parent thaws; a file system also if the
// helper is merely stalled. If both die at the same
// time, as with a container whose processes are all killed, a persistent
// freeze stays until the journal is recovered (hooks.Group.Recover).
package watchdog

import (
	"context"
	"io"

	"github.com/stillpoint-go/protect/internal/watchdog"
)

// Arg is the first argument of the helper process.
const Arg = watchdog.Arg

// Main is the helper process; its result is for os.Exit: 0 if the target is
// thawed or was never frozen, 1 if it may be frozen, 2 if it was started by
// something else than this library. It takes over the handling of signals and
// must have the process for itself: stdin and stdout are the connection with
// the parent. The end of ctx does not stop it; thaws are bounded by a minute.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer) int {
	watchdog.Shield()
	return watchdog.Serve(context.WithoutCancel(ctx), stdin, stdout)
}

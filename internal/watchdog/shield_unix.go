// SPDX-License-Identifier: Apache-2.0

//go:build unix

package watchdog

import (
	"os"
	"os/signal"
	"syscall"
)

// Shield makes the process survive what ends a program. The signals are
// caught, not ignored, because programs that it runs would inherit that. A
// caught SIGPIPE makes a write to a dead parent an error.
func Shield() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM)
	lockMemory()
}

// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package watchdog

import (
	"os"
	"os/signal"
)

// Shield makes the process survive what ends a program.
func Shield() {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	lockMemory()
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// bar is a progress bar on stderr, or nothing if nobody would see it. It is
// safe for concurrent use.
type bar struct {
	mu    sync.Mutex
	shown *progressbar.ProgressBar // nil shows nothing
}

// newBar returns a bar of bytes, if stderr is a terminal and nobody objects.
func (c *cli) newBar(what string) *bar {
	f, ok := c.stderr.(*os.File)
	if c.json || c.noProgress || !ok || !term.IsTerminal(int(f.Fd())) { // a descriptor fits
		return &bar{}
	}
	return &bar{shown: progressbar.NewOptions64(
		-1, // the total is not known yet
		progressbar.OptionSetWriter(f),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

// set shows how much of the total is done. A total of 0 is not known.
func (b *bar) set(done, total int64, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown == nil {
		return
	}
	if total > 0 && b.shown.GetMax64() != total {
		b.shown.ChangeMax64(total)
	}
	b.shown.Describe(what)
	_ = b.shown.Set64(done)
}

// close removes the bar from the terminal.
func (b *bar) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown != nil {
		_ = b.shown.Finish()
		_ = b.shown.Clear()
		b.shown = nil
	}
}

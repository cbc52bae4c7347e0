// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/stillpoint-go/protect"
)

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// columns lays out the table of points.
const columns = "%-8s %-12s %10s %10s %10s %10s %7s %10v\n"

// bar shows on stderr how many points are done, and on a terminal what is being
// done.
type bar struct {
	*progressbar.ProgressBar
	live bool
}

func newBar(what string, n int) bar {
	live := term.IsTerminal(int(os.Stderr.Fd()))
	return bar{live: live, ProgressBar: progressbar.NewOptions(n,
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount())}
}

// row prints a line of the table above the bar.
func (b bar) row(cells ...any) {
	// The bar is decoration: what it says of itself is not worth an error.
	if b.live {
		_ = b.Clear()
	}
	fmt.Printf(columns, cells...)
	_ = b.Add(1)
	if !b.live {
		fmt.Fprintln(os.Stderr)
	}
}

func (b bar) done() {
	if b.live {
		_ = b.Clear()
	}
}

// events makes the bar name the phase that a point is in.
func (b bar) events() *protect.Events {
	return &protect.Events{PhaseBegin: func(ctx context.Context, i protect.PhaseInfo) context.Context {
		if b.live {
			b.Describe(fmt.Sprintf("%s: %-8s", i.ID, i.Phase))
		}
		return ctx
	}}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks/lint"
)

// rehearsalResult is what backup --rehearse prints.
type rehearsalResult struct {
	Name      string            `json:"name"`
	Level     string            `json:"level"` // that the freeze has proved
	WindowMS  float64           `json:"window_ms"`
	FrozenMS  float64           `json:"frozen_ms"`
	QuiesceMS float64           `json:"quiesce_ms"`
	ThawMS    float64           `json:"thaw_ms"`
	Doubts    []string          `json:"doubts"`
	Members   []rehearsedMember `json:"members"`
	// Findings are mistakes that show without freezing anything.
	Findings []lint.Finding `json:"findings"`
}

type rehearsedMember struct {
	Name      string  `json:"name"`
	QuiesceMS float64 `json:"quiesce_ms"`
	ThawMS    float64 `json:"thaw_ms"`
	Proven    bool    `json:"proven"`
}

// rehearse freezes and thaws the application, and looks for mistakes.
func (c *cli) rehearse(ctx context.Context, p *protect.Protector, app *protect.Application) error {
	r, err := p.Rehearse(ctx, *app)
	if err != nil {
		return err
	}
	res := rehearsalResult{
		Name: app.Name, Level: r.Level.String(), WindowMS: millis(r.Freeze.Window), FrozenMS: millis(r.Freeze.Frozen),
		QuiesceMS: millis(r.Freeze.Quiesce), ThawMS: millis(r.Freeze.Thaw), Doubts: some(r.Freeze.Doubts()), Findings: some(p.Lint(*app)),
	}
	for _, m := range r.Freeze.Members {
		res.Members = append(res.Members, rehearsedMember{Name: m.Name, QuiesceMS: millis(m.Quiesce), ThawMS: millis(m.Thaw), Proven: m.Proven})
	}
	return c.print(res, func(w io.Writer) {
		fmt.Fprintf(w, "name\t%s\n", text(res.Name))
		fmt.Fprintf(w, "level\t%s, if the volumes are cut meanwhile\n", res.Level)
		for _, d := range res.Doubts {
			fmt.Fprintf(w, "doubt\t%s\n", text(d))
		}
		fmt.Fprintf(w, "frozen\t%.1f ms of %.0f ms, without a cut\n", res.FrozenMS, res.WindowMS)
		for _, m := range res.Members {
			fmt.Fprintf(w, "%s\tfrozen in %.1f ms, thawed in %.1f ms\n", text(m.Name), m.QuiesceMS, m.ThawMS)
		}
		for _, f := range res.Findings {
			fmt.Fprintf(w, "%s\t%s\n", f.Severity, text(f.String()))
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/repo"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	cut := &protect.Cut{Set: "p0.x", Time: since.Add(-time.Minute), Level: protect.CrashGroup, Doubts: []string{`member "db": lost`}}
	state := func(p protect.Phase, c *protect.Cut) protect.State {
		s := protect.NewState("shop-1")
		s.Phase, s.Cut, s.Since = p, c, since
		return s
	}
	tests := map[string]struct {
		state protect.State
		err   error
		want  []string
	}{
		"new":     {protect.NewState("shop-1"), nil, []string{`"shop-1" has not been cut yet`, "Next, what an earlier try left"}},
		"prepare": {state(protect.PhasePrepare, nil), fs.ErrPermission, []string{"since 2026-11-23T08:00:00Z", "The last try failed: permission denied. A permission is missing"}},
		"cut": {
			state(protect.PhaseCut, nil), fmt.Errorf("x: %w", &hooks.TooSoonError{Application: "shop", Again: since.Add(time.Hour), Reason: "gap"}),
			[]string{"waits for its application to be frozen", "Come again at 2026-11-23T09:00:00Z", "Next, the members are frozen"},
		},
		"several": {
			state(protect.PhaseCut, nil), errors.Join(fs.ErrNotExist, fmt.Errorf("fs: %w", hooks.ErrForeignFreeze)),
			[]string{"file does not exist; fs: hooks: target is frozen by somebody else. Somebody else holds a freeze"},
		},
		"ready":   {state(protect.PhaseReady, cut), nil, []string{`set "p0.x" can be read`, "cut at 2026-11-23T07:59:00Z, and the cut is crash-group", `because of member "db": lost`}},
		"upload":  {state(protect.PhaseUpload, cut), repo.ErrFull, []string{"Forget and Collect"}},
		"release": {state(protect.PhaseRelease, cut), context.Canceled, []string{"is stored", "nothing is lost", "snapshots are removed"}},
		"done":    {state(protect.PhaseDone, nil), nil, []string{"is done, since"}},
		"unknown": {state(protect.PhaseUpload, cut), errors.New("boom"), []string{"failed: boom. Another try may help. Next"}},
		"zero":    {protect.State{}, nil, []string{"no state that can be continued"}},
	}
	for name, test := range tests {
		got := protect.Explain(test.state, test.err)
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s\nwant %q", name, got, want)
			}
		}
		if strings.Contains(got, "\n") || !strings.HasSuffix(got, ".") || (test.err == nil) == strings.Contains(got, "failed") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestExplainSteps explains each state on the way, with a member that fails.
func TestExplainSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.start(t, &process{faults: []hookstest.Fault{{Op: hookstest.Prepare, Kind: hookstest.ErrorBefore, Nth: 1}}})
	s := protect.NewState("one")
	began := time.Now().Add(-time.Second)
	var texts []string
	for range 20 {
		next, res, err := p.Step(t.Context(), p.app, s)
		texts = append(texts, protect.Explain(s, err))
		if next.Phase != s.Phase && (next.Since.Before(began) || next.Since.After(time.Now())) {
			t.Errorf("phase %s since %v", next.Phase, next.Since)
		}
		if s = next; res.Done {
			break
		}
	}
	if s.Phase != protect.PhaseDone || !strings.Contains(texts[0], `"member-1"`) {
		t.Errorf("phase %s; texts:\n%s", s.Phase, strings.Join(texts, "\n"))
	}
}

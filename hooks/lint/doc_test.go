// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/hooks/lint"
)

var (
	_ lint.Describer = (*command.Quiescer)(nil)
	_ lint.Describer = (*command.Pair)(nil)
	_ lint.Describer = (*fsfreeze.Quiescer)(nil)
)

// TestDocumented compares the table of rules with the rules.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/recipes/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []lint.Rule{
		lint.TornCut, lint.BrokenOrder, lint.FrozenHelper, lint.FrozenJournal, lint.LongWindow, lint.UnwatchedHold,
		lint.OneShotLock, lint.ShellString, lint.DeadSnapshot, lint.UncoveredData, lint.UnpairedFreeze,
	}
	var got []lint.Rule
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllSubmatch(text, -1) {
		got = append(got, lint.Rule(row[1]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

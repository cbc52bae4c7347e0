// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/repo"
)

// Explain says in plain words how far a recovery point has come: what it waits
// for, since when, what is in its way, and what happens next. The error is that
// of the last Step from this state, nil if there was none; without it Explain
// knows nothing of obstacles. The text is for people, of one or a few
// sentences, and may change.
func Explain(s State, err error) string {
	if bad := s.validate(); bad != nil {
		return fmt.Sprintf("This is no state that can be continued from: %s.", oneLine(bad))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Recovery point %q %s", s.ID, progress(s))
	if !s.Since.IsZero() {
		fmt.Fprintf(&b, ", since %s", s.Since.UTC().Format(time.RFC3339))
	}
	b.WriteString(".")
	if s.Cut != nil && s.Phase != PhaseDone {
		fmt.Fprintf(&b, " Its volumes were cut at %s, and the cut is %s.", s.Cut.Time.UTC().Format(time.RFC3339), s.Cut.Level)
		if len(s.Cut.Doubts) > 0 {
			fmt.Fprintf(&b, " It is not more because of %s.", strings.Join(s.Cut.Doubts, "; "))
		}
	}
	if err != nil {
		fmt.Fprintf(&b, " The last try failed: %s. %s", oneLine(err), advice(err))
	}
	if next := next(s.Phase); next != "" {
		fmt.Fprintf(&b, " Next, %s.", next)
	}
	return b.String()
}

// progress is what is going on, after the name of the point.
func progress(s State) string {
	switch s.Phase {
	case PhasePrepare:
		return "has not been cut yet: it waits for its preparations"
	case PhaseCut:
		return "is prepared, and waits for its application to be frozen"
	case PhaseReady:
		return fmt.Sprintf("waits for the storage until the snapshots of its set %q can be read; the application runs", s.Cut.Set)
	case PhaseUpload:
		return "waits for its data to be stored in the repository; the application runs"
	case PhaseRelease:
		return "is stored, and waits for its snapshots to be removed"
	default:
		return "is done"
	}
}

// next is what the next step does.
func next(p Phase) string {
	switch p {
	case PhasePrepare:
		return "what an earlier try left is thawed and removed, volumes and members are checked, and members prepare"
	case PhaseCut:
		return "the members are frozen, the volumes are cut, the members prove that they held, and thaw"
	case PhaseReady:
		return "the data is stored"
	case PhaseUpload:
		return "what is not stored yet is stored, and the point is committed; what an earlier try stored is found again"
	case PhaseRelease:
		return "the snapshots are removed, also if somebody has done so already"
	default:
		return ""
	}
}

// advice says what an error means for whoever waits.
func advice(err error) string {
	if e, ok := errors.AsType[*hooks.TooSoonError](err); ok {
		return fmt.Sprintf("Nothing was frozen. Come again at %s.", e.Again.UTC().Format(time.RFC3339))
	}
	for _, a := range []struct {
		is   error
		text string
	}{
		// The most special ones come first: an error matches several.
		{hooks.ErrThawFailed, "A target may still be frozen: thaw it, by Recover or by hand, before anything else."},
		{hooks.ErrForeignFreeze, "Somebody else holds a freeze of that target, or has not ended; it is left alone, and this goes on when it is over."},
		{hooks.ErrWindowExceeded, "The freeze was given up to keep its window. It takes a faster member or snapshot, or a longer window."},
		{ErrConsistency, "The snapshots were removed. It takes what is missing, or a lower Application.Require; each try freezes the application again."},
		{ErrState, "This release cannot continue; begin again with NewState."},
		{repo.ErrKey, "It takes another key; no try will help before."},
		{repo.ErrFormat, "It takes another release; no try will help before."},
		{repo.ErrFull, "It takes room in the store: Forget and Collect make some."},
		{repo.ErrAmbiguous, "The point may be there or not; the next try finds out."},
		{repo.ErrFenced, "Nothing is lost; the next try takes up what was stored."},
		{repo.ErrRollback, "Somebody put the repository back to an earlier state, and has to decide what is right."},
		{repo.ErrCorrupt, "The repository is damaged: Verify says where, and Repair mends what can be mended."},
		{fs.ErrPermission, "A permission is missing; no try will help before it is granted."},
		{errors.ErrUnsupported, "This cannot be done here; no try will help."},
		{fs.ErrNotExist, "Something does not exist, and has to be made or named correctly."},
		{context.Canceled, "It was interrupted, and nothing is lost."},
		{context.DeadlineExceeded, "Something did not answer in time; the next try may find it better."},
	} {
		if errors.Is(err, a.is) {
			return a.text
		}
	}
	return "Another try may help."
}

// oneLine makes the text of an error fit into a sentence.
func oneLine(err error) string {
	return strings.TrimSuffix(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "), ".")
}

// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"fmt"

	"github.com/stillpoint-go/protect/repo"
)

// verb is what a process asks of the repository.
type verb string

const (
	doWrite   verb = "write"
	doForget  verb = "forget"
	doHold    verb = "hold"
	doRelease verb = "release"
	doCollect verb = "collect"
	doVerify  verb = "verify"
	doRead    verb = "read"
)

// event is one thing that a process did, and what it was told. Times count
// events, so that "before" means what it says.
type event struct {
	verb       verb
	actor      int
	id         string
	recipe     string
	begin, end int // 0 while it runs
	err        error
	killed     bool
	hurt       bool   // a call of it failed on purpose
	got        string // recipe of the point that a write returned
}

func (e *event) String() string {
	return fmt.Sprintf("[%d-%d] %d %s %s %s: %v, killed %t, got %s", e.begin, e.end, e.actor, e.verb, e.id, e.recipe, e.err, e.killed, e.got)
}

// change carries out an event that changes the repository.
func (p *pantry) change(ctx context.Context, r *repo.Repository, e *event) error {
	holder := fmt.Sprint("holder ", e.actor)
	switch e.verb {
	case doWrite:
		rec, err := parseRecipe(e.recipe)
		if err != nil {
			return err
		}
		pt, err := p.write(ctx, r, e.id, "app", rec)
		if err == nil {
			e.got = pt.Labels[recipeLabel]
		}
		return err
	case doForget:
		return r.Forget(ctx, e.id)
	case doHold:
		return r.Hold(ctx, e.id, holder)
	case doRelease:
		return r.Release(ctx, e.id, holder)
	default:
		return fmt.Errorf("%s changes nothing", e.verb)
	}
}

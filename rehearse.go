// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/stillpoint-go/protect/hooks"
)

// Rehearsal is what a freeze without a cut has shown.
type Rehearsal struct {
	// Level is what the holds proved of all volumes, provided that these are
	// then cut at one instant where a member asks for it
	// ([hooks.Traits.AtomicCut]). None means that the level of a recovery point
	// would be that of its snapshots alone, CrashGroup at most.
	Level Consistency
	// Freeze has the times of the freeze and of each member, and why a hold is
	// not proven. A real freeze takes longer by its cut.
	Freeze *hooks.Report
}

// Rehearse shows, ahead of the first recovery point, whether the application
// can be frozen: it thaws what an earlier process left, checks the volumes and
// that the repository can be read, lets the members prepare, freezes them,
// asks for their proofs, and thaws. It cuts and stores nothing. The error names
// what is missing: a permission, a program, a target that does not answer; or
// it matches ErrConsistency if Application.Require asks for a hold that was not
// proven. The rehearsal is returned whenever something was frozen.
//
// It is a freeze like any other for those who wait for the application, and
// for Application.MinGap and Budget. That the repository can be written to, and
// that the volumes can be cut, only a recovery point shows.
func (p *Protector) Rehearse(ctx context.Context, app Application) (*Rehearsal, error) {
	r, err := p.rehearse(ctx, &app)
	if err != nil {
		err = &Error{Op: "rehearse", Err: err}
	}
	return r, err
}

func (p *Protector) rehearse(ctx context.Context, app *Application) (*Rehearsal, error) {
	if err := app.validate(); err != nil {
		return nil, err
	}
	unlock, err := p.locks.Lock(ctx, "freeze\x00"+app.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	g, err := p.group(app)
	if err != nil {
		return nil, err
	}
	if err := g.Recover(ctx); err != nil {
		return nil, err
	}
	// What is missing is best known all at once.
	_, perr := p.cfg.Repository.Point(ctx, "rehearsal")
	if errors.Is(perr, fs.ErrNotExist) {
		perr = nil
	}
	if err := errors.Join(perr, p.checkVolumes(ctx, app)); err != nil {
		return nil, errors.Join(err, g.Prepare(ctx))
	}
	rep, err := g.Rehearse(ctx)
	if rep == nil {
		return nil, err
	}
	r := &Rehearsal{Level: weakestHold(app, rep, true), Freeze: rep}
	if err == nil && app.Require > CrashGroup && r.Level < app.Require {
		why := "no member covers every volume"
		if doubts := bounded(rep.Doubts()); len(doubts) > 0 {
			why = strings.Join(doubts, "; ")
		}
		err = fmt.Errorf("%w: the holds prove %s instead of %s: %s", ErrConsistency, r.Level, app.Require, why)
	}
	return r, err
}

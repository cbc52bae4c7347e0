// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/snapshot"
)

// Result says what a step came to.
type Result struct {
	// Done says that the recovery point is committed and cleaned up after.
	Done bool
	// Point is the committed point, once Done.
	Point *RecoveryPoint
	// RequeueAfter is when to take the next step, if not Done; 0 is at once.
	RequeueAfter time.Duration
}

// pollReady is how often to ask whether snapshots can be read.
const pollReady = time.Second

// Step does the next step towards the recovery point that s describes and
// returns the state after it. The caller stores that before it calls Step
// again. After an error the state is the one to try again from.
//
// Every step may be repeated from the same state, by this process or another:
// a step that was done before does no harm. Step blocks while data is moved.
func (p *Protector) Step(ctx context.Context, app Application, s State) (State, Result, error) {
	info := PhaseInfo{ID: s.ID, Application: app.Name, Phase: s.Phase}
	if err := errors.Join(s.validate(), app.validate()); err != nil {
		return s, Result{}, &Error{Op: "step", ID: s.ID, Phase: s.Phase, Err: err}
	}
	ctx = p.events.begin(ctx, info)
	next, res, err := p.step(ctx, &app, s, info)
	if next.Phase != s.Phase {
		next.Since = time.Now().UTC()
	}
	if err == nil {
		err = next.checkSize()
	}
	if err != nil {
		err = &Error{Op: "step", ID: s.ID, Phase: s.Phase, Err: err}
	}
	p.events.end(ctx, info, err)
	if err != nil {
		return s, Result{}, err
	}
	return next, res, nil
}

func (p *Protector) step(ctx context.Context, app *Application, s State, info PhaseInfo) (State, Result, error) {
	switch s.Phase {
	case PhasePrepare:
		return p.prepare(ctx, app, s)
	case PhaseCut:
		return p.cut(ctx, app, s)
	case PhaseReady:
		return p.ready(ctx, app, s)
	case PhaseUpload:
		return p.upload(ctx, app, s, info)
	case PhaseRelease:
		if err := p.cfg.Snapshots.Sweep(ctx, setPrefix(s.ID)); err != nil {
			return s, Result{}, err
		}
		s.Phase = PhaseDone
		return p.done(ctx, s)
	default:
		return p.done(ctx, s)
	}
}

// done reports the committed point.
func (p *Protector) done(ctx context.Context, s State) (State, Result, error) {
	point, err := p.cfg.Repository.Point(ctx, s.ID)
	if err != nil {
		return s, Result{}, err
	}
	return s, Result{Done: true, Point: NewRecoveryPoint(point)}, nil
}

// prepare thaws and removes what an earlier try left, and does everything that
// can be done ahead of the window.
func (p *Protector) prepare(ctx context.Context, app *Application, s State) (State, Result, error) {
	unlock, err := p.locks.Lock(ctx, "freeze\x00"+app.Name)
	if err != nil {
		return s, Result{}, err
	}
	defer unlock()
	g, err := p.group(app)
	if err != nil {
		return s, Result{}, err
	}
	if err := g.Recover(ctx); err != nil {
		return s, Result{}, err
	}
	if err := p.cfg.Snapshots.Sweep(ctx, setPrefix(s.ID)); err != nil {
		return s, Result{}, err
	}
	switch _, err := p.cfg.Repository.Point(ctx, s.ID); {
	case err == nil:
		s.Phase = PhaseDone
		return p.done(ctx, s)
	case !errors.Is(err, fs.ErrNotExist):
		return s, Result{}, err
	}
	if err := p.checkVolumes(ctx, app); err != nil {
		return s, Result{}, err
	}
	if err := g.Prepare(ctx); err != nil {
		return s, Result{}, err
	}
	s.Phase = PhaseCut
	return s, Result{}, nil
}

// cut freezes, cuts and thaws. The set has an identifier that was never used
// before and is not known to anybody else: so what it shows was cut under this
// very freeze, whatever an earlier try, or another process, is doing.
func (p *Protector) cut(ctx context.Context, app *Application, s State) (State, Result, error) {
	unlock, err := p.locks.Lock(ctx, "freeze\x00"+app.Name)
	if err != nil {
		return s, Result{}, err
	}
	defer unlock()
	g, err := p.group(app)
	if err != nil {
		return s, Result{}, err
	}
	if err := p.cfg.Snapshots.Sweep(ctx, setPrefix(s.ID)); err != nil {
		return s, Result{}, err
	}
	taken := make(chan *snapshot.Set, 1) // a cut that is given up on must not race with us
	c := &Cut{Set: setPrefix(s.ID) + strings.ToLower(rand.Text())}
	rep, err := g.Do(ctx, s.ID, func(ctx context.Context) error {
		set, err := p.cfg.Snapshots.Take(ctx, c.request(app))
		if err == nil {
			taken <- set
		}
		return err
	})
	if err == nil {
		err = c.fill(app, rep, <-taken)
	}
	if err == nil {
		err = p.cutAfterThaw(ctx, app, c)
	}
	if err != nil {
		p.abandonDetached(ctx, s.ID)
		return s, Result{}, err
	}
	s.Phase, s.Cut = PhaseReady, c
	return s, Result{}, nil
}

// fill records what the cut proved.
func (c *Cut) fill(app *Application, rep *hooks.Report, set *snapshot.Set) error {
	c.Time = time.Now().UTC()
	c.Level = level(app, rep, set)
	c.Doubts = bounded(append(rep.Doubts(), cutDoubts(rep, set.Atomic())...))
	c.Frozen, c.Skew = rep.Frozen, set.Skew()
	c.Evidence = rep.Evidence
	if c.Level < app.Require {
		why := "no member covers every volume"
		if len(c.Doubts) > 0 {
			why = strings.Join(c.Doubts, "; ")
		}
		return fmt.Errorf("%w: it is %s instead of %s: %s", ErrConsistency, c.Level, app.Require, why)
	}
	return nil
}

// maxDoubts bounds the text that travels in a State, in bytes.
const maxDoubts = 2 << 10

// bounded keeps the first doubts, and says how many more there were.
func bounded(doubts []string) []string {
	size := 0
	for i, d := range doubts {
		if size += len(d); size > maxDoubts {
			return append(doubts[:i:i], fmt.Sprintf("and %d more", len(doubts)-i))
		}
	}
	return doubts
}

func (p *Protector) ready(ctx context.Context, app *Application, s State) (State, Result, error) {
	cuts, err := p.open(ctx, app, s.Cut)
	var ok bool
	if err == nil {
		ok, err = cuts.ready(ctx)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p.again(s, err)
	case err != nil:
		return s, Result{}, err
	case !ok:
		return s, Result{RequeueAfter: pollReady}, nil
	}
	s.Phase = PhaseUpload
	return s, Result{}, nil
}

// again starts anew after somebody removed a snapshot that is not stored yet:
// there is nothing to wait for.
func (p *Protector) again(s State, err error) (State, Result, error) {
	p.log.Warn("a snapshot is gone, the volumes will be cut again", "id", s.ID, "error", err)
	return NewState(s.ID), Result{}, nil
}

// upload stores the snapshots and commits the point.
func (p *Protector) upload(ctx context.Context, app *Application, s State, info PhaseInfo) (State, Result, error) {
	evidence, err := s.Cut.evidence()
	if err != nil {
		return s, Result{}, err
	}
	opts := repo.WriteOptions{
		ID: s.ID, Name: app.Name, Time: s.Cut.Time, Level: s.Cut.Level.String(), Labels: app.Labels, Evidence: evidence,
		Progress: p.events.progress(ctx, info), Reuse: p.cfg.Reuse,
	}
	if p.cfg.Snapshots.PointInTime() { // it keeps inodes and their times; clones are new each time
		opts.Reuse = repo.ReuseByChangeTime
	}
	gone := false
	_, err = p.cfg.Repository.Write(ctx, opts, func(ctx context.Context, w *repo.Writer) error {
		cuts, err := p.open(ctx, app, s.Cut)
		if err != nil {
			gone = errors.Is(err, fs.ErrNotExist)
			return err
		}
		for _, v := range app.Volumes {
			if err := putVolume(ctx, w, cuts.of(v), v); err != nil {
				return err
			}
		}
		return nil
	})
	if gone {
		return p.again(s, err)
	}
	if err != nil {
		return s, Result{}, err
	}
	s.Phase = PhaseRelease
	return s, Result{}, nil
}

func putVolume(ctx context.Context, w *repo.Writer, set *snapshot.Set, v Volume) (err error) {
	snap, ok := set.Snapshot(v.ID)
	if !ok {
		return fmt.Errorf("snapshot of volume %q: %w", v.Name, fs.ErrNotExist)
	}
	dir, release, err := snap.Dir(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, release(ctx))
	}()
	return w.Put(ctx, v.Name, dir)
}

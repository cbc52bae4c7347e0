// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// freeze is one run of the protocol.
type freeze struct {
	g      *Group
	epoch  Epoch
	began  time.Time
	end    time.Time // of the window
	report *Report
	held   [][]*member // in freeze order, by rank
	late   []*member   // whose Quiesce was given up on
	// owed counts the members that may still be frozen when nothing more will
	// be tried.
	owed int
}

// member is the part of one member in a freeze.
type member struct {
	Member
	hold    Hold
	holds   time.Time // since when
	report  *MemberReport
	settled atomic.Bool // a late quiesce has come to nothing
	// Of a quiesce that failed: it was given up on, and what failed while it
	// was undone.
	abandoned bool
	undo      error
	// Of a thaw: what it returned, and why it is not acknowledged.
	evidence Evidence
	owed     error
}

func newFreeze(g *Group, epoch Epoch) *freeze {
	f := &freeze{g: g, epoch: epoch, report: &Report{
		Epoch: epoch, Window: g.opts.Window, Members: make([]MemberReport, len(g.members)),
	}}
	for rank, members := range g.ranks {
		for _, i := range members {
			m := g.members[i]
			f.report.Members[i] = MemberReport{Name: m.Name, Traits: m.Quiescer.Traits(), Rank: rank}
		}
	}
	return f
}

// run freezes, cuts, proves and thaws. From here on the targets are "maybe
// frozen", so that nothing returns before thaw has run.
func (f *freeze) run(ctx context.Context, cut func(context.Context) error) error {
	f.began = time.Now()
	f.end = f.began.Add(f.g.opts.Window)

	var errs []error
	err := f.freeze(ctx, &errs)
	if err == nil {
		f.report.Quiesce = time.Since(f.began)
		if err = f.cut(ctx, cut); err == nil {
			f.prove(ctx)
		}
	}
	errs = append([]error{err}, errs...)
	errs = append(errs, f.thaw(ctx)...)
	errs = append(errs, f.finish(ctx))
	return errors.Join(errs...)
}

// freeze quiesces the members, rank by rank. When one fails it returns that
// error and adds what failed while things were undone to errs.
func (f *freeze) freeze(ctx context.Context, errs *[]error) error {
	ctx, cancel := context.WithDeadlineCause(ctx, f.end.Add(-f.g.margin), ErrWindowExceeded)
	defer cancel()
	for _, rank := range f.g.ranks {
		members := make([]*member, len(rank))
		for i, n := range rank {
			members[i] = &member{Member: f.g.members[n], report: &f.report.Members[n]}
		}
		err := f.freezeRank(ctx, members)
		f.collect(members, errs)
		if err != nil {
			return err
		}
	}
	return nil
}

// freezeRank quiesces members at the same time and waits for all of them. The
// first one that fails is its error, and ends the wait of the others: without
// it there will be no cut.
func (f *freeze) freezeRank(ctx context.Context, members []*member) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var once sync.Once
	var first error
	eachOf(members, func(m *member) {
		err := why(ctx)
		if err == nil {
			err = f.quiesce(ctx, m)
		}
		if err == nil {
			return
		}
		err = inWindow(ctx, err)
		m.report.Err = brief(err.Error())
		once.Do(func() {
			first = fmt.Errorf("hooks: quiesce %q: %w", m.Name, err)
			cancel(fmt.Errorf("%w: %q", errOtherMember, m.Name))
		})
	})
	return first
}

// eachOf calls do for all members at the same time and waits.
func eachOf(members []*member, do func(*member)) {
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() { do(m) })
	}
	wg.Wait()
}

// collect notes what has become of the members of a rank.
func (f *freeze) collect(members []*member, errs *[]error) {
	var held []*member
	for _, m := range members {
		if m.hold != nil {
			held = append(held, m)
		}
		if m.abandoned {
			f.late = append(f.late, m)
		}
		if m.undo != nil {
			*errs = append(*errs, m.undo)
			if !m.abandoned {
				f.owed++
			}
		}
	}
	f.held = append(f.held, held)
}

// quiesce freezes one member.
func (f *freeze) quiesce(ctx context.Context, m *member) error {
	began := time.Now()
	detached := context.WithoutCancel(ctx)
	// What remains of the window, so that all members lose their freeze at
	// the same instant if we vanish, however long the earlier ones took.
	req := FreezeRequest{Epoch: f.epoch, Window: f.end.Sub(began)}
	hold, err := call(ctx, &f.g.strays, f.g.margin, func(ctx context.Context) (Hold, error) {
		return m.Quiescer.Quiesce(ctx, req)
	}, func(hold Hold, err error) {
		// It arrives late: nobody waits for it any more.
		err = f.settle(detached, m, hold, err)
		m.settled.Store(err == nil)
		f.g.logger.Warn("quiesce returned after its deadline", "member", m.Name, "epoch", f.epoch, "thaw_error", err)
	})
	m.report.Quiesce = time.Since(began)
	switch {
	case err == nil && hold != nil:
		m.hold, m.holds = hold, time.Now()
		return nil
	case err == nil:
		err = errors.New("hooks: quiescer returned neither a hold nor an error")
	}
	m.abandoned = errors.Is(err, errAbandoned)
	m.undo = f.settle(detached, m, hold, err)
	return err
}

// settle undoes a quiesce that failed: what it froze regardless is thawed. The
// context is detached from the caller's.
func (f *freeze) settle(ctx context.Context, m *member, hold Hold, err error) error {
	if hold != nil {
		if _, err := f.g.thaw(ctx, hold, m.Name, f.epoch); err != nil && !errors.Is(err, ErrHoldLost) {
			return fmt.Errorf("hooks: thaw %q: %w", m.Name, err)
		}
		return nil
	}
	if errors.Is(err, ErrForeignFreeze) {
		return nil // it is not ours to thaw
	}
	return f.g.recoverMember(ctx, m.Member, f.epoch)
}

// cut runs the caller's cut, at most until the window ends.
func (f *freeze) cut(ctx context.Context, cut func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithDeadlineCause(ctx, f.end.Add(-f.g.margin), ErrWindowExceeded)
	defer cancel()
	_, err := call(ctx, &f.g.strays, f.g.margin, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, cut(ctx)
	}, nil)
	f.report.Cut = time.Since(began)
	if err != nil {
		return fmt.Errorf("hooks: cut: %w", inWindow(ctx, err))
	}
	return nil
}

// inWindow makes err say that the window ended, if that is why ctx did.
func inWindow(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrWindowExceeded) && !errors.Is(err, ErrWindowExceeded) {
		return fmt.Errorf("%w: %w", ErrWindowExceeded, err)
	}
	return err
}

// prove asks every member whether it has held. It does not depend on the
// caller's context: the cut is done, and its worth is to be known.
func (f *freeze) prove(ctx context.Context) {
	patience := f.g.margin / 2
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), f.end.Add(-patience))
	defer cancel()
	for _, rank := range f.held {
		eachOf(rank, func(m *member) {
			_, err := call(ctx, &f.g.strays, patience, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, m.hold.Held(ctx)
			}, nil)
			if err != nil {
				m.report.Lost = brief(err.Error())
				f.g.logger.Warn("hold is not proven", "member", m.Name, "epoch", f.epoch, "error", err)
				return
			}
			m.report.Proven = true
		})
	}
}

// thaw thaws what holds, the last rank first and one rank after another: the
// thaw of a database may have to write to the file system below it.
func (f *freeze) thaw(ctx context.Context) []error {
	var errs []error
	began := time.Now()
	for _, rank := range slices.Backward(f.held) {
		eachOf(rank, func(m *member) { f.thawMember(ctx, m) })
		for _, m := range rank {
			if m.owed != nil {
				f.owed++
				errs = append(errs, m.owed)
			}
			f.keep(m.Name, m.evidence)
		}
	}
	if f.g.freezes() {
		f.report.Frozen = time.Since(f.began)
	}
	f.report.Thaw = time.Since(began)
	return errs
}

func (f *freeze) thawMember(ctx context.Context, m *member) {
	began := time.Now()
	m.report.Hold = began.Sub(m.holds)
	evidence, err := f.g.thaw(ctx, m.hold, m.Name, f.epoch)
	m.report.Thaw = time.Since(began)
	m.evidence = evidence
	switch {
	case err == nil:
	case errors.Is(err, ErrHoldLost):
		m.report.Proven = false
		m.report.Lost = brief(err.Error())
		f.g.logger.Warn("hold was lost", "member", m.Name, "epoch", f.epoch, "error", err)
	default:
		m.report.Proven = false
		m.report.Err = brief(err.Error())
		m.owed = fmt.Errorf("hooks: thaw %q: %w", m.Name, err)
	}
}

// thaw repeats Thaw until it is acknowledged, has failed for good, or
// ThawTimeout has passed; then the hold is owed.
func (g *Group) thaw(ctx context.Context, hold Hold, name string, epoch Epoch) (Evidence, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.opts.ThawTimeout)
	defer cancel()
	final := func(err error) bool { return errors.Is(err, ErrHoldLost) || errors.Is(err, ErrThawFailed) }
	evidence, err := persist(ctx, func(err error) bool {
		return final(err) || errors.Is(err, errAbandoned)
	}, func() (Evidence, error) {
		return call(ctx, &g.strays, g.margin, hold.Thaw, nil)
	})
	if err != nil && !final(err) {
		g.owe(hold, name, epoch)
	}
	return evidence, err
}

// keep copies the evidence of a member into the report.
func (f *freeze) keep(name string, evidence Evidence) {
	if len(evidence) == 0 {
		return
	}
	if f.report.Evidence == nil {
		f.report.Evidence = make(map[string]Evidence)
	}
	kept := make(Evidence, len(evidence))
	for k, v := range evidence {
		kept[k] = bytes.Clone(v)
	}
	f.report.Evidence[name] = kept
}

// finish waits for late members, ends the intent if nobody can be frozen any
// more, and checks what the members returned.
func (f *freeze) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.g.opts.ThawTimeout)
	defer cancel()
	// Whoever does not come in time is named in the error of its call.
	_ = f.g.strays.wait(ctx)
	for _, m := range f.late {
		if !m.settled.Load() {
			f.owed++
		}
	}
	switch {
	case f.epoch == 0: // nothing is frozen
	case f.owed == 0:
		f.endIntent(ctx)
	default:
		f.g.logger.Error("members may still be frozen; their intent stays in the journal", "epoch", f.epoch, "members", f.owed)
	}
	size := 0
	for _, evidence := range f.report.Evidence {
		for k, v := range evidence {
			size += len(k) + len(v)
		}
	}
	if size > MaxEvidence {
		f.report.Evidence = nil
		return fmt.Errorf("hooks: evidence of %d bytes, at most %d are allowed", size, MaxEvidence)
	}
	return nil
}

// endIntent removes the intent. Failing to do so makes the cut no worse: it
// costs the next freeze a recovery that finds nothing to thaw.
func (f *freeze) endIntent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.g.opts.ThawTimeout)
	defer cancel()
	ended := f.began.Add(f.report.Frozen)
	_, err := persist(ctx, func(error) bool { return false }, func() (struct{}, error) {
		// An intent that stays counts as a freeze of the whole window.
		if err := f.g.remember(ctx, f.epoch, ended, f.report.Frozen); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, f.g.journal.End(ctx, f.epoch)
	})
	if err != nil {
		f.report.Unfinished = brief(err.Error())
		f.g.logger.Warn("intent of a finished freeze stays in the journal", "epoch", f.epoch, "error", err)
	}
}

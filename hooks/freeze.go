// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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
	held   []*member // in freeze order
	late   []*member // whose Quiesce was given up on
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
}

func newFreeze(g *Group, epoch Epoch) *freeze {
	f := &freeze{g: g, epoch: epoch, report: &Report{
		Epoch: epoch, Window: g.opts.Window, Members: make([]MemberReport, len(g.members)),
	}}
	for i, m := range g.members {
		f.report.Members[i] = MemberReport{Name: m.Name, Traits: m.Quiescer.Traits()}
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

// freeze quiesces the members in order. When one fails it returns that error
// and adds what failed while it was undone to errs.
func (f *freeze) freeze(ctx context.Context, errs *[]error) error {
	ctx, cancel := context.WithDeadlineCause(ctx, f.end.Add(-f.g.margin), ErrWindowExceeded)
	defer cancel()
	for i := range f.g.members {
		m := &member{Member: f.g.members[i], report: &f.report.Members[i]}
		err := why(ctx)
		if err == nil {
			err = f.quiesce(ctx, m, errs)
		}
		if err != nil {
			err = inWindow(ctx, err)
			m.report.Err = brief(err.Error())
			return fmt.Errorf("hooks: quiesce %q: %w", m.Name, err)
		}
	}
	return nil
}

// quiesce freezes one member.
func (f *freeze) quiesce(ctx context.Context, m *member, errs *[]error) error {
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
		f.held = append(f.held, m)
		return nil
	case err == nil:
		err = errors.New("hooks: quiescer returned neither a hold nor an error")
	}
	if errors.Is(err, errAbandoned) {
		f.late = append(f.late, m)
	}
	if undo := f.settle(detached, m, hold, err); undo != nil {
		*errs = append(*errs, undo)
		if !errors.Is(err, errAbandoned) {
			f.owed++
		}
	}
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
	for _, m := range f.held {
		_, err := call(ctx, &f.g.strays, patience, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, m.hold.Held(ctx)
		}, nil)
		if err != nil {
			m.report.Lost = brief(err.Error())
			f.g.logger.Warn("hold is not proven", "member", m.Name, "epoch", f.epoch, "error", err)
			continue
		}
		m.report.Proven = true
	}
}

// thaw thaws what holds, last frozen first, one after another: the thaw of a
// database may have to write to the file system below it.
func (f *freeze) thaw(ctx context.Context) []error {
	var errs []error
	began := time.Now()
	for _, m := range slices.Backward(f.held) {
		begin := time.Now()
		m.report.Hold = begin.Sub(m.holds)
		evidence, err := f.g.thaw(ctx, m.hold, m.Name, f.epoch)
		m.report.Thaw = time.Since(begin)
		switch {
		case err == nil:
		case errors.Is(err, ErrHoldLost):
			m.report.Proven = false
			m.report.Lost = brief(err.Error())
			f.g.logger.Warn("hold was lost", "member", m.Name, "epoch", f.epoch, "error", err)
		default:
			m.report.Proven = false
			m.report.Err = brief(err.Error())
			f.owed++
			errs = append(errs, fmt.Errorf("hooks: thaw %q: %w", m.Name, err))
		}
		f.keep(m.Name, evidence)
	}
	f.report.Frozen = time.Since(f.began)
	f.report.Thaw = time.Since(began)
	return errs
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
	if f.owed == 0 {
		f.endIntent(ctx)
	} else {
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
	_, err := persist(ctx, func(error) bool { return false }, func() (struct{}, error) {
		return struct{}{}, f.g.journal.End(ctx, f.epoch)
	})
	if err != nil {
		f.report.Unfinished = brief(err.Error())
		f.g.logger.Warn("intent of a finished freeze stays in the journal", "epoch", f.epoch, "error", err)
	}
}

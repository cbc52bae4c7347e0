// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Recover thaws what pending intents of this application may have left frozen,
// the newest intent first and its members in reverse freeze order, and ends
// each intent whose members are all known to be thawed. It goes on past errors
// and joins them. It is idempotent. Call it when a process starts, before
// anything else.
//
// An intent that names a member which the group does not have is an error and
// stays pending, because nobody else can thaw that member.
func (g *Group) Recover(ctx context.Context) error {
	if err := g.take(ctx); err != nil {
		return err
	}
	defer g.leave()
	return g.recover(ctx)
}

// recover is Recover for the owner of the group's turn.
func (g *Group) recover(ctx context.Context) error {
	var errs []error
	pending, err := g.journal.Pending(ctx)
	if err != nil {
		errs = append(errs, fmt.Errorf("hooks: read the journal: %w", err))
	}
	own := slices.DeleteFunc(slices.Clone(pending), func(in Intent) bool { return in.Application != g.name })
	slices.SortFunc(own, func(a, b Intent) int {
		return cmp.Compare(b.Epoch, a.Epoch)
	})
	for _, in := range own {
		if err := g.recoverIntent(ctx, in); err != nil {
			errs = append(errs, fmt.Errorf("hooks: recover freeze %d of %q: %w", in.Epoch, in.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (g *Group) recoverIntent(ctx context.Context, in Intent) error {
	var errs []error
	for _, name := range in.Members {
		if !slices.ContainsFunc(g.members, func(m Member) bool { return m.Name == name }) {
			errs = append(errs, fmt.Errorf("hooks: member %q is not in the group any more", name))
		}
	}
	for _, m := range slices.Backward(g.inOrder()) {
		if !slices.Contains(in.Members, m.Name) {
			continue
		}
		err := g.thawOwed(ctx, m, in.Epoch)
		if _, ok := m.Quiescer.(Recoverer); ok {
			// Its word counts, also for a hold that does not thaw.
			if err = g.recoverMember(ctx, m, in.Epoch); err == nil {
				g.takeOwed(m.Name, in.Epoch)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	// A call that still runs in this process may freeze after what was thawed.
	if g.strays.busy() {
		errs = append(errs, errors.New("hooks: a call of an earlier freeze has not returned"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := g.rememberUnseen(ctx, in); err != nil {
		return err
	}
	g.logger.Info("recovered what a freeze may have left", "epoch", in.Epoch, "id", in.ID)
	return g.journal.End(ctx, in.Epoch)
}

// owe remembers a hold of this process whose thaw was not acknowledged: as long
// as the process lives, nothing but its Thaw ends a session freeze.
func (g *Group) owe(hold Hold, name string, epoch Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owed = append(g.owed, owedHold{hold: hold, name: name, epoch: epoch})
}

// owedHold is a hold that must still be thawed.
type owedHold struct {
	hold  Hold
	name  string
	epoch Epoch
}

// takeOwed returns what the member owes since that epoch, if anything, and
// forgets it.
func (g *Group) takeOwed(name string, epoch Epoch) Hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.owed {
		if o.name == name && o.epoch == epoch {
			g.owed = slices.Delete(g.owed, i, i+1)
			return o.hold
		}
	}
	return nil
}

// thawOwed thaws what the member owes since that epoch.
func (g *Group) thawOwed(ctx context.Context, m Member, epoch Epoch) error {
	hold := g.takeOwed(m.Name, epoch)
	if hold == nil {
		return nil
	}
	if _, err := g.thaw(ctx, hold, m.Name, epoch); err != nil && !errors.Is(err, ErrHoldLost) {
		return fmt.Errorf("hooks: thaw %q: %w", m.Name, err)
	}
	return nil
}

// recoverMember makes sure that nothing of epoch or before remains frozen.
// A session freeze needs no recovery: it died with its session.
func (g *Group) recoverMember(ctx context.Context, m Member, epoch Epoch) error {
	r, ok := m.Quiescer.(Recoverer)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.opts.ThawTimeout)
	defer cancel()
	_, err := persist(ctx, func(err error) bool { return errors.Is(err, errAbandoned) }, func() (struct{}, error) {
		return call(ctx, &g.strays, g.margin, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, r.Recover(ctx, epoch)
		}, nil)
	})
	if err != nil {
		return fmt.Errorf("hooks: recover %q: %w", m.Name, err)
	}
	return nil
}

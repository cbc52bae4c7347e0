// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Somebody without the key can damage objects, and put some that nobody can
// read. Those that tell processes of each other stop collections, since they
// might say that something is still needed, and some make sessions store all
// anew. What it means to remove one depends on what it may have said:
//
//   - The ledger and the journals of sessions are hints.
//   - An index segment says what the footers of packs say. Repair has added what
//     is in packs and in no other segment before it removes one.
//   - A session's record keeps what the session refers to, and tells a collector
//     how to stop it. Without it, a session that is still at work might commit
//     a point whose chunks have gone.
//   - A mark to forget is a request that was not answered. It may be made again.
//     A mark that holds keeps a point from being forgotten.
//   - A closed set says which points are forgotten and which sessions were given
//     up. Without it, such a session might commit after all, and forgotten
//     points that are still there come back: those with a mark to forget are
//     closed again before.
//   - A condemned set says on which packs nobody may rely, since a collector is
//     about to delete them, or has. Without it, a session might rely on them and
//     the collector go on. Packs that the index names and that are gone are
//     condemned again before.
//
// So the last four are only removed when nothing of what was at work goes on.

// use says what it takes to do without an object of a prefix.
func use(prefix string) (why string, offline, ok bool) {
	switch prefix {
	case ondisk.LedgerPrefix, ondisk.ResumePrefix:
		return "it was a hint, and may be removed", false, true
	case ondisk.IndexPrefix:
		return "the index has what the packs say, and it may be removed", false, true
	case ondisk.SessionPrefix:
		return "it may be removed if no session is at work (Offline)", true, true
	case ondisk.ForgetPrefix:
		return "it may be removed if nothing is at work (Offline); the point is not forgotten then", true, true
	case ondisk.HoldPrefix:
		return "it may be removed if nothing is at work (Offline); the point is not held then", true, true
	case ondisk.ClosedPrefix:
		return "it may be removed if nothing is at work (Offline); points of which it said that they are forgotten may come back", true, true
	case ondisk.CondemnPrefix:
		return "it may be removed if nothing is at work (Offline)", true, true
	default:
		return "", false, false
	}
}

// removeUseless lists objects that cannot be read and can be done without, and
// removes those that were named.
func (p *repairer) removeUseless(ctx context.Context) error {
	var refused []error
	useless := map[string]bool{}
	for _, d := range p.v.damage() {
		prefix, name := path.Split(d.Object)
		why, offline, ok := use(prefix)
		if !ok || name == "" || d.Chunk != "" {
			continue
		}
		if ok, err := p.unreadable(ctx, d.Object); err != nil || !ok {
			if err != nil {
				return err
			}
			continue
		}
		useless[d.Object] = true
		p.rep.Useless = append(p.rep.Useless, Damage{Object: d.Object, Reason: d.Reason + ": " + why})
		switch {
		case !slices.Contains(p.o.Remove, d.Object):
		case offline && !p.o.Offline:
			refused = append(refused, fmt.Errorf("%w: %q: %s", fs.ErrPermission, d.Object, why))
		default:
			if err := p.remove(ctx, prefix, d.Object); err != nil {
				return err
			}
		}
	}
	for _, key := range p.o.Remove {
		if useless[key] {
			continue
		}
		listed, err := p.r.isListed(ctx, key)
		if err != nil {
			return err
		}
		if listed {
			refused = append(refused, fmt.Errorf("%w: %q is not among what can be done without", fs.ErrInvalid, key))
		}
	}
	return errors.Join(refused...)
}

// unreadable reports whether an object still cannot be read, for a reason that
// is damage.
func (p *repairer) unreadable(ctx context.Context, key string) (bool, error) {
	check := p.v.checkOf(key)
	if check == nil {
		return false, nil
	}
	err := check(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		err = p.v.vanished(ctx, key)
	}
	if errors.Is(err, ErrCorrupt) {
		return !unjudged(err), nil
	}
	return false, err
}

func (p *repairer) remove(ctx context.Context, prefix, key string) error {
	if !p.o.DryRun {
		if prefix == ondisk.ClosedPrefix {
			if err := p.closeForgotten(ctx); err != nil {
				return err
			}
		}
		if err := p.r.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	p.rep.Removed = append(p.rep.Removed, key)
	return nil
}

// closeForgotten closes what is to be forgotten and not held, in case that only
// an unreadable set says that it is closed.
func (p *repairer) closeForgotten(ctx context.Context) error {
	var gone []attempt
	for o, err := range p.r.store.List(ctx, ondisk.ForgetPrefix) {
		if err != nil {
			return err
		}
		a, err := ondisk.ParseAttempt(strings.TrimPrefix(o.Key, ondisk.ForgetPrefix))
		if err != nil || p.v.roots.closed.Has(a) {
			continue // not ours, or closed
		}
		holds, err := p.r.holds(ctx, a)
		if err != nil {
			return err
		}
		if len(holds) == 0 {
			gone = append(gone, a)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return p.r.putSet(ctx, ondisk.ClosedPrefix, 0, ondisk.NewAttemptSet(gone...).Encode())
}

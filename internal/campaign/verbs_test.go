// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"gocloud.dev/blob"

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
	doInit    verb = "init"
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

// thorough are the options of a collection that gives up every session.
const thorough = "-1 1 0.5"

// collects draws the options of a collection.
func collects(rng *rand.Rand) string {
	stale := []string{"-1", "3600000000000", "0"}[rng.IntN(3)]
	return stale + " 1 " + []string{"0.5", "-1", "0.9"}[rng.IntN(3)]
}

// tidy collects until there must be nothing left to do.
func tidy(ctx context.Context, r *repo.Repository, b *blob.Bucket) error {
	for range 2 {
		if err := (&pantry{}).change(ctx, r, &event{verb: doCollect, recipe: thorough}); err != nil {
			return err
		}
	}
	before, err := list(ctx, b)
	if err != nil {
		return err
	}
	for _, key := range before {
		kind, attempt, _ := strings.Cut(key, "/")
		held := slices.ContainsFunc(before, func(k string) bool { return strings.HasPrefix(k, "hold/"+attempt) })
		if slices.Contains([]string{"session", "forget", "probe"}, kind) && !(kind == "forget" && held) { // a wish that waits
			return fmt.Errorf("%w: %s is still there", errGarbage, key)
		}
	}
	rep, err := r.Collect(ctx, &repo.CollectOptions{DryRun: true, StaleAfter: -1, MaxDelete: 1})
	if err == nil && rep.Condemned+rep.Deleted+rep.Remaining+rep.Fenced+rep.Open > 0 {
		return fmt.Errorf("%w: a third collection finds %+v", errGarbage, *rep)
	}
	return err
}

// errGarbage reports what collections should have removed.
var errGarbage = errors.New("garbage stays")

// list returns all keys of a bucket.
func list(ctx context.Context, b *blob.Bucket) ([]string, error) {
	var keys []string
	for i := b.List(nil); ; {
		o, err := i.Next(ctx)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, o.Key)
	}
}

// raze forgets everything, and expects that nothing of it is left.
func raze(ctx context.Context, r *repo.Repository, b *blob.Bucket) error {
	points, err := r.Points(ctx)
	if err != nil {
		return err
	}
	for _, pt := range points {
		holders, err := r.Holders(ctx, pt.ID)
		if err != nil {
			return err
		}
		for _, h := range holders {
			if err := r.Release(ctx, pt.ID, h); err != nil {
				return err
			}
		}
		if err := r.Forget(ctx, pt.ID); err != nil {
			return err
		}
	}
	if err := tidy(ctx, r, b); err != nil {
		return err
	}
	keys, err := list(ctx, b)
	if err != nil {
		return err
	}
	for _, key := range keys {
		kind, _, _ := strings.Cut(key, "/")
		if slices.Contains([]string{"pack", "index", "point", "hold", "session", "forget", "resume"}, kind) {
			return fmt.Errorf("%w: all is forgotten, and %s is there", errGarbage, key)
		}
	}
	return nil
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
	case doCollect:
		var o repo.CollectOptions
		if _, err := fmt.Sscan(e.recipe, &o.StaleAfter, &o.MaxDelete, &o.Repack); err != nil {
			return fmt.Errorf("collect %q: %w", e.recipe, err)
		}
		_, err := r.Collect(ctx, &o)
		return err
	default:
		return fmt.Errorf("%s changes nothing", e.verb)
	}
}

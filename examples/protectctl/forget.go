// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/retention"
)

// forgetResult is what forget prints.
type forgetResult struct {
	DryRun    bool     `json:"dry_run"`
	Forgotten []string `json:"forgotten"` // or would be
	// Decisions say what a policy makes of each point, the oldest first. They
	// are empty without one.
	Decisions []decisionResult `json:"decisions"`
}

type decisionResult struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Committed time.Time `json:"committed,omitzero"`
	Keep      bool      `json:"keep"`
	Reasons   []string  `json:"reasons"` // why it is kept
}

// forgetFlags say what to forget.
type forgetFlags struct {
	retention.Policy
	within string
	names  []string
	dryRun bool
}

func (c *cli) forgetCommand() *cobra.Command {
	f := &forgetFlags{}
	cmd := &cobra.Command{
		Use:   "forget POINT… | --keep-…",
		Short: "Forget recovery points: those that are named, or that a policy does not keep",
		Long: `Forget recovery points, for ever; gc frees what only they needed. Those that are
held are never forgotten.

Without a POINT, the flags --keep-… are a policy, which is applied to the points
of each name separately. A point is kept if one of them keeps it. They go by the
times at which the store saw the commits, in UTC, and not by what the programs
said that wrote them. The newest point of a name is always kept.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, err := f.policy(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				if policy == nil {
					return c.forgetPoints(ctx, r, args, f.dryRun)
				}
				return c.forgetByPolicy(ctx, r, policy, f)
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&f.dryRun, "dry-run", "n", false, "show what would be forgotten, and forget nothing")
	fs.IntVar(&f.Last, "keep-last", 0, "keep so many of the newest points")
	for _, p := range []struct {
		n            *int
		flag, period string
	}{
		{&f.Hourly, "hourly", "hours"},
		{&f.Daily, "daily", "days"},
		{&f.Weekly, "weekly", "weeks"},
		{&f.Monthly, "monthly", "months"},
		{&f.Yearly, "yearly", "years"},
	} {
		fs.IntVar(p.n, "keep-"+p.flag, 0, "keep the newest point of each of so many of the last "+p.period+" that have one")
	}
	fs.StringVar(&f.within, "keep-within", "", "keep points that are at most so much older than the newest one, such as 36h, 30d or 2w")
	fs.StringArrayVar(&f.Tags, "keep-tag", nil, "keep points with this label, KEY or KEY=VALUE")
	fs.IntVar(&f.MinPoints, "min-points", retention.DefaultMinPoints, "always keep so many of the newest points")
	fs.Float64Var(&f.MaxShare, "max-share", retention.DefaultMaxShare, "forget nothing if it would be more than this share of the points of a name; 1 is no limit")
	fs.StringArrayVar(&f.names, "name", nil, "apply the policy to points of this name only")
	return cmd
}

// policy returns the policy that the flags say, or nil if points are named.
func (f *forgetFlags) policy(fs *pflag.FlagSet, args []string) (*retention.Policy, error) {
	if len(args) > 0 {
		var err error
		fs.Visit(func(fl *pflag.Flag) {
			if strings.HasPrefix(fl.Name, "keep-") || slices.Contains([]string{"min-points", "max-share", "name"}, fl.Name) {
				err = fmt.Errorf("--%s is for a policy: use that, or name points", fl.Name)
			}
		})
		return nil, err
	}
	p := f.Policy
	if f.within != "" {
		var err error
		if p.Within, err = retention.ParseDuration(f.within); err != nil {
			return nil, err
		}
	}
	if fs.Changed("max-share") && p.MaxShare == 0 || fs.Changed("min-points") && p.MinPoints == 0 {
		return nil, errors.New("--max-share and --min-points cannot be 0")
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("name points or say what to keep: %w", err)
	}
	return &p, nil
}

func (c *cli) forgetPoints(ctx context.Context, r *repo.Repository, args []string, dryRun bool) error {
	res := forgetResult{DryRun: dryRun, Forgotten: []string{}, Decisions: []decisionResult{}}
	for _, arg := range args {
		p, err := findPoint(ctx, r, arg)
		if err != nil {
			return err
		}
		holders, err := r.Holders(ctx, p.ID)
		if err != nil {
			return err
		}
		if len(holders) > 0 { // a dry run has to say so, too
			return fmt.Errorf("point %q is held by %s", p.ID, texts(holders))
		}
		if !slices.Contains(res.Forgotten, p.ID) {
			res.Forgotten = append(res.Forgotten, p.ID)
		}
	}
	return c.forget(ctx, r, &res)
}

func (c *cli) forgetByPolicy(ctx context.Context, r *repo.Repository, policy *retention.Policy, f *forgetFlags) error {
	all, err := r.Points(ctx)
	if err != nil {
		return fmt.Errorf("nothing is forgotten while it is not known what there is: %w", err)
	}
	if len(f.names) > 0 {
		all = slices.DeleteFunc(all, func(p *repo.Point) bool { return !slices.Contains(f.names, p.Name) })
	}
	plan, err := planRetention(ctx, r, policy, all)
	if err != nil {
		return err
	}
	res := forgetResult{DryRun: f.dryRun, Forgotten: some(plan.Forget())}
	for _, d := range plan.Decisions {
		res.Decisions = append(res.Decisions, decisionResult{
			ID: d.Point.ID, Name: d.Point.Group, Committed: d.Point.Time, Keep: d.Keep, Reasons: some(d.Reasons),
		})
	}
	res.Decisions = some(res.Decisions)
	return c.forget(ctx, r, &res)
}

// planRetention applies a policy to points. Holds are looked up for those only
// that it would forget otherwise.
func planRetention(ctx context.Context, r *repo.Repository, policy *retention.Policy, all []*repo.Point) (*retention.Plan, error) {
	points := make([]retention.Point, 0, len(all))
	for _, p := range slices.Backward(all) { // the oldest first
		pt := retention.Point{ID: p.ID, Group: p.Name, Time: p.Committed}
		for k, v := range p.Labels {
			pt.Tags = append(pt.Tags, k, k+"="+v)
		}
		points = append(points, pt)
	}
	slices.SortStableFunc(points, func(a, b retention.Point) int { return a.Time.Compare(b.Time) })
	plan, err := policy.Plan(points)
	if plan == nil {
		return nil, err
	}
	for i, d := range plan.Decisions {
		if !d.Keep {
			holders, err := r.Holders(ctx, d.Point.ID)
			if err != nil {
				return nil, err
			}
			points[i].Held = len(holders) > 0
		}
	}
	return policy.Plan(points)
}

// forget forgets what the result says, unless that is a dry run.
func (c *cli) forget(ctx context.Context, r *repo.Repository, res *forgetResult) error {
	if !res.DryRun {
		if err := r.Forget(ctx, res.Forgotten...); err != nil {
			return err
		}
	}
	return c.print(res, func(w io.Writer) {
		for _, d := range res.Decisions {
			verdict := "forget"
			if d.Keep {
				verdict = "keep"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", verdict, text(d.ID), text(d.Name), d.Committed.UTC().Format(time.DateTime+"Z"), texts(d.Reasons))
		}
		verb := "forgotten"
		if res.DryRun {
			verb = "would be forgotten"
		}
		for _, id := range res.Forgotten {
			if len(res.Decisions) == 0 {
				fmt.Fprintf(w, "%s\t%s\n", verb, text(id))
			}
		}
		fmt.Fprintf(w, "%d %s\n", len(res.Forgotten), verb)
	})
}

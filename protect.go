// SPDX-License-Identifier: Apache-2.0

// Package protect takes application-consistent recovery points of stateful
// containers and brings them back.
//
// A [Protector] quiesces an [Application] through its hooks, cuts all its
// volumes as one consistency group, thaws it at once, moves the data into a
// deduplicating encrypted repository, and says what it proved: the
// [Consistency] of a [RecoveryPoint] is what the targets answered, never what
// was hoped for.
//
//	p, err := protect.New(protect.Config{Repository: r, Snapshots: s})
//	...
//	point, err := p.Run(ctx, app, "2026-11-23T08:00")
//
// # Two faces, one engine
//
// [Protector.Run] blocks until the point is committed. [Protector.Step] does
// one step and returns the next [State], which an operator stores in the status
// of its custom resource: the State is JSON of less than [MaxState] bytes
// without secrets, and every step may be repeated from the State before it.
//
// # When a process dies
//
// Nothing that it leaves does harm. A frozen target thaws by itself within the
// window, or when [Protector.Recover] runs in the next process, which is to
// happen before anything else. Run and Step, given the same ID, remove the
// snapshots that an earlier try left, and finish the point or find it
// committed. [Protector.Abandon] is for points that nobody will finish.
//
// # Errors
//
// Methods of Protector return an *[Error] that says in which [Phase] of which
// point the error happened. It unwraps to the standard sentinels and to those
// of the packages hooks, snapshot, repo and restore.
//
// # Compatibility
//
// The module is at version 0: the API may change between minor versions. A
// State is read by the release that wrote it and by the next one.
package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/internal/keylock"
	"github.com/stillpoint-go/protect/internal/retry"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore"
	"github.com/stillpoint-go/protect/snapshot"
)

// Config is what a Protector works with. Everything in it stays the caller's.
type Config struct {
	// Repository holds the recovery points. Required.
	Repository *repo.Repository
	// Snapshots cuts the volumes. Required.
	Snapshots *snapshot.Provider
	// Reuse says by what a file is known to be unchanged where snapshots do not
	// keep inodes and their times, so that it need not be read; see repo.Reuse.
	// Those that do are always compared by change times. The zero value reads
	// every file.
	Reuse repo.Reuse
	// Journal remembers freezes over the death of the process. Required for
	// applications with a hooks.Persistent member.
	Journal hooks.Journal
	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
	// Events is told what happens. Nil is fine.
	Events *Events
}

// Protector takes and restores recovery points. It is safe for concurrent use;
// of one application it freezes one point at a time.
type Protector struct {
	cfg    Config
	log    hclog.Logger
	locks  keylock.Set
	events Events
}

// New returns a Protector. It does no I/O.
func New(cfg Config) (*Protector, error) {
	if cfg.Repository == nil || cfg.Snapshots == nil {
		return nil, errors.New("protect: Config needs a Repository and Snapshots")
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	p := &Protector{cfg: cfg, log: cfg.Logger.Named("protect")}
	if cfg.Events != nil {
		p.events = *cfg.Events
	}
	return p, nil
}

// Application is what a recovery point is taken of: volumes that belong
// together, and how to quiesce who writes to them.
type Application struct {
	// Name groups the recovery points, and the freezes in the journal.
	Name    string
	Volumes []Volume
	// Members are frozen in this order and thawed in reverse: the application
	// first, then what it depends on, file systems last. If one of them has
	// DependsOn, that is the order.
	Members []Member
	// Window bounds the time from the first freeze to the last thaw. 0 means
	// hooks.DefaultWindow; hooks.MaxWindow is the most.
	Window time.Duration
	// MinGap and Budget bound how often and, within any hour, how long the
	// application is frozen; 0 is no limit. They need Config.Journal. A step
	// that comes too soon fails with a *hooks.TooSoonError, which says when to
	// come again. See hooks.GroupOptions.
	MinGap time.Duration
	Budget time.Duration
	// Require is the weakest consistency that is worth keeping. A point that
	// turns out weaker is an error that matches ErrConsistency.
	Require Consistency
	// Labels are stored with the recovery points.
	Labels map[string]string
}

// Volume is a volume of an application.
type Volume struct {
	// Name identifies the volume within the recovery point: a valid file name.
	Name string
	// ID is the provider's identifier of the volume.
	ID snapshot.VolumeID
	// AfterThaw has the volume cut once all members have thawed, instead of
	// together with the others. It is for what is complete only then: the log
	// that a database needs to recover from a cut of its data, or a dump that a
	// member writes while it thaws. Nobody holds such a volume still: it counts
	// for no Consistency, members cannot cover it, and its writers have to
	// rename files that are complete. At least one volume is cut with the rest.
	AfterThaw bool
}

// Member is something to quiesce.
type Member struct {
	// Name is unique in the application and stays the same over restarts.
	Name     string
	Quiescer hooks.Quiescer
	// Volumes names the volumes that nobody writes to while this member holds.
	// Empty means all volumes of the application but those cut after the thaw.
	Volumes []string
	// DependsOn names the members that this one needs to freeze and to thaw. It
	// freezes before them and thaws after them; members that do not depend on
	// each other do so at the same time. See hooks.Member.
	DependsOn []string
}

func (a *Application) validate() error {
	if a.Name == "" || len(a.held()) == 0 {
		return errors.New("an application needs a name and at least one volume that is cut before the thaw")
	}
	after := map[string]bool{}
	for _, v := range a.Volumes {
		if _, taken := after[v.Name]; v.Name == "" || v.ID == "" || taken {
			return fmt.Errorf("volume %q needs an ID and a name of its own", v.Name)
		}
		after[v.Name] = v.AfterThaw
	}
	for _, m := range a.Members {
		if m.Name == evidenceName {
			return fmt.Errorf("the member name %q is reserved", m.Name)
		}
		for _, v := range m.Volumes {
			if late, known := after[v]; !known || late {
				return fmt.Errorf("member %q covers volume %q, which is unknown or cut after the thaw", m.Name, v)
			}
		}
	}
	return nil
}

// held returns the volumes that are cut while the members hold.
func (a *Application) held() []Volume { return a.volumes(false) }

func (a *Application) volumes(afterThaw bool) []Volume {
	var vols []Volume
	for _, v := range a.Volumes {
		if v.AfterThaw == afterThaw {
			vols = append(vols, v)
		}
	}
	return vols
}

func (p *Protector) group(app *Application) (*hooks.Group, error) {
	if p.cfg.Journal == nil && (app.MinGap > 0 || app.Budget > 0) {
		return nil, errors.New("MinGap and Budget need Config.Journal, which remembers freezes")
	}
	members := make([]hooks.Member, 0, len(app.Members))
	for _, m := range app.Members {
		members = append(members, hooks.Member{Name: m.Name, Quiescer: m.Quiescer, DependsOn: m.DependsOn})
	}
	return hooks.NewGroup(app.Name, members, &hooks.GroupOptions{
		Window: app.Window, MinGap: app.MinGap, Budget: app.Budget, Journal: p.cfg.Journal, Logger: p.log,
	})
}

// maxCuts bounds how often Run cuts the volumes because somebody removed the
// snapshots before they were stored.
const maxCuts = 2

// runAttempts is how often Run tries a step that does not freeze anything.
const runAttempts = 4

// Run takes the recovery point with this ID and returns it. If it is there
// already, Run returns it without touching the application. Steps that failed
// for a passing reason are repeated a few times, but never the freeze: whether
// an application may be frozen again is for the caller to decide.
//
// Run may be cancelled or killed at any time; call it again with the same ID.
func (p *Protector) Run(ctx context.Context, app Application, id string) (*RecoveryPoint, error) {
	unlock, err := p.locks.Lock(ctx, "run\x00"+id)
	if err != nil {
		return nil, &Error{Op: "run", ID: id, Err: err}
	}
	defer unlock()
	s := NewState(id)
	for cuts := 0; ; {
		if s.Phase == PhaseCut {
			cuts++
		}
		res, err := p.runStep(ctx, app, &s)
		if err == nil && s.Phase == PhasePrepare && cuts == maxCuts {
			err = &Error{Op: "run", ID: id, Err: fmt.Errorf("its snapshots were removed by somebody else, %d times: %w", cuts, fs.ErrNotExist)}
		}
		if err != nil {
			if s.Cut != nil {
				p.abandonDetached(ctx, id)
			}
			return nil, err
		}
		if res.Done {
			return res.Point, nil
		}
		if err := wait(ctx, res.RequeueAfter); err != nil {
			p.abandonDetached(ctx, id)
			return nil, &Error{Op: "run", ID: id, Phase: s.Phase, Err: err}
		}
	}
}

// runStep does one step, repeatedly if it fails and freezes nothing.
func (p *Protector) runStep(ctx context.Context, app Application, s *State) (Result, error) {
	var res Result
	attempts := runAttempts
	if s.Phase == PhaseCut {
		attempts = 1
	}
	info := PhaseInfo{ID: s.ID, Application: app.Name, Phase: s.Phase}
	notify := func(err error, wait time.Duration) { p.events.retry(ctx, info, err, wait) }
	err := retry.Do(ctx, retry.Policy{Attempts: attempts, PerTry: maxStep, Notify: notify}, func(ctx context.Context) error {
		next, r, err := p.Step(ctx, app, *s)
		if err == nil {
			*s, res = next, r
			return nil
		}
		if final(err) {
			return retry.Final(err)
		}
		return err
	})
	return res, err
}

// maxStep bounds one step of Run: an upload of a large volume takes hours.
const maxStep = 7 * 24 * time.Hour

// final reports whether repeating a step cannot help.
func final(err error) bool {
	for _, f := range []error{ErrConsistency, ErrState, repo.ErrFormat, repo.ErrKey, repo.ErrFull} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Recover thaws what a dead process left frozen of the application. Call it
// when a process starts, before anything else. It is idempotent.
func (p *Protector) Recover(ctx context.Context, app Application) error {
	unlock, err := p.locks.Lock(ctx, "freeze\x00"+app.Name)
	if err == nil {
		defer unlock()
		var g *hooks.Group
		if g, err = p.group(&app); err == nil {
			err = g.Recover(ctx)
		}
	}
	if err != nil {
		return &Error{Op: "recover", Err: err}
	}
	return nil
}

// Abandon removes the snapshots of a point that will not be finished, and thaws
// what its freeze may have left. A committed recovery point stays.
func (p *Protector) Abandon(ctx context.Context, app Application, id string) error {
	if err := errors.Join(p.Recover(ctx, app), p.cfg.Snapshots.Sweep(ctx, setPrefix(id))); err != nil {
		return &Error{Op: "abandon", ID: id, Err: err}
	}
	return nil
}

// cleanupTimeout bounds what is done after the caller's context has ended.
const cleanupTimeout = 30 * time.Second

// abandonDetached removes the snapshots of a point after a failure, as far as
// it can. What remains is removed by the next try with the same ID.
func (p *Protector) abandonDetached(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := p.cfg.Snapshots.Sweep(ctx, setPrefix(id)); err != nil {
		p.log.Warn("snapshots are left over until the point is tried again or abandoned", "id", id, "error", err)
	}
}

// Points returns all recovery points of an application, the newest first. If
// records in the repository are damaged, it returns the others together with an
// error that matches repo.ErrCorrupt.
func (p *Protector) Points(ctx context.Context, application string) ([]*RecoveryPoint, error) {
	all, err := p.cfg.Repository.Points(ctx)
	if err != nil {
		err = &Error{Op: "points", Err: err}
	}
	var out []*RecoveryPoint
	for _, rp := range all {
		if rp.Name == application {
			out = append(out, NewRecoveryPoint(rp))
		}
	}
	return out, err
}

// Restore writes all volumes of a recovery point below the directory target,
// which must not exist or be empty. See package restore for single volumes and
// paths.
func (p *Protector) Restore(ctx context.Context, id, target string, opts *restore.Options) (*restore.Report, error) {
	point, err := p.cfg.Repository.Point(ctx, id)
	if err != nil {
		return nil, &Error{Op: "restore", ID: id, Err: err}
	}
	rep, err := restore.Point(ctx, p.cfg.Repository, point, target, opts)
	if err != nil {
		return rep, &Error{Op: "restore", ID: id, Err: err}
	}
	return rep, nil
}

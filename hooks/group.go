// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// DefaultWindow is the window of a Group that sets none.
	DefaultWindow = 10 * time.Second
	// MaxWindow is the longest window that a Group accepts: what is frozen
	// for longer is restarted by its supervisor or its clients give up.
	MaxWindow = 60 * time.Second
	// MaxMembers is the largest number of members of a Group.
	MaxMembers = 64

	defaultThawTimeout = 10 * time.Second

	rehearsalID = "rehearsal" // in the journal
)

// Member is one target of a Group.
type Member struct {
	// Name is unique in its group and stays the same over restarts, since
	// intents name it: 1 to 64 of the characters a-z A-Z 0-9 . _ -, the first
	// one not a dot.
	Name string
	// Quiescer freezes the target.
	Quiescer Quiescer
	// DependsOn names the members that this one needs to freeze and to thaw:
	// an application its database, a database the file system that it writes
	// to. It freezes before each of them and thaws after them.
	//
	// If no member has dependencies, each depends on the one after it.
	DependsOn []string
}

// GroupOptions are the optional settings of a Group.
type GroupOptions struct {
	// Window is the longest time from the begin of the first Quiesce to the
	// return of the last Thaw. Zero means DefaultWindow; more than MaxWindow
	// is refused. The last tenth of it is kept for proof and thaw: the cut
	// and the quiescers see a deadline that is that much earlier.
	Window time.Duration
	// ThawTimeout bounds the attempts to thaw one member, or to recover it.
	// It also bounds how long Do waits, after the thaw, for a call that
	// ignores the end of its context. Zero means 10 s.
	ThawTimeout time.Duration
	// MinGap is the shortest time between the end of a freeze of this
	// application and the begin of the next, at most 24 hours. A freeze that
	// comes before is refused with a *TooSoonError. Zero is no limit.
	MinGap time.Duration
	// Budget is the longest time that the application may be frozen within any
	// hour, all freezes together. A freeze for which it has no whole window
	// left is refused with a *TooSoonError. Zero is no limit, less than Window
	// is refused.
	//
	// MinGap and Budget count what the journal remembers, also of other
	// processes and of freezes whose process died: those count as a whole
	// window. They keep the load of freezes low, by the clock; safety does not
	// depend on them.
	Budget time.Duration
	// Journal remembers the intents to freeze. It must outlive the process if
	// a member is Persistent; then nil is refused. Otherwise nil means a new
	// MemJournal.
	Journal Journal
	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
}

func (o *GroupOptions) withDefaults() GroupOptions {
	var opts GroupOptions
	if o != nil {
		opts = *o
	}
	if opts.Window == 0 {
		opts.Window = DefaultWindow
	}
	if opts.ThawTimeout == 0 {
		opts.ThawTimeout = defaultThawTimeout
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	return opts
}

// Group freezes the members of one application for the time of a cut. It is
// safe for concurrent use and runs one freeze at a time.
type Group struct {
	name    string
	members []Member
	ranks   [][]int // indices of members, in freeze order
	opts    GroupOptions
	journal Journal
	logger  hclog.Logger
	// margin is the end of the window that is kept for proof and thaw, and
	// the patience with a call whose context has ended.
	margin time.Duration
	turn   chan struct{} // holds a token while a freeze or a recovery runs
	strays strays

	mu   sync.Mutex
	owed []owedHold
}

// NewGroup returns the group of the application called name. Members freeze
// before what they depend on: the application first, the file system last.
// Those that do not depend on each other, directly or through others, form a
// rank and freeze at the same time; a rank begins when the one before it
// holds, and the cut when all of them do. Thawing goes strictly the other way,
// rank by rank. Without any Member.DependsOn the slice order is the order of
// freezing, one after another. A group without members is fine: its Do runs
// the cut and proves nothing.
//
// The name is the key of the application's intents in the journal: 1 to 253
// bytes of printable UTF-8. Two processes that use one name and one journal
// recover each other's freezes; that costs the other one its proof, never
// consistency.
func NewGroup(name string, members []Member, opts *GroupOptions) (*Group, error) {
	if err := checkText("group name", name, maxApplication); err != nil {
		return nil, err
	}
	o := opts.withDefaults()
	if o.Window < 0 || o.Window > MaxWindow {
		return nil, fmt.Errorf("hooks: window %v is not between 0 and %v", o.Window, MaxWindow)
	}
	if o.ThawTimeout < 0 {
		return nil, fmt.Errorf("hooks: thaw timeout %v is negative", o.ThawTimeout)
	}
	if err := checkBudget(o); err != nil {
		return nil, err
	}
	if len(members) > MaxMembers {
		return nil, fmt.Errorf("hooks: %d members, at most %d are allowed", len(members), MaxMembers)
	}
	seen := make(map[string]bool, len(members))
	for _, m := range members {
		if err := checkMember(m, o.Journal != nil); err != nil {
			return nil, err
		}
		if seen[m.Name] {
			return nil, fmt.Errorf("hooks: member %q is listed twice", m.Name)
		}
		seen[m.Name] = true
	}
	order, err := ranks(members)
	if err != nil {
		return nil, err
	}
	g := &Group{
		name:    name,
		members: append([]Member(nil), members...),
		ranks:   order,
		opts:    o,
		journal: o.Journal,
		logger:  o.Logger.Named("hooks").With("application", name),
		margin:  o.Window / 10,
		turn:    make(chan struct{}, 1),
	}
	if g.journal == nil {
		g.journal = NewMemJournal()
	}
	return g, nil
}

func checkMember(m Member, journal bool) error {
	if err := checkName(m.Name); err != nil {
		return err
	}
	if m.Quiescer == nil {
		return fmt.Errorf("hooks: member %q has no quiescer", m.Name)
	}
	if m.Quiescer.Traits().Release != Persistent {
		return nil
	}
	if _, ok := m.Quiescer.(Recoverer); !ok {
		return fmt.Errorf("hooks: member %q freezes persistently but cannot recover", m.Name)
	}
	if !journal {
		return fmt.Errorf("hooks: member %q freezes persistently: GroupOptions.Journal is required", m.Name)
	}
	return nil
}

// Prepare asks every member that is a Preparer to work ahead of the window, in
// the order of the group, and joins their errors, which name the member. It
// blocks no writes, touches no journal, and may run at any time.
func (g *Group) Prepare(ctx context.Context) error {
	var errs []error
	for _, m := range g.members {
		p, ok := m.Quiescer.(Preparer)
		if !ok {
			continue
		}
		_, err := call(ctx, &g.strays, g.margin, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, p.Prepare(ctx)
		}, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("hooks: prepare %q: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Do freezes all members, runs cut while all of them hold, asks each for the
// proof that it held, and thaws. It waits for its turn first, honouring ctx,
// and recovers what an earlier freeze of this application left. The id is for
// people who read the journal: 1 to 256 bytes of printable UTF-8.
//
// The context of cut ends a margin before the window does. The members thaw,
// rank by rank in reverse order, on every path: success, error, end of ctx, end
// of the window, a panic in cut or in a quiescer, which is contained and
// returned as a *PanicError, and runtime.Goexit in cut. The thaw does not depend
// on ctx.
//
// A cut that ignores its context is given up on when the window ends; the
// error wraps ErrWindowExceeded. After the thaw Do waits ThawTimeout for it
// and then returns. The cut's goroutine ends when cut returns; until then the
// next Do waits, so that two cuts of one application never overlap. The same
// holds for a quiescer that ignores its context. If it freezes after all, its
// hold is thawed the moment it arrives.
//
// The error is the one of the freeze or of the cut, joined with those of
// members whose thaw was not acknowledged. The intent of the latter remains in
// the journal, so that the next Do or Recover thaws them before anything else.
// A freeze that merely lacks its proof, because a member lost its hold or the
// window was overrun by a cut that succeeded, is no error: the report says so,
// and the caller must lower the level of consistency. More evidence than
// MaxEvidence is an error.
//
// The report is nil only if nothing was attempted.
func (g *Group) Do(ctx context.Context, id string, cut func(context.Context) error) (*Report, error) {
	if err := checkText("id", id, maxID); err != nil {
		return nil, err
	}
	if cut == nil {
		return nil, errors.New("hooks: cut is nil")
	}
	if err := g.take(ctx); err != nil {
		return nil, err
	}
	defer g.leave()
	if err := g.strays.wait(ctx); err != nil {
		return nil, err
	}
	if err := g.recover(ctx); err != nil {
		return nil, err
	}
	if len(g.members) == 0 {
		return g.cutOnly(ctx, cut)
	}
	epoch, err := g.begin(ctx, id)
	if err != nil {
		return nil, err
	}
	f := newFreeze(g, epoch)
	err = f.run(ctx, cut)
	return f.report, err
}

// freezes says whether a member freezes anything.
func (g *Group) freezes() bool {
	return slices.ContainsFunc(g.members, func(m Member) bool { return m.Quiescer.Traits().Release != Nothing })
}

// begin admits a freeze and journals the intent: without a durable one nobody
// would thaw what we leave if we die. Where nothing is frozen, the epoch is 0.
func (g *Group) begin(ctx context.Context, id string) (Epoch, error) {
	if !g.freezes() {
		return 0, nil
	}
	if err := g.admit(ctx); err != nil {
		return 0, err
	}
	var names []string
	for _, m := range g.inOrder() {
		names = append(names, m.Name)
	}
	epoch, err := g.journal.Begin(ctx, Intent{
		Application: g.name, ID: id, Members: names, Window: g.opts.Window, Began: time.Now().UTC(),
	})
	if err != nil {
		return 0, fmt.Errorf("hooks: journal the intent to freeze: %w", err)
	}
	return epoch, nil
}

// Rehearse does everything but the cut: it lets the members prepare, freezes
// all of them, asks each for its proof, and thaws. The report has the times that
// a freeze takes here and now, and whether it can be proven; the error is the
// first permission, program or target that is not as it should be. Run it
// before the first real freeze. It is a freeze like any other: the members are
// blocked, and it counts for MinGap and Budget.
func (g *Group) Rehearse(ctx context.Context) (*Report, error) {
	if err := g.Prepare(ctx); err != nil {
		return nil, err
	}
	return g.Do(ctx, rehearsalID, func(context.Context) error { return nil })
}

// inOrder returns the members in freeze order.
func (g *Group) inOrder() []Member {
	var members []Member
	for _, rank := range g.ranks {
		for _, i := range rank {
			members = append(members, g.members[i])
		}
	}
	return members
}

// cutOnly runs the cut of a group without members. Nothing is frozen, so that
// there is no window to keep.
func (g *Group) cutOnly(ctx context.Context, cut func(context.Context) error) (*Report, error) {
	began := time.Now()
	_, err := call(ctx, &g.strays, g.margin, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, cut(ctx)
	}, nil)
	if err != nil {
		err = fmt.Errorf("hooks: cut: %w", err)
	}
	return &Report{Window: g.opts.Window, Cut: time.Since(began)}, err
}

// take waits for the group's turn.
func (g *Group) take(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hooks: another freeze of %q is running: %w", g.name, why(ctx))
	}
}

func (g *Group) leave() { <-g.turn }

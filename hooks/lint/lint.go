// SPDX-License-Identifier: Apache-2.0

// Package lint looks for mistakes in how an application is to be frozen, before
// it is frozen for the first time: locks that die with the client that took
// them, freezes that nobody thaws, helpers that stand on what they freeze,
// snapshots that wait for the file system that they are to be cut from.
//
// It freezes nothing, runs nothing, and asks no target. It reads what is
// configured, scripts that are short enough, and on which file systems files lie.
// That it finds nothing is no proof: rehearse the freeze as well.
//
//	for _, f := range lint.Check(&lint.Application{Members: …, Volumes: …}) {
//		fmt.Println(f)
//	}
//
// An application of the façade is checked with protect.Protector.Lint, which
// knows what its snapshots are. The package knows members only through
// [Describer], so that it depends on no kind of them, and quiescers of others can
// be checked as well. What has no description is checked by its
// hooks.Traits alone. It stands below the façade and beside the quiescers because
// hooks can be used without volumes, and a linter has to fit there too: then
// Volumes stay empty.
//
// # Rules
//
// The names of the rules are stable. docs/recipes/lint.md has a table of them,
// with what happens, and how to mend it.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// Severity says how bad a finding is.
type Severity int

const (
	// Error is a freeze that cannot work, or holds nothing.
	Error Severity = iota
	// Warning is a freeze that can work, and can fail for a known reason.
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Rule is the stable name of a rule.
type Rule string

// The rules. docs/recipes/lint.md says more of each.
const (
	TornCut        Rule = "atomic-cut"             // a proof that is worth nothing in this cut
	BrokenOrder    Rule = "freeze-order"           // a file system that freezes before who writes to it
	DeadSnapshot   Rule = "snapshot-inside-frozen" // a snapshot that waits for the thaw
	FrozenHelper   Rule = "helper-on-frozen"       // a program that cannot be read in the freeze
	FrozenJournal  Rule = "journal-on-frozen"      // intents that cannot be written in the freeze
	LongWindow     Rule = "long-window"            // who waits is restarted, or gives up
	OneShotLock    Rule = "one-shot-lock"          // a lock that dies with its client
	ShellString    Rule = "shell-string"           // a program in a string
	UncoveredData  Rule = "uncovered-volume"       // a volume that nobody holds still
	UnpairedFreeze Rule = "unpaired-freeze"        // a freeze that nothing undoes
	UnwatchedHold  Rule = "no-watchdog"            // a freeze that outlives who made it
)

// Finding is one mistake.
type Finding struct {
	Rule     Rule     `json:"rule"`
	Severity Severity `json:"severity"`
	Member   string   `json:"member,omitempty"` // that is concerned, if one is
	Volume   string   `json:"volume,omitempty"` // the same
	What     string   `json:"what"`             // happens
	Fix      string   `json:"fix"`
}

// String returns the finding as one line.
func (f Finding) String() string {
	at := ""
	if f.Member != "" {
		at += fmt.Sprintf(" member %q", f.Member)
	}
	if f.Volume != "" {
		at += fmt.Sprintf(" volume %q", f.Volume)
	}
	return fmt.Sprintf("%s: %s:%s: %s. %s.", f.Severity, f.Rule, at, f.What, f.Fix)
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, known := range []Severity{Warning, Error} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("lint: no such severity: %q", text)
}

// DefaultPatience is how long a supervisor commonly waits for an application that
// does not answer: three probes of a Kubernetes pod, 10 s apart.
const DefaultPatience = 30 * time.Second

// Application is what is checked.
type Application struct {
	Members []Member
	// Volumes are those of the application; without them, only the members are
	// checked.
	Volumes []Volume
	// Cut is what the snapshots of the volumes are.
	Cut Cut
	// Window is that of the freeze; 0 means hooks.DefaultWindow.
	Window time.Duration
	// Journal is the directory of the journal, if it has one.
	Journal string
	// Patience is how long the supervisor and the clients of the application wait
	// before they act; 0 means DefaultPatience.
	Patience time.Duration
}

// Member is a member of the application.
type Member struct {
	hooks.Member
	// Volumes names the volumes that the member holds still; empty means all but
	// those that are cut after the thaw.
	Volumes []string
}

// Volume is a volume of the application.
type Volume struct {
	Name string
	// Path is where it can be seen, if it is a directory of this machine.
	Path string
	// AfterThaw says that the volume is cut when nobody holds it any more.
	AfterThaw bool
}

// Cut is what the snapshots of an application are.
type Cut struct {
	// Inside says that a snapshot is a write to the file system of its volume.
	Inside bool
	// Groups says that several volumes can be cut at one instant.
	Groups bool
	// PointInTime says that a volume is cut at one instant.
	PointInTime bool
}

// Check returns what is wrong, errors first, in an order that is always the same.
func Check(app *Application) []Finding {
	c := &check{app: app}
	for _, m := range app.Members {
		c.members = append(c.members, describe(m))
	}
	for _, m := range c.members {
		c.programs(m)
		c.watchdog(m)
		c.helpers(m)
		c.order(m)
		c.snapshots(m)
		c.atomic(m)
	}
	c.window()
	c.covered()
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Member, b.Member),
			cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.What, b.What))
	})
	return slices.CompactFunc(c.found, func(a, b Finding) bool { return a == b })
}

// Command returns what is wrong with the programs of one hook, by themselves.
func Command(d hooks.Description) []Finding {
	c := new(check)
	c.programs(&member{d: d})
	return c.found
}

// check is one check at work.
type check struct {
	app     *Application
	members []*member
	found   []Finding
}

func (c *check) add(s Severity, r Rule, m *member, volume, fix, what string, args ...any) {
	f := Finding{Rule: r, Severity: s, Volume: volume, What: fmt.Sprintf(what, args...), Fix: fix}
	if m != nil {
		f.Member = m.Name
	}
	c.found = append(c.found, f)
}

// member is a member with what is known of it.
type member struct {
	Member
	traits hooks.Traits
	d      hooks.Description
}

// Describer is implemented by quiescers that can say what they run and touch:
// those of hooks/command and hooks/fsfreeze are, and others may be.
type Describer interface {
	// Describe returns the constant configuration; it is the caller's.
	Describe() hooks.Description
}

func describe(m Member) *member {
	out := &member{Member: m}
	if m.Quiescer == nil {
		return out
	}
	out.traits = m.Quiescer.Traits()
	if d, ok := m.Quiescer.(Describer); ok {
		out.d = d.Describe()
	}
	return out
}

// frozen returns the paths whose file systems the member freezes.
func (m *member) frozen() []string {
	paths := frozenBy(slices.Concat(m.d.Held, m.d.Freeze))
	if m.d.Filesystem != "" {
		paths = append(paths, m.d.Filesystem)
	}
	return paths
}

// held returns the volumes that are cut while the members hold.
func (c *check) held() []Volume {
	return slices.DeleteFunc(slices.Clone(c.app.Volumes), func(v Volume) bool { return v.AfterThaw })
}

// covers says whether a member holds a volume still.
func (m *member) covers(v Volume) bool {
	return !v.AfterThaw && (len(m.Volumes) == 0 || slices.Contains(m.Volumes, v.Name))
}

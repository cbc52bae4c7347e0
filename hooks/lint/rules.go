// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"slices"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// watchdog wants somebody to thaw what outlives this process.
func (c *check) watchdog(m *member) {
	if m.Quiescer == nil || m.traits.Release != hooks.Persistent || len(m.d.Helper) > 0 {
		return
	}
	c.add(Warning, UnwatchedHold, m, "", "Use a pair of hooks/command, or hooks/fsfreeze, which have a watchdog; or implement lint.Describer, if there is one",
		"the freeze stays when this process is killed, and no helper is known that would thaw it: it lasts until the journal is recovered")
}

// helpers wants programs, and the journal, to be where they can be used while
// the members hold.
func (c *check) helpers(m *member) {
	const move = "Keep the programs, their libraries and what they write on another file system"
	for _, path := range m.frozen() {
		for _, other := range c.members {
			for _, file := range other.needs() {
				if sameFS(path, file) {
					c.add(Error, FrozenHelper, other, "", move, "%q lies on the file system that is frozen at %q: it may wait for the thaw that it is there for", file, path)
				}
			}
		}
		if c.app.Journal != "" && sameFS(path, c.app.Journal) {
			c.add(Error, FrozenJournal, m, "", "Open the journal on another file system",
				"the journal %q lies on the file system that is frozen at %q: the end of the freeze cannot be written down", c.app.Journal, path)
		}
	}
}

// needs returns the files that have to be read for the thaw.
func (m *member) needs() []string {
	var files []string
	for _, argv := range [][]string{m.d.Helper, m.d.Thaw} {
		files = append(files, programFiles(argv)...)
	}
	return files
}

// order wants a file system to freeze after everybody who writes to it: a
// database that is to flush, or to say that it has, would wait for the thaw.
func (c *check) order(m *member) {
	for _, path := range m.frozen() {
		for _, other := range c.members {
			if other == m || len(other.frozen()) > 0 || !c.writesTo(other, path) || c.before(other, m) {
				continue
			}
			c.add(Error, BrokenOrder, m, "", "Put the file system last in Members, or name it in DependsOn of "+other.Name,
				"the file system at %q may freeze before %q, which writes to it: that one can wait for the thaw, and is thawed too early", path, other.Name)
		}
	}
}

// writesTo says whether a member answers for a volume on the file system.
func (c *check) writesTo(m *member, path string) bool {
	return slices.ContainsFunc(c.app.Volumes, func(v Volume) bool { return m.covers(v) && v.Path != "" && sameFS(path, v.Path) })
}

// before says whether a freezes before b for certain.
func (c *check) before(a, b *member) bool {
	ordered := !slices.ContainsFunc(c.members, func(m *member) bool { return len(m.DependsOn) > 0 })
	if ordered {
		return slices.Index(c.members, a) < slices.Index(c.members, b)
	}
	seen := map[string]bool{}
	var reaches func(name string) bool
	reaches = func(name string) bool {
		if name == b.Name {
			return true
		}
		if seen[name] {
			return false
		}
		seen[name] = true
		i := slices.IndexFunc(c.members, func(m *member) bool { return m.Name == name })
		return i >= 0 && slices.ContainsFunc(c.members[i].DependsOn, reaches)
	}
	return slices.ContainsFunc(a.DependsOn, reaches)
}

// snapshots wants no snapshot to be a write to a frozen file system.
func (c *check) snapshots(m *member) {
	if !c.app.Cut.Inside {
		return
	}
	for _, path := range m.frozen() {
		for _, v := range c.held() {
			if v.Path != "" && sameFS(path, v.Path) {
				c.add(Error, DeadSnapshot, m, v.Name, "Cut the volume from below the file system, or do not freeze it: such a snapshot needs no freeze of its file system",
					"a snapshot of %q is a write to the file system that is frozen at %q: it waits for the thaw, and the window ends without a cut", v.Path, path)
			}
		}
	}
}

// atomic wants a cut at one instant for a member that counts on it.
func (c *check) atomic(m *member) {
	if !m.traits.AtomicCut {
		return
	}
	held := c.held()
	const fix = "Put the volumes where one snapshot has all of them, or use the form of the recipe that does not need it"
	switch {
	case len(held) == 0:
	case !c.app.Cut.PointInTime:
		c.add(Error, TornCut, m, "", fix, "the member vouches for a cut at one instant only, and the snapshots are copies, file by file")
	case len(held) > 1 && !c.app.Cut.Groups:
		c.add(Error, TornCut, m, "", fix, "the member vouches for a cut at one instant only, and the snapshots of %d volumes are taken one after another", len(held))
	}
}

// window wants to be shorter than the patience of others.
func (c *check) window() {
	window, patience := c.app.Window, c.app.Patience
	if window == 0 {
		window = hooks.DefaultWindow
	}
	if patience == 0 {
		patience = DefaultPatience
	}
	blocks := slices.ContainsFunc(c.members, func(m *member) bool { return m.Quiescer != nil && !m.traits.AtomicCut })
	if blocks && window > patience {
		c.add(Warning, LongWindow, nil, "", "Make the window shorter, or the probes and timeouts longer",
			"a freeze may last %v, and after %v supervisors restart what does not answer, and clients give up", window, patience.Round(time.Millisecond))
	}
}

// covered wants somebody to hold each volume.
func (c *check) covered() {
	if len(c.members) == 0 {
		return // a crash-consistent point is what was asked for
	}
	for _, v := range c.held() {
		if !slices.ContainsFunc(c.members, func(m *member) bool { return m.covers(v) }) {
			c.add(Warning, UncoveredData, nil, v.Name, "Name the volume in Volumes of the member that writes to it, add a member, or set AfterThaw",
				"no member holds the volume still: the point is worth no more than its snapshot")
		}
	}
}

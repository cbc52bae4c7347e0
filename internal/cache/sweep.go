// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"cmp"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// entry is a file of ours, of any repository.
type entry struct {
	name string
	size int64
	used time.Time
}

func (e entry) is(mark string) bool { return strings.Contains(e.name, mark) }

// list returns our files.
func (c *Cache) list() []entry {
	all, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		c.failed(err)
	}
	var out []entry
	for _, d := range all {
		if !ours(d.Name()) || !d.Type().IsRegular() {
			continue
		}
		info, err := d.Info()
		if err != nil {
			continue // removed since
		}
		out = append(out, entry{name: d.Name(), size: info.Size(), used: info.ModTime()})
	}
	return out
}

func ours(name string) bool {
	const scope, mark = 16, 3
	if len(name) != scope+mark+32 || !isHex(name[:scope], scope) || !isHex(name[scope+mark:], 32) {
		return false
	}
	m := name[scope : scope+mark]
	return m == objectMark || m == fileMark || m == tempMark
}

// grow notes that there is more, and sweeps if it may be too much. What other
// processes add is seen when we sweep: after each sixteenth of the budget.
func (c *Cache) grow(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.grown += n
	if c.mu.swept && c.mu.grown < c.limit/16 && c.mu.used+c.mu.grown <= c.limit {
		return
	}
	c.sweep()
}

// sweep removes what was not used for the longest time until the budget is
// kept, with some room. Files go after objects, which are cheaper to get
// again, and those in use stay. The caller holds the lock.
func (c *Cache) sweep() {
	var total int64
	now := time.Now()
	all := c.list()
	rest := all[:0]
	for _, e := range all {
		if e.is(tempMark) && now.Sub(e.used) > staleTemp {
			c.remove(e.name)
			continue
		}
		total += e.size
		if !e.is(tempMark) && !c.mu.pinned[e.name] {
			rest = append(rest, e)
		}
	}
	slices.SortFunc(rest, func(a, b entry) int {
		return cmp.Or(b2i(a.is(fileMark))-b2i(b.is(fileMark)), a.used.Compare(b.used), cmp.Compare(a.name, b.name))
	})
	if total > c.limit {
		for _, e := range rest {
			if total <= c.limit-c.limit/8 {
				break
			}
			c.remove(e.name)
			total -= e.size
		}
	}
	c.mu.grown, c.mu.used, c.mu.swept = 0, total, true
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

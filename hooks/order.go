// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"fmt"
	"slices"
	"strings"
)

// ranks returns the indices of the members, in the order of freezing, those
// that freeze at the same time together.
func ranks(members []Member) ([][]int, error) {
	index := make(map[string]int, len(members))
	ordered := true // by their places
	for i, m := range members {
		index[m.Name] = i
		ordered = ordered && len(m.DependsOn) == 0
	}
	if ordered {
		out := make([][]int, len(members))
		for i := range members {
			out[i] = []int{i}
		}
		return out, nil
	}
	waits := make([]int, len(members)) // for how many dependents
	for _, m := range members {
		for _, name := range m.DependsOn {
			i, ok := index[name]
			if !ok {
				return nil, fmt.Errorf("hooks: member %q depends on %q, which is not in the group", m.Name, brief(name))
			}
			waits[i]++
		}
	}
	var out [][]int
	for left := len(members); left > 0; {
		// As early as possible: what is slow to freeze is seldom at the end.
		var rank []int
		for i, n := range waits {
			if n == 0 {
				rank = append(rank, i)
			}
		}
		if len(rank) == 0 {
			return nil, fmt.Errorf("hooks: members depend on each other: %s", cycle(members, index, waits))
		}
		for _, i := range rank {
			waits[i] = -1 // has its place
			for _, name := range members[i].DependsOn {
				waits[index[name]]--
			}
		}
		out = append(out, rank)
		left -= len(rank)
	}
	return out, nil
}

// cycle names the members of one cycle among those that wait for each other.
func cycle(members []Member, index map[string]int, waits []int) string {
	// Whoever waits has a dependent that waits as well: going from one to the
	// next comes around.
	at := slices.IndexFunc(waits, func(n int) bool { return n > 0 })
	var path []int
	for !slices.Contains(path, at) {
		path = append(path, at)
		at = slices.IndexFunc(members, func(m Member) bool {
			return waits[index[m.Name]] > 0 && slices.Contains(m.DependsOn, members[at].Name)
		})
	}
	path = append(path[slices.Index(path, at):], at)
	slices.Reverse(path) // from the dependent to what it depends on
	var names []string
	for _, i := range path {
		names = append(names, fmt.Sprintf("%q", members[i].Name))
	}
	return strings.Join(names, " depends on ")
}

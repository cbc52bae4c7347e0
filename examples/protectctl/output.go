// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// print writes the result of a command to stdout: v as JSON, or what human
// writes, with its columns aligned.
func (c *cli) print(v any, human func(w io.Writer)) error {
	if c.json {
		enc := json.NewEncoder(c.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	human(w)
	return w.Flush()
}

// millis is a duration as JSON shows it: milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) } // not negative

// some is a list as JSON shows it: never null.
func some[T any](list []T) []T { return append([]T{}, list...) }

// text is a foreign string for a terminal: what could drive it is quoted.
func text(s string) string {
	if q := fmt.Sprintf("%q", s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

// texts joins foreign strings.
func texts(s []string) string {
	out := make([]string, 0, len(s))
	for _, v := range s {
		out = append(out, text(v))
	}
	return strings.Join(out, ", ")
}

// SPDX-License-Identifier: Apache-2.0

// Package program has what a recipe needs to run programs of a server on
// restored files: as the owner of these, with their output bounded.
package program

import (
	"strconv"
	"strings"
	"sync"
)

// Tail is a writer that keeps the end of what a program says. It is safe for
// concurrent use.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxTail = 4 << 10

// Write implements io.Writer and never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String returns the text, with everything replaced that is not for a terminal.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Printable(string(t.buf))
}

// Printable returns text with everything replaced that is not for a terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.TrimSpace(strings.ToValidUTF8(text, "?")))
}

// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"bytes"
	"context"
	"io"
	"sync"
)

// buffer collects the output of a child, bounded: the beginning of what is
// unread, or the end if tail is set.
type buffer struct {
	limit int
	tail  bool

	mu      sync.Mutex
	data    []byte
	dropped bool
	eof     bool
	changed chan struct{} // closed and replaced with every change
}

func newBuffer(limit int, tail bool) *buffer {
	return &buffer{limit: limit, tail: tail, changed: make(chan struct{})}
}

// fill reads until the end of r. It keeps reading when the buffer is full, so
// that the child never waits for us.
func (b *buffer) fill(r io.Reader) {
	chunk := make([]byte, 4<<10)
	for {
		n, err := r.Read(chunk)
		b.mu.Lock()
		b.add(chunk[:n])
		b.eof = err != nil
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (b *buffer) add(p []byte) {
	b.data = append(b.data, p...)
	over := len(b.data) - b.limit
	if over <= 0 {
		return
	}
	b.dropped = true
	if b.tail {
		b.data = bytes.Clone(b.data[over:])
	} else {
		b.data = b.data[:b.limit]
	}
}

func (b *buffer) readLine(ctx context.Context) (string, error) {
	for {
		b.mu.Lock()
		if line, rest, ok := bytes.Cut(b.data, []byte{'\n'}); ok {
			text := string(line)
			b.data = bytes.Clone(rest)
			b.mu.Unlock()
			return text, nil
		}
		full := len(b.data) >= b.limit
		eof, changed := b.eof, b.changed
		b.mu.Unlock()
		switch {
		case full:
			return "", io.ErrShortBuffer
		case eof:
			return "", io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

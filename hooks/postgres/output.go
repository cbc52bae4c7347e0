// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
)

// counter counts bytes, and the lines that have a word.
type counter struct {
	word  string
	n     int
	bytes int64
	line  []byte
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	if c.word == "" {
		return len(p), nil
	}
	c.line = append(c.line, p...)
	for {
		i := bytes.IndexByte(c.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		if bytes.Contains(c.line[:i], []byte(c.word)) {
			c.n++
		}
		c.line = c.line[i+1:]
	}
}

// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// serverLog reads what a server says: its end, its errors, and where its redo
// log ended.
type serverLog struct {
	program.Tail

	mu     sync.Mutex
	line   []byte
	errors []string
	end    uint64 // of the redo log; 0 if nothing was said
}

const (
	maxErrors  = 8
	maxLogLine = 4 << 10
)

// Write implements io.Writer.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = append(l.line, p...)
	for {
		i := bytes.IndexByte(l.line, '\n')
		if i < 0 {
			l.line = l.line[:min(len(l.line), maxLogLine)]
			return l.Tail.Write(p)
		}
		l.read(string(l.line[:i]))
		l.line = l.line[i+1:]
	}
}

func (l *serverLog) read(line string) {
	if strings.Contains(line, "[ERROR]") && len(l.errors) < maxErrors {
		l.errors = append(l.errors, program.Printable(line[:min(len(line), maxErrorLine)]))
	}
	// The first is the end of the recovery; without one the second is all
	// that is said.
	for _, before := range []string{"End of log at LSN=", "log sequence number "} {
		_, text, ok := strings.Cut(line, before)
		if !ok || l.end != 0 {
			continue
		}
		n := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
		if n < 0 {
			n = len(text)
		}
		if lsn, err := strconv.ParseUint(text[:n], 10, 64); err == nil {
			l.end = lsn
		}
	}
}

const maxErrorLine = 400

// found returns the errors so far.
func (l *serverLog) found() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.errors, "; ")
}

// ended returns where the redo log ended.
func (l *serverLog) ended() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

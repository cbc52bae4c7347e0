// SPDX-License-Identifier: Apache-2.0

package mariadb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// hold is a session that vouches for what is cut.
type hold struct {
	q     *Quiescer
	srv   *server
	info  *Info
	began *marks
	end   time.Time // of the window

	mu   sync.Mutex
	s    *innodb.Session
	done bool
	kept hooks.Evidence
	last error
}

// The errors by which the server says what a session holds.
const (
	codeReadLock   = 1223 // ER_CANT_UPDATE_WITH_READLOCK
	codeWrongStage = 4147 // ER_BACKUP_WRONG_STAGE
)

// begin freezes what the method freezes, and reads what the evidence needs
// inside of the freeze.
func (h *hold) begin(ctx context.Context) error {
	for _, statement := range h.q.method.freeze() {
		if err := h.s.Exec(ctx, statement); err != nil {
			return err
		}
	}
	var err error
	if h.began, err = h.come(ctx); err != nil {
		return err
	}
	if h.info, err = h.read(ctx); err != nil {
		return err
	}
	return h.frozen(ctx)
}

// A server that has to come to rest is looked at every pollStill, and has done so
// when nothing moved for restStill. The purge of old rows comes in waves: if any
// are left, because a transaction still sees them, nothing may move for restPurge.
const (
	pollStill = 20 * time.Millisecond
	restStill = 200 * time.Millisecond
	restPurge = 2 * time.Second
)

// come returns the marks of the server, for MethodStill as soon as they rest.
func (h *hold) come(ctx context.Context) (*marks, error) {
	if h.q.method != MethodStill {
		return readMarks(ctx, h.s)
	}
	ctx, cancel := context.WithDeadline(ctx, h.end)
	defer cancel()
	was, since := new(marks), time.Now()
	for {
		now, err := readMarks(ctx, h.s)
		if err != nil {
			return nil, err
		}
		if now.dirty != 0 || !maps.Equal(was.writes, now.writes) {
			since = time.Now()
		}
		if rest := time.Since(since); rest >= restPurge || now.history == 0 && rest >= restStill {
			return now, nil
		}
		was = now
		if now.dirty != 0 && h.q.checkpoints(h.srv) {
			if err := h.s.Exec(ctx, flushPages); err != nil {
				return nil, err
			}
		}
		timer := time.NewTimer(pollStill)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("InnoDB does not come to rest, with %d dirty pages: %w", now.dirty, ctx.Err())
		}
	}
}

// frozen asks the server for the refusal that only the holder of the freeze gets.
func (h *hold) frozen(ctx context.Context) error {
	statement, want := "BACKUP STAGE BLOCK_COMMIT", codeWrongStage
	switch h.q.method {
	case MethodAtomic:
		return nil
	case MethodBackup:
	case MethodStill:
		statement, want = "BACKUP STAGE START", codeReadLock
	}
	code, err := h.s.ErrorOf(ctx, statement)
	if err == nil && code != want {
		err = fmt.Errorf("the server answers %s with error %d instead of %d: the lock is gone", statement, code, want)
	}
	return err
}

// ask compares the server with what it was before the cut.
func (h *hold) ask(ctx context.Context) (*marks, error) {
	if err := h.s.Same(ctx); err != nil {
		return nil, err
	}
	if err := h.frozen(ctx); err != nil {
		return nil, err
	}
	now, err := readMarks(ctx, h.s)
	if err != nil {
		return nil, err
	}
	switch h.q.method {
	case MethodStill:
		if now.dirty != 0 || !maps.Equal(now.writes, h.began.writes) {
			return nil, fmt.Errorf("InnoDB has written during the cut: %v, now %v with %d dirty pages", h.began.writes, now.writes, now.dirty)
		}
	case MethodAtomic:
		srv, err := readServer(ctx, h.s)
		if err != nil {
			return nil, err
		}
		return now, errors.Join(h.q.checkSettings(srv)...)
	case MethodBackup:
	}
	gtid, err := h.gtid(ctx)
	if err == nil && gtid != h.info.GTID {
		err = fmt.Errorf("something was committed: GTID %.200q instead of %.200q", gtid, h.info.GTID)
	}
	return now, err
}

// Held implements hooks.Hold: it is the same session, the server refuses it what
// only the holder of the freeze is refused, and nothing was committed or, for
// NewStill, written.
func (h *hold) Held(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return fmt.Errorf("mariadb: thawed: %w", hooks.ErrHoldLost)
	}
	if _, err := h.ask(ctx); err != nil {
		return lost(err)
	}
	// The lease does not begin anew because we asked.
	left := time.Until(h.end)
	if left <= 0 {
		return lost(errors.New("the window is over"))
	}
	if err := h.s.Lease(ctx, left); err != nil {
		return lost(err)
	}
	return nil
}

// lost says that the cut proves nothing.
func lost(err error) error {
	return fmt.Errorf("mariadb: %w: %w", hooks.ErrHoldLost, err)
}

// Thaw implements hooks.Hold. It asks for the proof a last time, ends the freeze,
// and closes the session in any case. The evidence is for PrepareRestore; see
// ParseEvidence.
func (h *hold) Thaw(ctx context.Context) (hooks.Evidence, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return h.kept, h.last
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mariadb: thaw: %w", err) // nothing is tried, and nothing lost
	}
	h.done = true
	defer h.s.Close()
	err := h.finish(ctx)
	if err == nil {
		h.kept, err = h.info.evidence()
	}
	if err != nil {
		h.kept, h.last = nil, lost(err)
	}
	return h.kept, h.last
}

// finish proves the freeze and ends it.
func (h *hold) finish(ctx context.Context) error {
	now, err := h.ask(ctx)
	if err != nil {
		return err
	}
	if h.info.StopLSN = now.lsn; h.q.method == MethodAtomic {
		spaces, err := readSpaces(ctx, h.s)
		if err != nil {
			return err
		}
		tables, err := readTableCount(ctx, h.s)
		if err != nil {
			return err
		}
		// Tables may come and go; then the files are not compared with them.
		if tables != h.info.TableCount {
			h.info.TableCount = 0
		}
		if innodb.Digest(spaces) != h.info.Tablespaces {
			h.info.TablespaceCount, h.info.TablespaceNames, h.info.Tablespaces = 0, "", ""
		}
		return nil
	}
	return h.s.Exec(ctx, h.q.method.thaw())
}

// marks are how far the server has got.
type marks struct {
	lsn, flushed, checkpoint uint64
	dirty, history           int64             // pages, and changes that were not purged
	writes                   map[string]string // counters that move with every write to a file
}

func readMarks(ctx context.Context, s *innodb.Session) (*marks, error) {
	pairs, err := s.Pairs(ctx, `SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_lsn_current', 'Innodb_lsn_flushed', 'Innodb_lsn_last_checkpoint',
 'Innodb_buffer_pool_pages_dirty', 'Innodb_history_list_length', 'Innodb_data_writes', 'Innodb_data_written', 'Innodb_pages_written', 'Innodb_os_log_written', 'Aria_transaction_log_syncs')`)
	if err != nil {
		return nil, err
	}
	m := &marks{writes: make(map[string]string)}
	for name, to := range map[string]*uint64{"innodb_lsn_current": &m.lsn, "innodb_lsn_flushed": &m.flushed, "innodb_lsn_last_checkpoint": &m.checkpoint} {
		if *to, err = strconv.ParseUint(pairs[name], 10, 64); err != nil {
			return nil, fmt.Errorf("status %s: %w", name, err)
		}
	}
	for name, to := range map[string]*int64{"innodb_buffer_pool_pages_dirty": &m.dirty, "innodb_history_list_length": &m.history} {
		if *to, err = strconv.ParseInt(pairs[name], 10, 64); err != nil {
			return nil, fmt.Errorf("status %s: %w", name, err)
		}
	}
	for _, name := range []string{
		"innodb_lsn_current", "innodb_lsn_flushed", "innodb_lsn_last_checkpoint",
		"innodb_data_writes", "innodb_data_written", "innodb_pages_written", "innodb_os_log_written", "aria_transaction_log_syncs",
	} {
		if pairs[name] == "" {
			return nil, fmt.Errorf("the server has no status %s: %w", name, errors.ErrUnsupported)
		}
		m.writes[name] = pairs[name]
	}
	return m, nil
}

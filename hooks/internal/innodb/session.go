// SPDX-License-Identifier: Apache-2.0

// Package innodb has what the recipes of MariaDB and MySQL share: a session and
// what the server says in it, the files of InnoDB, and a private instance that
// verifies them.
package innodb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Session is one connection that is ours until it is closed.
type Session struct {
	conn  *sql.Conn
	id    int64
	nonce string
}

// Open takes a connection from the pool and marks it, so that another session
// that answers in its place is noticed.
func Open(ctx context.Context, db *sql.DB) (*Session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	s := &Session{conn: conn, nonce: rand.Text()}
	if err := s.mark(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Session) mark(ctx context.Context) error {
	// SHOW ERRORS is asked for numbers of errors, whatever the server's default.
	if err := s.Exec(ctx, "SET @protect_session = '"+s.nonce+"', SESSION max_error_count = 8"); err != nil {
		return err
	}
	if err := s.Row(ctx, "SELECT CONNECTION_ID()", &s.id); err != nil {
		return err
	}
	return s.Same(ctx)
}

// Same returns nil if the very session answers that was opened. A proxy may
// answer CONNECTION_ID itself, but knows neither the server's own number of the
// thread nor what the session remembers.
func (s *Session) Same(ctx context.Context) error {
	var id, thread int64
	var nonce sql.NullString
	if err := s.Row(ctx, "SELECT CONNECTION_ID(), @@SESSION.pseudo_thread_id, @protect_session", &id, &thread, &nonce); err != nil {
		return err
	}
	if id != s.id || thread != id || nonce.String != s.nonce {
		return errors.New("another session answers than the one that was opened: a proxy is in between. Connect to the server directly")
	}
	return nil
}

// Close ends the session, and with it whatever it holds: the pool must not give
// it to anybody else. The server notices by itself; it need not be reachable.
func (s *Session) Close() {
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.conn.Close()
}

// Exec runs a statement.
func (s *Session) Exec(ctx context.Context, statement string) error {
	if _, err := s.conn.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", brief(statement), err)
	}
	return nil
}

// brief returns the first words of a statement: they name it, and have no
// secrets.
func brief(statement string) string {
	words := strings.Fields(statement)
	return strings.Join(words[:min(4, len(words))], " ")
}

// Row scans the one row that a query returns.
func (s *Session) Row(ctx context.Context, query string, dest ...any) error {
	if err := s.conn.QueryRowContext(ctx, query).Scan(dest...); err != nil {
		return fmt.Errorf("%s: %w", brief(query), err)
	}
	return nil
}

// Rows returns the answer to a query as text; NULL is empty.
func (s *Session) Rows(ctx context.Context, query string) (_ [][]string, err error) {
	rows, err := s.conn.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", brief(query), err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all [][]string
	for rows.Next() {
		values, dest := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, v := range values {
			row[i] = v.String
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// Pairs returns the answer to a query for names and values, such as SHOW GLOBAL
// VARIABLES, by names in lower case.
func (s *Session) Pairs(ctx context.Context, query string) (map[string]string, error) {
	rows, err := s.Rows(ctx, query)
	if err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(rows))
	for _, row := range rows {
		if len(row) >= 2 {
			pairs[strings.ToLower(row[0])] = row[1]
		}
	}
	return pairs, nil
}

// ErrorOf runs a statement that must fail, and returns the number of the
// server's error: what the server refuses says what the session holds. The
// number is asked for in the session, since drivers give it in their own ways.
func (s *Session) ErrorOf(ctx context.Context, statement string) (int, error) {
	failed := s.Exec(ctx, statement)
	if failed == nil {
		return 0, nil
	}
	rows, err := s.Rows(ctx, "SHOW ERRORS")
	if err != nil || len(rows) == 0 || len(rows[0]) < 2 {
		return 0, errors.Join(failed, err)
	}
	return strconv.Atoi(rows[0][1])
}

// Lease makes the server end the session if it hears nothing for the window: a
// client that is stalled, or on the other side of a broken network, freezes
// nobody for longer. The server counts whole seconds.
func (s *Session) Lease(ctx context.Context, window time.Duration) error {
	seconds := max(1, int64((window+time.Second-1)/time.Second))
	return s.Exec(ctx, fmt.Sprintf("SET SESSION wait_timeout = %d, SESSION lock_wait_timeout = %d", seconds, seconds))
}

// Missing returns those of the global privileges that the user of the session
// lacks, as they are granted to it or to its current role. Alternatives are
// separated by a bar.
func (s *Session) Missing(ctx context.Context, privileges ...string) ([]string, error) {
	rows, err := s.Rows(ctx, "SHOW GRANTS")
	if err != nil {
		return nil, err
	}
	var has []string
	for _, row := range rows {
		list, _, global := strings.Cut(row[0], " ON *.* TO ")
		list, grant := strings.CutPrefix(list, "GRANT ")
		if global && grant {
			for p := range strings.SplitSeq(list, ",") {
				has = append(has, strings.TrimSpace(p))
			}
		}
	}
	var missing []string
	for _, p := range privileges {
		granted := slices.Contains(has, "ALL PRIVILEGES") || slices.ContainsFunc(strings.Split(p, "|"), func(p string) bool { return slices.Contains(has, p) })
		if !granted {
			first, _, _ := strings.Cut(p, "|")
			missing = append(missing, first)
		}
	}
	return missing, nil
}

// User returns the user of the session as GRANT wants it.
func (s *Session) User(ctx context.Context) (string, error) {
	var user string
	err := s.Row(ctx, "SELECT CURRENT_USER()", &user)
	name, host, ok := cutLast(user, "@")
	if err == nil && !ok {
		err = fmt.Errorf("no such user: %q", user)
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	return quote(name) + "@" + quote(host), err
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Busy describes the oldest statement of another session that runs for longer
// than the budget, if there is one: a lock would wait for it, and everybody else
// behind the lock. Reads are left out unless the server's lock waits for them.
func (s *Session) Busy(ctx context.Context, budget time.Duration, reads bool) (string, error) {
	query := fmt.Sprintf("SELECT ID, USER, TIME FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"+
		" AND COMMAND IN ('Query', 'Execute') AND USER NOT IN ('system user', 'event_scheduler') AND TIME >= %d", max(1, int64(budget/time.Second)))
	if !reads {
		query += " AND COALESCE(LTRIM(INFO), '') NOT LIKE 'SELECT%'"
	}
	rows, err := s.Rows(ctx, query+" ORDER BY TIME DESC LIMIT 1")
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return fmt.Sprintf("a statement of session %.20s, of user %.80q, runs for %.20s s: a lock would wait for it, and all writers for the lock", rows[0][0], rows[0][1], rows[0][2]), nil
}

// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// server is what is known of the server.
type server struct {
	innodb.Settings
	version int // like 80036
	text    string
	redo    string // Innodb_redo_log_enabled; empty before 8.0.21
}

func readServer(ctx context.Context, s *innodb.Session) (*server, error) {
	set, err := s.Pairs(ctx, "SHOW GLOBAL VARIABLES")
	if err != nil {
		return nil, err
	}
	srv := &server{Settings: set, text: set["version"]}
	if srv.version = versionNumber(srv.text); srv.version < versionOldest || strings.Contains(srv.text, "MariaDB") {
		return nil, fmt.Errorf("the server says version %.80q, want MySQL 8.0 or newer: %w", srv.text, errors.ErrUnsupported)
	}
	status, err := s.Pairs(ctx, "SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_enabled'")
	srv.redo = status["innodb_redo_log_enabled"]
	return srv, err
}

// versionNumber makes 80036 of "8.0.36-debug"; what it cannot read is 0.
func versionNumber(text string) int {
	text, _, _ = strings.Cut(text, "-")
	parts := strings.SplitN(text, ".", 3)
	if len(parts) != 3 {
		return 0
	}
	number := 0
	for _, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n > 99 {
			return 0
		}
		number = number*100 + n
	}
	return number
}

func unsafe(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...))
}

func (q *Quiescer) needs() innodb.Needs {
	return innodb.Needs{AtomicPages: q.opts.AtomicPageWrites, Relaxed: q.opts.Relaxed, Volumes: q.opts.Volumes}
}

// checkSettings returns what makes the server unfit at this moment. It is cheap,
// and asked again for each cut.
func (q *Quiescer) checkSettings(srv *server) []error {
	var errs []error
	for _, reason := range srv.Unsafe(q.needs()) {
		errs = append(errs, unsafe("%s", reason))
	}
	if srv.redo == "OFF" {
		errs = append(errs, unsafe("the redo log is disabled: no copy recovers. ALTER INSTANCE ENABLE INNODB REDO_LOG"))
	}
	if !srv.On("performance_schema") {
		errs = append(errs, unsafe("performance_schema is off: nobody can say where the logs are, and who holds a lock"))
	}
	return errs
}

// check returns all that is wrong, as far as it can be known ahead of a freeze.
func (q *Quiescer) check(ctx context.Context, s *innodb.Session, srv *server) []error {
	errs := q.checkSettings(srv)
	missing, err := q.missing(ctx, s)
	if err != nil || len(missing) > 0 {
		return append(append(errs, err), missing...) // nothing else can be asked
	}
	for _, reason := range srv.Outside(q.needs()) {
		errs = append(errs, unsafe("%s", reason))
	}
	others, err := q.others(ctx, s)
	if err != nil {
		return append(errs, err)
	}
	return append(errs, q.checkEngines(others), q.checkBusy(ctx, s, len(others) > 0), checkFiles(ctx, s, srv))
}

// checkFiles refuses tablespaces outside of the data directory without a setting
// that says so: a restored server would open those of the original.
func checkFiles(ctx context.Context, s *innodb.Session, srv *server) error {
	rows, err := s.Rows(ctx, "SELECT FILE_NAME FROM information_schema.FILES WHERE ENGINE = 'InnoDB' AND FILE_TYPE <> 'TEMPORARY' AND FILE_NAME LIKE '/%'")
	if err != nil {
		return err
	}
	for _, row := range rows {
		if !srv.Known(row[0]) {
			return unsafe("a tablespace is at %.500q, outside of the data directory: a restored server would open that of the original", row[0])
		}
	}
	return nil
}

// missing returns an error for each permission that is missing, which says how
// to grant it.
func (q *Quiescer) missing(ctx context.Context, s *innodb.Session) ([]error, error) {
	lacks, err := s.Missing(ctx, "BACKUP_ADMIN", "PROCESS", "SHOW VIEW|SELECT")
	if err != nil {
		return nil, err
	}
	user, err := s.User(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range lacks {
		errs = append(errs, fmt.Errorf("%w: GRANT %s ON *.* TO %s", fs.ErrPermission, p, user))
	}
	if len(lacks) > 0 {
		return errs, nil
	}
	if _, err := readLogStatus(ctx, s); err != nil {
		errs = append(errs, fmt.Errorf("%w: GRANT SELECT ON performance_schema.* TO %s: %w", fs.ErrPermission, user, err))
	}
	others, err := q.others(ctx, s)
	if err != nil || len(others) == 0 || q.method == MethodAtomic {
		return errs, err
	}
	lacks, err = s.Missing(ctx, "RELOAD")
	for _, p := range lacks {
		errs = append(errs, fmt.Errorf("%w: GRANT %s ON *.* TO %s", fs.ErrPermission, p, user))
	}
	return errs, err
}

// others returns a table for each engine other than InnoDB, as schema, name and
// engine. The logs that are tables are for people.
func (q *Quiescer) others(ctx context.Context, s *innodb.Session) ([][]string, error) {
	return s.Rows(ctx, `SELECT MIN(TABLE_SCHEMA), MIN(TABLE_NAME), ENGINE FROM information_schema.TABLES WHERE ENGINE IS NOT NULL AND ENGINE <> 'InnoDB'
 AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')
 AND NOT (TABLE_SCHEMA = 'mysql' AND TABLE_NAME IN ('general_log', 'slow_log')) GROUP BY ENGINE`)
}

// checkEngines refuses tables that the method cannot protect.
func (q *Quiescer) checkEngines(others [][]string) error {
	for _, t := range others {
		hint := "its engine is not known to keep a copy"
		if q.method == MethodAtomic {
			hint = "it does not recover from a cut: use NewBackup, or convert it to InnoDB"
		} else if lockable(t[2]) {
			continue
		}
		return unsafe("table %.100q of database %.100q has the engine %.40s: %s", t[1], t[0], t[2], hint)
	}
	return nil
}

// lockable says whether all that an engine has is in its files under a read lock.
func lockable(engine string) bool {
	switch strings.ToUpper(engine) {
	case "MYISAM", "MRG_MYISAM", "CSV", "ARCHIVE", "MEMORY", "BLACKHOLE":
		return true
	default:
		return false
	}
}

// checkBusy returns an error if the lock of all writes would have to wait for
// long. It waits for reads as well.
func (q *Quiescer) checkBusy(ctx context.Context, s *innodb.Session, locks bool) error {
	if q.method == MethodAtomic || !locks {
		return nil
	}
	what, err := s.Busy(ctx, q.opts.MaxStatement, true)
	if err == nil && what != "" {
		err = fmt.Errorf("%w: %s", ErrBusy, what)
	}
	return err
}

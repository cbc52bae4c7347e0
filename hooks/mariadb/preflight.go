// SPDX-License-Identifier: Apache-2.0

package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// server is what is known of the server.
type server struct {
	innodb.Settings
	version int // like 101119
	text    string
}

func readServer(ctx context.Context, s *innodb.Session) (*server, error) {
	set, err := s.Pairs(ctx, "SHOW GLOBAL VARIABLES")
	if err != nil {
		return nil, err
	}
	srv := &server{Settings: set, text: set["version"]}
	if !strings.Contains(srv.text, "MariaDB") {
		return nil, fmt.Errorf("the server says version %.80q, which is not that of MariaDB: %w", srv.text, errors.ErrUnsupported)
	}
	if srv.version = versionNumber(srv.text); srv.version < versionOldest {
		return nil, fmt.Errorf("server version %.40q, the oldest that is supported is 10.4: %w", srv.text, errors.ErrUnsupported)
	}
	return srv, nil
}

// versionNumber makes 101119 of "10.11.19-MariaDB"; what it cannot read is 0.
func versionNumber(text string) int {
	text, _, _ = strings.Cut(text, "-")
	number := 0
	for i, part := range strings.SplitN(text, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil || n > 99 || i > 2 {
			return 0
		}
		number = number*100 + n
	}
	return number
}

// needs says what the method needs of the settings.
func (q *Quiescer) needs() innodb.Needs {
	return innodb.Needs{
		Blocked: q.method != MethodAtomic, Still: q.method == MethodStill,
		AtomicPages: q.opts.AtomicPageWrites, Relaxed: q.opts.Relaxed, Volumes: q.opts.Volumes,
	}
}

func unsafe(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...))
}

// checkSettings returns what makes the server unfit at this moment. It is cheap,
// and asked again for each cut.
func (q *Quiescer) checkSettings(srv *server) []error {
	var errs []error
	if srv.On("wsrep_on") {
		errs = append(errs, fmt.Errorf("the server is part of a Galera cluster: %w", errors.ErrUnsupported))
	}
	for _, reason := range srv.Unsafe(q.needs()) {
		errs = append(errs, unsafe("%s", reason))
	}
	return errs
}

// checkBusy returns an error if a lock would have to wait for long. Reads are not
// waited for.
func (q *Quiescer) checkBusy(ctx context.Context, s *innodb.Session) error {
	if q.method == MethodAtomic {
		return nil
	}
	what, err := s.Busy(ctx, q.opts.MaxStatement, false)
	if err == nil && what != "" {
		err = fmt.Errorf("%w: %s", ErrBusy, what)
	}
	return err
}

// check returns all that is wrong, as far as it can be known ahead of a freeze.
func (q *Quiescer) check(ctx context.Context, s *innodb.Session, srv *server) []error {
	errs := q.checkSettings(srv)
	missing, err := q.missing(ctx, s, srv)
	if err != nil || len(missing) > 0 {
		return append(append(errs, err), missing...) // nothing else can be asked
	}
	for _, reason := range srv.Outside(q.needs()) {
		errs = append(errs, unsafe("%s", reason))
	}
	errs = append(errs, q.checkBusy(ctx, s), q.checkFiles(ctx, s, srv), q.checkEngines(ctx, s))
	return errs
}

// checkpoints says whether dirty pages are to be written on command.
func (q *Quiescer) checkpoints(srv *server) bool {
	_, can := srv.Settings[checkpointNow]
	return can && q.method == MethodStill && !q.opts.NoCheckpoint
}

const (
	checkpointNow = "innodb_log_checkpoint_now"
	flushPages    = "SET GLOBAL " + checkpointNow + " = ON" // it does not stay on
)

// missing returns an error for each permission that is missing, which says how
// to grant it.
func (q *Quiescer) missing(ctx context.Context, s *innodb.Session, srv *server) ([]error, error) {
	rights := []string{"PROCESS", "SHOW VIEW|SELECT"}
	if q.method != MethodAtomic {
		rights = append(rights, "RELOAD")
	}
	if srv.On("log_bin") {
		rights = append(rights, "BINLOG MONITOR|REPLICATION CLIENT|SUPER")
	}
	if q.checkpoints(srv) {
		rights = append(rights, "SUPER")
	}
	lacks, err := s.Missing(ctx, rights...)
	if err != nil || len(lacks) == 0 {
		return nil, err
	}
	user, err := s.User(ctx)
	var errs []error
	for _, p := range lacks {
		text := fmt.Sprintf("GRANT %s ON *.* TO %s", p, user)
		if p == "SUPER" {
			text += " (or set Options.NoCheckpoint)"
		}
		errs = append(errs, fmt.Errorf("%w: %s", fs.ErrPermission, text))
	}
	return errs, err
}

// checkFiles refuses files that are outside of the data directory without a
// setting that says so: a restored server would open those of the original.
func (q *Quiescer) checkFiles(ctx context.Context, s *innodb.Session, srv *server) error {
	rows, err := s.Rows(ctx, "SELECT NAME, FILENAME FROM information_schema.INNODB_SYS_TABLESPACES")
	if err != nil {
		if srv.version < versionFilename {
			return nil // it has no such column
		}
		return err
	}
	for _, row := range rows {
		if place := row[1]; path.IsAbs(place) && !srv.Known(place) && !strings.HasPrefix(row[0], "innodb_temporary") {
			return unsafe("the tablespace of %.200q is at %.500q, outside of the data directory: a restored server would open that of the original", row[0], place)
		}
	}
	return nil
}

// versionFilename is the first one that says where each tablespace is.
const versionFilename = 100600

// checkEngines refuses tables that the method cannot protect.
func (q *Quiescer) checkEngines(ctx context.Context, s *innodb.Session) error {
	// The logs that are tables are for people.
	query := `SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE ENGINE IS NOT NULL
 AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')
 AND NOT (TABLE_SCHEMA = 'mysql' AND TABLE_NAME IN ('general_log', 'slow_log')) AND `
	hint := "its engine is not known to keep a copy"
	if q.method == MethodAtomic {
		query += "ENGINE <> 'InnoDB' AND NOT (ENGINE = 'Aria' AND ROW_FORMAT = 'Page')"
		hint = "it does not recover from a cut: use NewBackup, or convert it to InnoDB"
	} else {
		query += "ENGINE NOT IN ('InnoDB', 'Aria', 'MyISAM', 'MRG_MyISAM', 'CSV', 'ARCHIVE', 'MEMORY', 'BLACKHOLE')"
	}
	rows, err := s.Rows(ctx, query+" ORDER BY 1, 2 LIMIT 1")
	if err != nil || len(rows) == 0 {
		return err
	}
	return unsafe("table %.100q.%.100q has the engine %.40s: %s", rows[0][0], rows[0][1], rows[0][2], hint)
}

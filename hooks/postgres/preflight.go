// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

func errTooOld(version int) error {
	return fmt.Errorf("server version %d, the oldest that is supported is 13: %w", version/10000, errors.ErrUnsupported)
}

// checkSettings returns what makes the server unfit at this moment. It is
// cheap, and asked again before and after each cut.
func (q *Quiescer) checkSettings(srv *server) []error {
	var errs []error
	unsafe := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...)))
	}
	if srv.recovering {
		errs = append(errs, fmt.Errorf("the server is a standby or still in recovery, protect its primary: %w", errors.ErrUnsupported))
	}
	if srv.fsync != "on" {
		unsafe("fsync is off: what is on disk is in no order, so that a cut does not recover")
	}
	if srv.exclusive {
		unsafe("an exclusive backup is in progress: its backup_label would be in the copy. End it with pg_stop_backup()")
	}
	if q.keep == nil {
		if srv.fullPageWrites != "on" && !q.opts.AtomicPageWrites {
			unsafe("full_page_writes is off: a page that is half written in the cut is lost. Switch it on, use NewBackup, or set Options.AtomicPageWrites if the storage writes %d bytes atomically", srv.blockSize)
		}
		return errs
	}
	if srv.walLevel == "minimal" {
		unsafe("wal_level is minimal: backups need replica or logical")
	}
	if q.archived() && srv.archiveMode != "on" && srv.archiveMode != "always" {
		unsafe("archive_mode is %s: nobody would keep the WAL of the backup. Switch it on, or use Directory", srv.archiveMode)
	}
	return errs
}

// check returns all that is wrong, as far as it can be known ahead of a freeze.
func (q *Quiescer) check(ctx context.Context, s *session, srv *server) []error {
	errs := q.checkSettings(srv)
	if q.needsSlot() && srv.slotsUsed >= srv.slots {
		errs = append(errs, fmt.Errorf("%w: all %d replication slots are in use, one more is needed: raise max_replication_slots, or set Options.NoSlot", ErrUnsafe, srv.slots))
	}
	missing, err := q.missing(ctx, s, srv)
	if err != nil {
		return append(errs, err)
	}
	errs = append(errs, missing...)
	spaces, err := s.tablespaces(ctx)
	if err != nil {
		return append(errs, err)
	}
	return append(errs, q.checkLayout(srv, spaces)...)
}

// needsSlot says whether a replication slot has to keep the WAL until it is
// read.
func (q *Quiescer) needsSlot() bool { return q.keep != nil && !q.archived() && !q.opts.NoSlot }

// right is a permission, how to ask for it, and how to get it.
type right struct {
	query, grant string
}

func execute(function string) right {
	return right{
		query: "SELECT pg_catalog.has_function_privilege('pg_catalog." + function + "', 'EXECUTE')",
		grant: "GRANT EXECUTE ON FUNCTION pg_catalog." + function + " TO %s",
	}
}

// rights returns the permissions that are needed.
func (q *Quiescer) rights(srv *server) []right {
	var rights []right
	if !q.opts.NoCheckpoint {
		if srv.version >= versionRenamed {
			rights = append(rights, right{"SELECT pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')", "GRANT pg_checkpoint TO %s (or set Options.NoCheckpoint)"})
		} else {
			rights = append(rights, right{"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER", "ALTER ROLE %s SUPERUSER, which CHECKPOINT takes before version 15 (or set Options.NoCheckpoint)"})
		}
	}
	if len(q.opts.Volumes) > 0 {
		rights = append(rights, right{"SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')", "GRANT pg_read_all_settings TO %s"})
	}
	if q.keep == nil {
		return rights
	}
	if srv.version >= versionRenamed {
		rights = append(rights, execute("pg_backup_start(text, boolean)"), execute("pg_backup_stop(boolean)"))
	} else {
		rights = append(rights, execute("pg_start_backup(text, boolean, boolean)"), execute("pg_stop_backup(boolean, boolean)"))
	}
	if q.archived() {
		return rights
	}
	rights = append(rights, execute("pg_read_binary_file(text, bigint, bigint, boolean)"))
	if !q.opts.NoSlot {
		rights = append(rights, right{"SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER", "ALTER ROLE %s REPLICATION (or set Options.NoSlot)"})
	}
	return rights
}

// missing returns an error for each permission that is missing, which says how
// to grant it.
func (q *Quiescer) missing(ctx context.Context, s *session, srv *server) ([]error, error) {
	var role string
	if err := s.conn.QueryRowContext(ctx, "SELECT pg_catalog.quote_ident(CURRENT_USER)").Scan(&role); err != nil {
		return nil, err
	}
	var errs []error
	for _, r := range q.rights(srv) {
		var ok bool
		if err := s.conn.QueryRowContext(ctx, r.query).Scan(&ok); err != nil {
			return nil, err
		}
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+r.grant, fs.ErrPermission, role))
		}
	}
	return errs, nil
}

// checkLayout returns what is outside of the protected volumes.
func (q *Quiescer) checkLayout(srv *server, spaces map[string]string) []error {
	var errs []error
	inside := func(place string) bool {
		return slices.ContainsFunc(q.opts.Volumes, func(v string) bool { return below(v, path.Clean(place)) })
	}
	for oid, place := range spaces {
		if !inside(place) {
			errs = append(errs, fmt.Errorf("%w: tablespace %s at %q is in no protected volume: protect it as well, and list it in Options.Volumes", ErrUnsafe, oid, place))
		}
	}
	if len(q.opts.Volumes) == 0 || !srv.dataDirectory.Valid { // the missing right is reported already
		return errs
	}
	data := srv.dataDirectory.String
	if !inside(data) {
		errs = append(errs, fmt.Errorf("%w: the data directory %q is in no protected volume", ErrUnsafe, data))
	}
	// A Keeper stores the WAL by itself.
	if wal, ok := seenWAL(data, srv.system); ok && q.keep == nil && !inside(wal) {
		errs = append(errs, fmt.Errorf("%w: the WAL at %q is in no protected volume, and has to be in the same cut as the data", ErrUnsafe, wal))
	}
	return errs
}

// below says whether a clean path is dir or in it.
func below(dir, place string) bool {
	return place == dir || strings.HasPrefix(place, strings.TrimSuffix(dir, "/")+"/")
}

// seenWAL returns where pg_wal leads to, if it is a link and the data directory
// of this very server can be seen from this process.
func seenWAL(data, system string) (string, bool) {
	control, err := readControl(data)
	if err != nil || control.System != system {
		return "", false
	}
	link := filepath.Join(data, walDir)
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", false
	}
	target, err := filepath.EvalSymlinks(link)
	return filepath.ToSlash(target), err == nil
}

// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// VerifyOptions are the settings of Verify.
type VerifyOptions struct {
	// Info is what PrepareRestore returned. It is required: it says where the
	// binary log is that decides about prepared transactions.
	Info *Info
	// Settings are given to the server, and win over those of Verify, by the
	// names of its long options: a keyring for encrypted tables, say.
	Settings map[string]string
	// Check is called when all else is well, while the instance runs: for what
	// only the application knows to be true of its data. An error of it is
	// returned as it is.
	Check func(ctx context.Context, at Instance) error
	// StartTimeout bounds the recovery. Zero means one hour.
	StartTimeout time.Duration
}

// Instance is a server that only its user can reach.
type Instance struct {
	Socket string // the path of its socket
	User   string // any does, without a password
}

// Verification is what Verify has looked at. All of it was found to be good.
type Verification struct {
	// Recovered is how far InnoDB was after the recovery, and NewestPage the
	// newest change that the files had before: a later one would prove files
	// newer than the redo log.
	Recovered  uint64 `json:"recovered_lsn"`
	NewestPage uint64 `json:"newest_page_lsn"`
	// Pages is how many pages were looked at for that.
	Pages int64 `json:"pages"`
	// Databases and Tables were checked by mysqlcheck --check --extended.
	// Unchecked tables have an engine that has no check, such as MEMORY.
	Databases int `json:"databases"`
	Tables    int `json:"tables"`
	Unchecked int `json:"unchecked_tables"`
	// GTID is gtid_executed after the recovery: all that the evidence promises
	// is in it. Empty without GTIDs.
	GTID string `json:"gtid_executed,omitempty"`
	// Recovery is how long the server took to start, and Took all of it.
	Recovery time.Duration `json:"recovery_ns"`
	Took     time.Duration `json:"took_ns"`
}

// Verify starts a private instance on a restored data directory, after
// PrepareRestore, and checks everything in it: that no page is newer than the redo
// log, that the log and the GTIDs reach as far as the point does, every table with
// mysqlcheck, and that the server has no fault to log. bin is the directory with
// the programs of the server's own version, such as /usr/bin; mysqld may be in sbin
// or libexec beside it.
//
// The error matches ErrInconsistent for files that are not good. Success is
// never empty: a check that has looked at nothing is an error as well. A copy
// that is wrong can still pass if all that is wrong are values that contradict
// nothing: give it a Check that knows the application.
//
// The instance runs as the owner of the files, who must not be root, listens on
// a socket in a private directory only, asks for no password, replicates nothing
// and runs no events. It writes: the files have then recovered, and the binary log
// has one file more. They cannot be verified twice as they were restored; verify a
// copy, or on the way to using it.
//
// The instance has ended when Verify returns. It needs a Unix.
func Verify(ctx context.Context, bin, dir string, opts *VerifyOptions) (*Verification, error) {
	if opts == nil || opts.Info == nil {
		return nil, errors.New("mysql: verify: VerifyOptions.Info is required: call PrepareRestore first")
	}
	began := time.Now()
	v := &verifying{bin: bin, dir: dir, opts: *opts, v: new(Verification)}
	if v.opts.StartTimeout <= 0 {
		v.opts.StartTimeout = time.Hour
	}
	if err := v.run(ctx); err != nil {
		if errors.Is(err, innodb.ErrBroken) {
			err = fmt.Errorf("%w: %w", ErrInconsistent, err)
		}
		return nil, fmt.Errorf("mysql: verify: %w", err)
	}
	v.v.Took = time.Since(began)
	return v.v, nil
}

// verifying is one verification at work.
type verifying struct {
	bin, dir string
	opts     VerifyOptions
	v        *Verification
}

func (v *verifying) run(ctx context.Context) error {
	i := v.opts.Info
	r := &restoring{dir: v.dir, info: i}
	if err := r.checkFiles(ctx); err != nil {
		return err
	}
	dirs := []string{v.dir}
	for _, name := range []string{"innodb_data_home_dir", "innodb_undo_directory"} {
		if p := i.restored[name]; p != "" {
			dirs = append(dirs, p)
		}
	}
	pages, err := innodb.ScanPages(ctx, i.PageSize, dirs...)
	if err != nil {
		return err
	}
	if v.v.NewestPage, v.v.Pages = pages.Newest, pages.Count; pages.Count == 0 {
		return inconsistent("there is not one page of data in %q", v.dir)
	}
	launch := &innodb.Launch{
		Bin: v.bin, Server: "mysqld", Client: "mysql", Check: "mysqlcheck",
		Dir: v.dir, Settings: v.settings(), Timeout: v.opts.StartTimeout,
	}
	began := time.Now()
	at, err := launch.Start(ctx)
	if err != nil {
		return err
	}
	v.v.Recovery = time.Since(began)
	err = v.whileRunning(ctx, at, pages)
	return errors.Join(err, at.Stop(ctx), at.Remove())
}

// versionReplica is the first one that calls a slave a replica in this option.
const versionReplica = 80026

// settings returns the configuration: nothing takes part that could reach the
// world outside.
func (v *verifying) settings() map[string]string {
	i := v.opts.Info
	settings := map[string]string{
		"mysqlx": "OFF", "event-scheduler": "DISABLED", "log-error-verbosity": "3", "innodb-fast-shutdown": "1",
		"innodb-buffer-pool-load-at-startup": "OFF", "innodb-buffer-pool-dump-at-shutdown": "OFF",
		"binlog-expire-logs-seconds": "0", "skip-replica-start": "ON",
	}
	if versionNumber(i.Version) < versionReplica {
		delete(settings, "skip-replica-start")
		settings["skip-slave-start"] = "ON"
	}
	maps.Copy(settings, i.Settings)
	for _, name := range []string{"innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory"} {
		if p := i.restored[name]; p != "" {
			settings[name] = p
		}
	}
	if i.BinlogName != "" {
		// The recovery asks the binary log whether a prepared transaction was
		// committed.
		place := i.in(v.dir, innodb.LogBin)
		settings["log-bin"], settings["log-bin-index"] = filepath.Join(place, i.BinlogName), filepath.Join(place, i.BinlogIndex)
		settings["server-id"] = strconv.FormatInt(max(1, i.ServerID), 10)
	} else {
		settings["disable-log-bin"] = "ON"
	}
	maps.Copy(settings, v.opts.Settings)
	return settings
}

// whileRunning checks what a running server can say.
func (v *verifying) whileRunning(ctx context.Context, at *innodb.Instance, pages *innodb.Pages) error {
	i := v.opts.Info
	text, err := at.Query(ctx, "SELECT STORAGE_ENGINES FROM performance_schema.log_status")
	if err != nil {
		return err
	}
	l := &logStatus{Local: json.RawMessage("{}"), Engines: json.RawMessage(text)}
	if err := l.parse(); err != nil {
		return err
	}
	if v.v.Recovered = l.lsn; v.v.NewestPage > v.v.Recovered {
		return inconsistent("a page of %q has changes up to %d, and the redo log ends at %d: the log was cut before the data", pages.In, v.v.NewestPage, v.v.Recovered)
	}
	if v.v.Recovered < i.StartLSN {
		return inconsistent("the redo log ends at %d, and has to reach %d", v.v.Recovered, i.StartLSN)
	}
	if i.GTID != "" {
		text, err := at.Query(ctx, "SELECT GTID_SUBSET('"+gtidOnly(i.GTID)+"', @@GLOBAL.gtid_executed), REPLACE(@@GLOBAL.gtid_executed, '\n', '')")
		if err != nil {
			return err
		}
		subset, executed, _ := strings.Cut(text, "\t")
		if v.v.GTID = executed; subset != "1" {
			return inconsistent("gtid_executed recovered to %.200q, and has to have %.200q", executed, i.GTID)
		}
	}
	checked, err := at.CheckTables(ctx)
	if err != nil {
		return err
	}
	v.v.Databases, v.v.Tables, v.v.Unchecked = checked.Databases, checked.Tables, checked.Unchecked
	if v.opts.Check == nil {
		return nil
	}
	return v.opts.Check(ctx, Instance{Socket: at.Socket, User: "root"})
}

// gtidOnly leaves nothing that a set of GTIDs, with its tags, has not.
func gtidOnly(set string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-:,_", r) {
			return r
		}
		return -1
	}, set)
}

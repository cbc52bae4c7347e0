// SPDX-License-Identifier: Apache-2.0

package mariadb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/innodb"
)

// VerifyOptions are the settings of Verify.
type VerifyOptions struct {
	// Info is what PrepareRestore returned. It is required: it says where the
	// binary log is that decides about prepared transactions.
	Info *Info
	// Settings are given to the server, and win over those of Verify, by the
	// names of its long options: a plugin for keys of encryption, say.
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
	// Recovered is where the redo log ended, and NewestPage the newest change
	// that the files had before: a later one would prove files newer than the
	// log.
	Recovered  uint64 `json:"recovered_lsn"`
	NewestPage uint64 `json:"newest_page_lsn"`
	// Pages is how many pages were looked at for that.
	Pages int64 `json:"pages"`
	// Databases and Tables were checked by mariadb-check --check --extended.
	// Unchecked tables have an engine that has no check, such as MEMORY.
	Databases int `json:"databases"`
	Tables    int `json:"tables"`
	Unchecked int `json:"unchecked_tables"`
	// GTID is gtid_binlog_pos after the recovery: all that the evidence
	// promises is in it. Empty without a binary log.
	GTID string `json:"gtid_binlog_pos,omitempty"`
	// Recovery is how long the server took to start, and Took all of it.
	Recovery time.Duration `json:"recovery_ns"`
	Took     time.Duration `json:"took_ns"`
}

// Verify starts a private instance on a restored data directory, after
// PrepareRestore, and checks everything in it: that no page is newer than the redo
// log, that the log and the GTID reach as far as the point does, every table with
// mariadb-check, and that the server has no fault to log. bin is the directory with
// the programs of the server's own version, such as /usr/bin; mariadbd may be in
// sbin or libexec beside it.
//
// The error matches ErrInconsistent for files that are not good. Success is
// never empty: a check that has looked at nothing is an error as well. A copy
// that is wrong can still pass if all that is wrong are values that contradict
// nothing: give it a Check that knows the application.
//
// The instance runs as the owner of the files, who must not be root, listens on
// a socket in a private directory only, asks for no password, replicates nothing,
// runs no events and loads no plugins of its tables. It writes: the files have then
// recovered, and the binary log has one file more. They cannot be verified twice as
// they were restored; verify a copy, or on the way to using it.
//
// The instance has ended when Verify returns. It needs a Unix.
func Verify(ctx context.Context, bin, dir string, opts *VerifyOptions) (*Verification, error) {
	if opts == nil || opts.Info == nil {
		return nil, errors.New("mariadb: verify: VerifyOptions.Info is required: call PrepareRestore first")
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
		return nil, fmt.Errorf("mariadb: verify: %w", err)
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
		Bin: v.bin, Server: "mariadbd", Client: "mariadb", Check: "mariadb-check",
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

// settings returns the configuration: nothing takes part that could reach the
// world outside.
func (v *verifying) settings() map[string]string {
	i := v.opts.Info
	settings := map[string]string{
		"skip-slave-start": "ON", "event-scheduler": "DISABLED", "log-warnings": "2", "innodb-fast-shutdown": "1",
		"innodb-buffer-pool-load-at-startup": "OFF", "innodb-buffer-pool-dump-at-shutdown": "OFF",
		"expire-logs-days": "0",
	}
	maps.Copy(settings, i.Settings)
	for _, name := range []string{"innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"} {
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
	}
	maps.Copy(settings, v.opts.Settings)
	return settings
}

// whileRunning checks what a running server can say.
func (v *verifying) whileRunning(ctx context.Context, at *innodb.Instance, pages *innodb.Pages) error {
	i := v.opts.Info
	v.v.Recovered = at.End()
	if v.v.Recovered == 0 {
		return errors.New("the server does not say where its redo log ended")
	}
	if v.v.NewestPage > v.v.Recovered {
		return inconsistent("a page of %q has changes up to %d, and the redo log ends at %d: the log was cut before the data", pages.In, v.v.NewestPage, v.v.Recovered)
	}
	if v.v.Recovered < i.StartLSN {
		return inconsistent("the redo log ends at %d, and has to reach %d", v.v.Recovered, i.StartLSN)
	}
	var err error
	if i.BinlogName != "" {
		if v.v.GTID, err = at.Query(ctx, "SELECT @@GLOBAL.gtid_binlog_pos"); err != nil {
			return err
		}
		if err := innodb.Reaches(v.v.GTID, i.GTID); err != nil {
			return fmt.Errorf("%w: %w", ErrInconsistent, err)
		}
	}
	text, err := at.Query(ctx, countTables)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(text); err != nil || i.TableCount > 0 && n != i.TableCount {
		return inconsistent("there are %.20q tables and views, and the evidence has %d", text, i.TableCount)
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

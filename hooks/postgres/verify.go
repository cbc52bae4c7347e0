// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// VerifyOptions are the optional settings of Verify.
type VerifyOptions struct {
	// Info is what PrepareRestore returned. With it, Verify also knows how the
	// files have to recover and how far: set it whenever it is at hand.
	Info *Info
	// User is a superuser of the cluster. The default is that of Info, or
	// "postgres".
	User string
	// Settings are given to the server, and win over those of Verify: an entry
	// of shared_preload_libraries that the recovery needs, say.
	Settings map[string]string
	// Check is called when all else is well, while the instance runs: for what
	// only the application knows to be true of its data. An error of it is
	// returned as it is.
	Check func(ctx context.Context, at Instance) error
	// StartTimeout bounds the recovery. Zero means one hour.
	StartTimeout time.Duration
	// Jobs is how many relations are checked at a time. Zero means 1.
	Jobs int
}

// Instance is a server that only its user can reach.
type Instance struct {
	Socket string // the directory of its socket, the "host" to connect to
	Port   int    // part of the socket's name
	User   string // a superuser, without a password
}

// Verification is what Verify has looked at. All of it was found to be good.
type Verification struct {
	// Recovered is where the WAL ended, and NewestPage the newest change that
	// the files had before: a later one would prove files newer than the WAL.
	Recovered  LSN `json:"recovered"`
	NewestPage LSN `json:"newest_page"`
	// Pages is how many pages were looked at for that.
	Pages int64 `json:"pages"`
	// Databases, Tables and Indexes were checked by amcheck: all databases that
	// allow connections, and each entry of a table looked for in its indexes.
	// On version 13, whose amcheck knows indexes only, Tables is 0, and tables
	// are checked by reading them.
	Databases int `json:"databases"`
	Tables    int `json:"tables"`
	Indexes   int `json:"indexes"`
	// Dumped is how many bytes all databases have as SQL.
	Dumped int64 `json:"dumped_bytes"`
	// ChecksummedBlocks were compared with their checksums; 0 if the cluster
	// has none.
	ChecksummedBlocks int64 `json:"checksummed_blocks"`
	// Recovery is how long the server took to start, and Took all of it.
	Recovery time.Duration `json:"recovery_ns"`
	Took     time.Duration `json:"took_ns"`
}

// Verify starts a private instance on a restored data directory, after
// PrepareRestore, and checks everything in it: that no file is newer than the
// WAL, that the WAL reaches as far as the point does, every table and index with
// amcheck, every row by dumping it, every checksum if there are any. bin is the
// directory with the programs of the server's own version, such as
// /usr/lib/postgresql/15/bin.
//
// The error matches ErrInconsistent for files that are not good. Success is
// never empty: a check that has looked at nothing is an error as well. A copy
// that is wrong can still pass if all that is wrong are values that contradict
// nothing: give it a Check that knows the application.
//
// The instance runs as the owner of the files, who must not be root, listens on
// a socket in a private directory only, archives nothing, subscribes to nothing
// and loads no library beforehand. It writes: the files have then recovered, and
// databases may have got the extension amcheck. They cannot be verified twice as
// they were restored; verify a copy, or on the way to using it.
//
// The instance has ended when Verify returns. It needs a Unix.
func Verify(ctx context.Context, bin, dir string, opts *VerifyOptions) (*Verification, error) {
	began := time.Now()
	v := &verifying{bin: bin, dir: dir, v: new(Verification)}
	if opts != nil {
		v.opts = *opts
	}
	if v.opts.User == "" {
		v.opts.User = "postgres"
		if v.opts.Info != nil && v.opts.Info.Superuser != "" {
			v.opts.User = v.opts.Info.Superuser
		}
	}
	if v.opts.StartTimeout <= 0 {
		v.opts.StartTimeout = time.Hour
	}
	v.opts.Jobs = max(1, v.opts.Jobs)
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("postgres: verify: %w", err)
	}
	v.v.Took = time.Since(began)
	return v.v, nil
}

// verifying is one verification at work.
type verifying struct {
	bin, dir string
	opts     VerifyOptions
	v        *Verification
	at       *instance
	archive  bool // it recovers from an archive
}

func (v *verifying) run(ctx context.Context) (err error) {
	if err := v.checkPrepared(ctx); err != nil {
		return err
	}
	if v.v.NewestPage, v.v.Pages, err = newestPage(ctx, v.dir, v.blockSize()); err != nil {
		return err
	}
	if v.v.Pages == 0 {
		return inconsistent("there is not one page of data in %q", v.dir)
	}
	if _, err := os.Lstat(filepath.Join(v.dir, "recovery.signal")); err == nil {
		v.archive = true
	}
	began := time.Now()
	if v.at, err = startInstance(ctx, v); err != nil {
		return err
	}
	v.v.Recovery = time.Since(began)
	err = v.whileRunning(ctx)
	err = errors.Join(err, v.at.stop(ctx))
	if err == nil {
		err = v.checksums(ctx)
	}
	return errors.Join(err, v.at.remove())
}

func (v *verifying) blockSize() int64 {
	if v.opts.Info != nil && v.opts.Info.BlockSize > 0 {
		return v.opts.Info.BlockSize
	}
	return 8192
}

// checkPrepared checks that the files will recover the way that they have to.
// Without its label a backup starts from the wrong place, and usually does so
// without a complaint.
func (v *verifying) checkPrepared(ctx context.Context) error {
	if v.opts.Info == nil {
		return nil
	}
	r := &restoring{dir: v.dir, info: v.opts.Info}
	if err := r.checkFiles(ctx); err != nil {
		return err
	}
	if err := r.checkTimes(ctx); err != nil {
		return err
	}
	if r.info.Method != MethodBackup {
		return nil
	}
	if label, err := os.ReadFile(r.path(evidenceLabel)); err != nil || !bytes.Equal(label, r.info.Label) {
		return inconsistent("the backup_label is missing or is another one: run PrepareRestore")
	}
	return nil
}

// whileRunning checks what a running server can say.
func (v *verifying) whileRunning(ctx context.Context) error {
	// The checkpoint that ends a recovery is where the WAL ended. That of an
	// archive has none; what was written since makes it a little later.
	text, err := v.at.query(ctx, "SELECT CASE WHEN "+strconv.FormatBool(v.archive)+" THEN pg_current_wal_insert_lsn() ELSE (SELECT redo_lsn FROM pg_control_checkpoint()) END")
	if err != nil {
		return err
	}
	if v.v.Recovered, err = ParseLSN(text); err != nil {
		return err
	}
	if v.v.NewestPage > v.v.Recovered {
		return inconsistent("a page has changes up to %s, and the WAL ends at %s: the WAL was cut before the data", v.v.NewestPage, v.v.Recovered)
	}
	if i := v.opts.Info; i != nil {
		need := i.Stop
		if i.Method == MethodAtomic {
			need = i.Start
		}
		if v.v.Recovered < need {
			return inconsistent("the WAL ends at %s, and has to reach %s", v.v.Recovered, need)
		}
	}
	if err := v.amcheck(ctx); err != nil {
		return err
	}
	if err := v.dump(ctx); err != nil {
		return err
	}
	if v.opts.Check == nil {
		return nil
	}
	return v.opts.Check(ctx, v.at.Instance)
}

// amcheck checks all tables and indexes.
func (v *verifying) amcheck(ctx context.Context) error {
	text, err := v.at.query(ctx, "SELECT count(*) FROM pg_database WHERE datallowconn")
	if err != nil {
		return err
	}
	if v.v.Databases, err = strconv.Atoi(text); err != nil {
		return fmt.Errorf("count databases: %w", err)
	}
	if !v.at.has("pg_amcheck") {
		return v.amcheckOld(ctx)
	}
	var found program.Tail
	tables, indexes := counter{word: "checking heap table "}, counter{word: "checking btree index "}
	err = v.at.run(ctx, &found, io.MultiWriter(&tables, &indexes), "pg_amcheck",
		"--all", "--heapallindexed", "--install-missing", "--verbose", "--jobs="+strconv.Itoa(v.opts.Jobs))
	if err != nil {
		return fmt.Errorf("%w: pg_amcheck: %w: %s", ErrInconsistent, err, found.String())
	}
	v.v.Tables, v.v.Indexes = tables.n, indexes.n
	if v.v.Tables == 0 || v.v.Indexes == 0 {
		return inconsistent("pg_amcheck checked %d tables and %d indexes: there is nothing to vouch for", v.v.Tables, v.v.Indexes)
	}
	return nil
}

// amcheckOld checks all indexes of version 13, which has no pg_amcheck.
func (v *verifying) amcheckOld(ctx context.Context) error {
	names, err := v.at.query(ctx, "SELECT datname FROM pg_database WHERE datallowconn")
	if err != nil {
		return err
	}
	for name := range strings.Lines(names) {
		_, err := v.at.queryIn(ctx, strings.TrimSuffix(name, "\n"), "CREATE EXTENSION IF NOT EXISTS amcheck")
		if err != nil {
			return err
		}
		text, err := v.at.queryIn(ctx, strings.TrimSuffix(name, "\n"), `SELECT count(*) FROM (SELECT bt_index_check(i.indexrelid, true) FROM pg_index i
 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
 WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid OFFSET 0) checked`)
		if err != nil {
			return fmt.Errorf("%w: amcheck: %w", ErrInconsistent, err)
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("count indexes: %w", err)
		}
		v.v.Indexes += n
	}
	if v.v.Indexes == 0 {
		return inconsistent("amcheck checked no index: there is nothing to vouch for")
	}
	return nil
}

// dump reads every row of every table.
func (v *verifying) dump(ctx context.Context) error {
	var failed program.Tail
	var size counter
	if err := v.at.run(ctx, &size, &failed, "pg_dumpall"); err != nil {
		return fmt.Errorf("%w: pg_dumpall: %w: %s", ErrInconsistent, err, failed.String())
	}
	if v.v.Dumped = size.bytes; v.v.Dumped == 0 {
		return inconsistent("pg_dumpall wrote nothing")
	}
	return nil
}

// checksums compares all pages with their checksums, if there are any.
func (v *verifying) checksums(ctx context.Context) error {
	if v.at.control["Data page checksum version"] == "0" {
		return nil
	}
	var out program.Tail
	if err := v.at.run(ctx, &out, &out, "pg_checksums", "--check", "--pgdata="+v.dir); err != nil {
		return fmt.Errorf("%w: pg_checksums: %w: %s", ErrInconsistent, err, out.String())
	}
	for line := range strings.Lines(out.String()) {
		if text, ok := strings.CutPrefix(line, "Blocks scanned:"); ok {
			v.v.ChecksummedBlocks, _ = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		}
	}
	if v.v.ChecksummedBlocks == 0 {
		return inconsistent("pg_checksums has checked no block")
	}
	return nil
}

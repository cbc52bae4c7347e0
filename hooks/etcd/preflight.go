// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/internal/durable"
)

// check returns what makes the member unfit at this moment.
func (q *Quiescer) check(s *State) []error {
	var errs []error
	unsafe := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...)))
	}
	if !supported(s.Version) {
		errs = append(errs, fmt.Errorf("server version %.20q, the oldest that is supported is 3.4: %w", s.Version, errors.ErrUnsupported))
	}
	if s.ReadBy != s.Member {
		unsafe("member %x answered a read and member %x the status: the client must have one endpoint, of one member", s.ReadBy, s.Member)
	}
	if s.Learner {
		unsafe("the member is a learner: it may be far behind. Use a voting member")
	}
	if s.Leader == 0 {
		unsafe("the cluster has no leader")
	}
	for _, e := range s.Errors {
		unsafe("the member reports %.200q: an alarm NOSPACE is lifted by compaction, defragmentation and etcdctl alarm disarm; after CORRUPT the member has to be replaced", strings.TrimSpace(e))
	}
	if q.atomic() && len(s.Members) != 1 {
		errs = append(errs, fmt.Errorf("the cluster has %d members, and one of them cannot recover alone without losing writes: use NewSnapshot: %w", len(s.Members), errors.ErrUnsupported))
	}
	return errs
}

// supported says whether a version is 3.4 or a newer one of the third.
func supported(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return err == nil && major == "3" && n >= 4
}

// checkRights begins a snapshot, which takes the same right as a hash and costs
// less. That the right is missing is said in other words by each version, so that
// the hint goes with any refusal.
func (q *Quiescer) checkRights(ctx context.Context) error {
	if q.atomic() && q.opts.NoHash {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := q.client.Snapshot(ctx)
	if err == nil {
		_, err = io.ReadFull(stream, make([]byte, 1))
		_ = stream.Close() // nobody wants the rest
	}
	if err != nil {
		return fmt.Errorf("the member gives no snapshot; if the cluster has authentication, the user needs the role root (etcdctl user grant-role USER root): %w", err)
	}
	return nil
}

// checkSpace checks that a snapshot fits into its directory. The one that is
// there will be removed first.
func (q *Quiescer) checkSpace(need int64) error {
	f, err := os.CreateTemp(q.dir, ".protect-*")
	if err != nil {
		return fmt.Errorf("the directory of the snapshot: %w", err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	free, known, err := durable.Free(q.dir)
	if err != nil || !known {
		return err
	}
	if old, err := os.Stat(filepath.Join(q.dir, SnapshotFile)); err == nil {
		free += old.Size()
	}
	if free < need {
		return fmt.Errorf("%w: the database has %d bytes, and directory %q has room for %d", ErrUnsafe, need, q.dir, free)
	}
	return nil
}

// checkFiles checks that the files are where they are said to be.
func (q *Quiescer) checkFiles() error {
	if q.opts.DataDir == "" {
		return nil
	}
	l := layout{data: q.opts.DataDir, wal: q.opts.WALDir}
	return l.check(ErrUnsafe)
}

// layout is where the files of a member are.
type layout struct {
	data string
	wal  string // empty: in the data directory
}

func (l layout) db() string { return filepath.Join(l.data, "member", "snap", "db") }

func (l layout) walDir() string {
	if l.wal != "" {
		return l.wal
	}
	return filepath.Join(l.data, "member", "wal")
}

// check checks that there is a database and a log, and fails with kind.
func (l layout) check(kind error) error {
	info, err := os.Stat(l.db())
	if err != nil {
		return fmt.Errorf("%w: no database: %w", kind, err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("%w: %q is no database", kind, l.db())
	}
	// Without its log etcd takes the database for that of a new member, and
	// starts with what it had some time ago.
	logs, err := filepath.Glob(filepath.Join(escape(l.walDir()), "*.wal"))
	if err == nil && len(logs) == 0 {
		err = fmt.Errorf("%w: there is no write-ahead log in %q", kind, l.walDir())
	}
	return err
}

// escape makes a path a pattern that matches it alone.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

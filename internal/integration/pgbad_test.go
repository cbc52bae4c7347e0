// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
)

var (
	pgCopies   = flag.Int("pg.copies", 1, "known-bad copies of PostgreSQL of each kind")
	pgCopyTime = flag.Duration("pg.copytime", 15*time.Second, "how long a slow copy takes; checkpoints come every second")
)

// busyServer has far less memory than data, so that pages are written all the
// time, and keeps its WAL, so that a bad copy has all that it could ask for.
func busyServer(t *testing.T) (*pgServer, *pgLoad, string) {
	t.Helper()
	mount := mountFS(t, "xfs")
	data := filepath.Join(own(t, filepath.Join(mount, "shop")), "data")
	initPG(t, data, "")
	s := startPG(t, data, "shared_buffers=1MB", "wal_keep_size=1GB", "bgwriter_delay=10ms", "autovacuum=off")
	return s, startLoad(t, s, 4, 100_000, 0), mount
}

// copyTree copies a data directory, without its WAL, in the order of names, so
// slowly that it takes about the given time.
func copyTree(ctx context.Context, from, to string, takes time.Duration) error {
	var total int64
	if err := walkData(from, func(_ string, info fs.FileInfo) error { total += info.Size(); return nil }); err != nil {
		return err
	}
	began, done := time.Now(), int64(0)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return walkData(from, func(name string, info fs.FileInfo) error {
		target := filepath.Join(to, name)
		if info.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		src, err := os.Open(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.Create(target)
		if err != nil {
			return err
		}
		defer dst.Close()
		for {
			n, err := io.CopyN(dst, src, 1<<18)
			done += n
			behind := time.Duration(float64(takes)*float64(done)/float64(total)) - time.Since(began)
			select {
			case <-time.After(behind):
			case <-ctx.Done():
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

// walkData visits what belongs into a copy of a data directory.
func walkData(dir string, visit func(name string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, "pg_wal/") || strings.HasPrefix(name, "postmaster.") {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() && !info.Mode().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(name, info)
	})
}

// copyWAL copies the WAL as it is now.
func copyWAL(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(to, "pg_wal", "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(from, "pg_wal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	system(t, "cp", append([]string{"-a", "-t", filepath.Join(to, "pg_wal")}, segments...)...)
}

// clone copies a copy, for the server's user.
func clone(t *testing.T, from, to string) string {
	t.Helper()
	system(t, "cp", "-a", "--reflink=auto", from, to)
	o := serverAccount(t)
	system(t, "chown", "-R", fmt.Sprintf("%d:%d", o.UID, o.GID), to)
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestPostgresSlowCopy copies a busy server for so long that checkpoints pass.
// With the evidence of the backup the copy is whole. Without its label it is
// not, although it starts and its checksums are right: Verify rejects it, with
// and without evidence, and with that of a cut at one instant, which it was not.
func TestPostgresSlowCopy(t *testing.T) {
	for i := range *pgCopies {
		t.Run(fmt.Sprint(i), func(t *testing.T) { testSlowCopy(t) })
	}
}

func testSlowCopy(t *testing.T) {
	s, load, mount := busyServer(t)
	keep := t.TempDir()
	q, err := postgres.NewBackup(s.db, postgres.Directory(keep), nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := postgres.NewAtomic(s.db, nil)
	if err != nil {
		t.Fatal(err)
	}
	load.waitMore(t, 20)
	before := load.seen()
	g, err := hooks.NewGroup("shop", []hooks.Member{{Name: "backup", Quiescer: q}, {Name: "atomic", Quiescer: wrong}}, &hooks.GroupOptions{Window: hooks.MaxWindow, ThawTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(mount, "copy")
	checkpoints := 0
	report, err := g.Do(t.Context(), "id", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- copyTree(ctx, s.data, copied, *pgCopyTime) }()
		for {
			select {
			case err := <-done:
				return err
			case <-time.After(time.Second):
				if _, err := s.db.ExecContext(ctx, "CHECKPOINT"); err == nil {
					checkpoints++
				}
			}
		}
	})
	if err != nil || !report.Proven() {
		t.Fatalf("error %v, doubts %q", err, report.Doubts())
	}
	copyWAL(t, s.data, copied)
	load.stop()
	t.Logf("copied in %v, with %d checkpoints; thawed in %v", report.Cut, checkpoints, report.Thaw)
	if checkpoints < 3 {
		t.Errorf("%d checkpoints are too few to show anything", checkpoints)
	}
	verify := func(dir string, info *postgres.Info, check func(context.Context, postgres.Instance) error) error {
		v, err := postgres.Verify(t.Context(), pgBin(t), dir, &postgres.VerifyOptions{Info: info, Check: check})
		t.Logf("%s: %+v, error %.300v", filepath.Base(dir), v, err)
		return err
	}

	info, err := postgres.ParseEvidence(report.Evidence["backup"])
	if err != nil {
		t.Fatal(err)
	}
	started := startPG(t, clone(t, copied, filepath.Join(mount, "started")))
	t.Logf("the copy without its label starts; the application's own check: %v", checkLoad(t.Context(), started.db, load.accounts, before))
	started.shutdown()
	if out, err := pgCommand(t.Context(), t, "pg_checksums", "--check", "--pgdata="+started.data).CombinedOutput(); err != nil {
		t.Errorf("the fault shows in its checksums, so that the test shows less than it should: %v: %s", err, out)
	}
	for name, info := range map[string]*postgres.Info{"no-evidence": nil, "no-label": info} {
		if err := verify(clone(t, copied, filepath.Join(mount, name)), info, nil); !errors.Is(err, postgres.ErrInconsistent) {
			t.Errorf("%s: a copy without its label passed: %v", name, err)
		}
	}
	atomic := clone(t, copied, filepath.Join(mount, "atomic"))
	atomicInfo, err := postgres.PrepareRestore(t.Context(), atomic, report.Evidence["atomic"], nil)
	if err == nil {
		err = verify(atomic, atomicInfo, nil)
	}
	if !errors.Is(err, postgres.ErrInconsistent) {
		t.Errorf("a slow copy passed as a cut at one instant: %v", err)
	}
	good := clone(t, copied, filepath.Join(mount, "good"))
	if _, err := postgres.PrepareRestore(t.Context(), good, report.Evidence["backup"], nil); !errors.Is(err, postgres.ErrInconsistent) {
		t.Errorf("PrepareRestore without the WAL: %v", err)
	}
	if _, err := postgres.PrepareRestore(t.Context(), good, report.Evidence["backup"], &postgres.RestoreOptions{WAL: os.DirFS(keep), Owner: new(postgres.Owner(serverAccount(t)))}); err != nil {
		t.Fatal(err)
	}
	if err := verify(good, info, load.check(t, before)); err != nil {
		t.Errorf("the copy with its label: %v", err)
	}
}

// TestPostgresWALFirst copies the WAL, and the data seconds later.
func TestPostgresWALFirst(t *testing.T) {
	for _, checkpoint := range []bool{false, true} {
		for i := range *pgCopies {
			t.Run(fmt.Sprintf("checkpoint=%t/%d", checkpoint, i), func(t *testing.T) {
				s, load, mount := busyServer(t)
				q, err := postgres.NewAtomic(s.db, nil)
				if err != nil {
					t.Fatal(err)
				}
				load.waitMore(t, 20)
				hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: hooks.MaxWindow})
				if err != nil {
					t.Fatal(err)
				}
				copied := filepath.Join(mount, "copy")
				copyWAL(t, s.data, copied)
				load.waitMore(t, 100)
				if checkpoint {
					s.exec(t, "CHECKPOINT")
				}
				if err := copyTree(t.Context(), s.data, copied, 0); err != nil {
					t.Fatal(err)
				}
				evidence, err := hold.Thaw(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				load.stop()
				clone(t, copied, filepath.Join(mount, "bare"))
				v, err := postgres.Verify(t.Context(), pgBin(t), filepath.Join(mount, "bare"), nil)
				t.Logf("without evidence: %.300v", err)
				if !errors.Is(err, postgres.ErrInconsistent) {
					t.Errorf("it passed: %+v, %v", v, err)
				}
				dir := clone(t, copied, filepath.Join(mount, "prepared"))
				info, err := postgres.PrepareRestore(t.Context(), dir, evidence, nil)
				if err == nil {
					_, err = postgres.Verify(t.Context(), pgBin(t), dir, &postgres.VerifyOptions{Info: info})
				}
				t.Logf("with evidence: %.300v", err)
				if !errors.Is(err, postgres.ErrInconsistent) {
					t.Errorf("with evidence it passed: %v", err)
				}
			})
		}
	}
}

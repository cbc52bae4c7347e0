// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

const writerEnv = "PROTECT_TEST_WRITER"

// TestWriterProcess is not a test: it is the application of TestRunSQLite, in a
// process of its own, until it is killed. It says which row is committed.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerEnv)
	if path == "" {
		t.Skip("runs as a child process only")
	}
	db := openSQLite(t, path, "WAL", 10*time.Second)
	for n := 1; ; n++ {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (?, randomblob(1000))", n); err != nil {
			t.Fatal(err)
		}
		fmt.Println("row", n)
	}
}

// startWriter starts the application and returns the last row that it
// acknowledged.
func startWriter(t *testing.T, path string) *atomic.Int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe, "-test.run=^TestWriterProcess$")
	c.Env = append(os.Environ(), writerEnv+"="+path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	acked := new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(strings.TrimPrefix(lines.Text(), "row "), 10, 64); err == nil {
				acked.Store(n)
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-done
		_ = c.Wait()
	})
	return acked
}

// TestRunSQLite protects a database that another process writes, with the hold
// and the snapshots in this one: opening the database's files to clone them
// must not cost the locks that hold it still.
func TestRunSQLite(t *testing.T) {
	ctx := t.Context()
	vol, clones := t.TempDir(), t.TempDir()
	path := filepath.Join(vol, "db")
	acked := startWriter(t, path)
	for acked.Load() == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	bucket, err := dirbucket.OpenBucket(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bucket.Close() })
	r, err := repo.Init(ctx, bucket, repo.Passphrase("secret").WithKDF(1, 8, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	drv, err := reflink.New(clones, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(drv, nil)})
	if err != nil {
		t.Fatal(err)
	}
	app := protect.Application{
		Name:    "app",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(vol)}},
		Members: []protect.Member{{Name: "sqlite", Quiescer: newSQLite(t, openSQLite(t, path, "WAL", 10*time.Second))}},
		Require: protect.ApplicationConsistent,
	}
	for i := range 10 {
		before := acked.Load()
		rp, err := p.Run(ctx, app, fmt.Sprint("point-", i))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(t.TempDir(), "restored")
		if _, err := p.Restore(ctx, rp.ID, target, nil); err != nil {
			t.Fatal(err)
		}
		rows := checkRows(ctx, t, filepath.Join(target, "data", "db"))
		if rows < before {
			t.Errorf("%s has %d rows, and %d were acknowledged before it", rp.ID, rows, before)
		}
		t.Logf("%s: %d rows, frozen for %v", rp.ID, rows, rp.Frozen)
		for acked.Load() == before { // the application goes on
			time.Sleep(time.Millisecond)
		}
	}
}

// checkRows checks a restored database and returns the number of its rows,
// which must be the first ones.
func checkRows(ctx context.Context, t *testing.T, path string) int64 {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Fatalf("integrity_check: %q, %v", verdict, err)
	}
	var count, last int64
	if err := db.QueryRowContext(ctx, "SELECT count(*), max(n) FROM t").Scan(&count, &last); err != nil {
		t.Fatal(err)
	}
	if count != last {
		t.Errorf("%d rows, the last one is %d", count, last)
	}
	return count
}

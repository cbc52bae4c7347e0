// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/mariadb"
)

const (
	mdbHolderEnv = "PROTECT_TEST_MARIADB_HOLDER" // method and socket
	mdbWindow    = 3 * time.Second
)

// TestMariaDBHolderProcess is not a test: it holds a freeze, in a process that
// can be stalled, until its input has a line; then it says what it knows.
func TestMariaDBHolderProcess(t *testing.T) {
	method, socket, ok := strings.Cut(os.Getenv(mdbHolderEnv), " ")
	if !ok {
		t.Skip("runs as a child process only")
	}
	make := mariadb.NewBackup
	if method == "still" {
		make = mariadb.NewStill
	}
	q, err := make(openMDB(t, socket, "root", ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: mdbWindow})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("HOLDS")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	held := hold.Held(t.Context())
	_, thaw := hold.Thaw(t.Context())
	fmt.Println("LOST", errors.Is(held, hooks.ErrHoldLost), errors.Is(thaw, hooks.ErrHoldLost))
}

// TestMariaDBStalled stops and kills who holds a freeze: the server ends it by
// its lease, and at once, and the writers resume.
func TestMariaDBStalled(t *testing.T) {
	s := newMDB(t)
	load := startMDBLoad(t, s, 2, 100, time.Millisecond, false)
	for _, method := range []string{"backup", "still"} {
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			t.Run(method+"/"+sig.String(), func(t *testing.T) { testMDBStalled(t, s, load, method, sig) })
		}
	}
}

func testMDBStalled(t *testing.T, s *mdbServer, load *mdbLoad, method string, sig syscall.Signal) {
	h := startHolder(t, "TestMariaDBHolderProcess", mdbHolderEnv+"="+method+" "+s.socket)
	began := time.Now()
	h.signal(t, sig)
	if sig == syscall.SIGSTOP {
		<-time.After(mdbWindow / 10) // what was acknowledged has arrived by now
		before := load.seen()
		<-time.After(mdbWindow / 3)
		if now := load.seen(); now[0] != before[0] || now[1] != before[1] {
			t.Errorf("the process did not hold the writers: %v, then %v", before, now)
		}
	}
	load.waitMore(t, 1)
	took := time.Since(began)
	t.Logf("the writers resumed %v after the signal", took)
	limit := time.Second
	if sig == syscall.SIGSTOP {
		limit += mdbWindow
	}
	if took > limit {
		t.Errorf("the writers resumed %v after the signal, want at most %v", took, limit)
	}
	if sig == syscall.SIGSTOP {
		h.saysLost(t)
	}
}

// TestMariaDBLosesProof does what makes a cut worthless, during the hold.
func TestMariaDBLosesProof(t *testing.T) {
	t.Parallel()
	s := newMDB(t)
	s.exec(t, "CREATE USER keeper@localhost", "GRANT ALL ON *.* TO keeper@localhost", "CREATE DATABASE shop", "CREATE TABLE shop.t (id int) ENGINE=InnoDB")
	db := openMDB(t, s.socket, "keeper", "")
	db.SetMaxIdleConns(0)
	run := func(queries ...string) func(*testing.T) {
		return func(t *testing.T) { s.exec(t, queries...) }
	}
	kill := func(t *testing.T) {
		if err := killMDB(t.Context(), s.db, "FROM information_schema.PROCESSLIST WHERE USER = 'keeper'"); err != nil {
			t.Fatal(err)
		}
	}
	// A transaction that is open may go back in a freeze, and InnoDB writes.
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO shop.t SELECT seq FROM seq_1_to_1000"); err != nil {
		t.Fatal(err)
	}
	rollback := func(t *testing.T) {
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name          string
		make          mdbConstructor
		during, after func(*testing.T)
	}{
		{name: "atomic/session", make: mariadb.NewAtomic, during: kill},
		{name: "backup/session", make: mariadb.NewBackup, during: kill},
		{name: "still/session", make: mariadb.NewStill, during: kill},
		{
			name: "atomic/settings", make: mariadb.NewAtomic,
			during: run("SET GLOBAL sync_binlog = 0"), after: run("SET GLOBAL sync_binlog = 1"),
		},
		{name: "still/writes", make: mariadb.NewStill, during: rollback},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, err := tt.make(db, nil)
			if err != nil {
				t.Fatal(err)
			}
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if err := hold.Held(t.Context()); err != nil {
				t.Errorf("Held before: %v", err)
			}
			tt.during(t)
			if tt.after != nil {
				defer tt.after(t)
			}
			if err := hold.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
				t.Errorf("Held: %v, want hooks.ErrHoldLost", err)
			}
			evidence, err := hold.Thaw(t.Context())
			if !errors.Is(err, hooks.ErrHoldLost) || len(evidence) > 0 {
				t.Errorf("Thaw: evidence %v, error %v; want hooks.ErrHoldLost", evidence, err)
			}
			s.exec(t, "INSERT INTO shop.t VALUES (1)") // nothing is left behind
		})
	}
}

// TestMariaDBUncommitted holds the server while a transaction is open, which
// goes on and commits after the thaw.
func TestMariaDBUncommitted(t *testing.T) {
	t.Parallel()
	s := newMDB(t)
	s.exec(t, "CREATE DATABASE shop", "CREATE TABLE shop.t (id int) ENGINE=InnoDB")
	for name, make := range map[string]mdbConstructor{"backup": mariadb.NewBackup, "still": mariadb.NewStill} {
		t.Run(name, func(t *testing.T) {
			tx, err := s.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO shop.t VALUES (2)"); err != nil {
				t.Fatal(err)
			}
			q, err := make(s.db, nil)
			if err != nil {
				t.Fatal(err)
			}
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
			if err != nil {
				t.Fatalf("an open transaction is in the way: %v", err)
			}
			if err := hold.Held(t.Context()); err != nil {
				t.Error(err)
			}
			evidence, err := hold.Thaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			info, err := mariadb.ParseEvidence(evidence)
			if err != nil || info.GTID == "" || info.BinlogFile == "" || info.BinlogPos == 0 || info.TablespaceCount == 0 {
				t.Errorf("evidence %+v, %v", info, err)
			}
		})
	}
}

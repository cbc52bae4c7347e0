// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks/mariadb"
)

// mdbLoad moves money between accounts, and notes each transfer in a ledger, in
// one transaction. Whatever the instant: all balances add up to nothing, each
// balance is that of its entries, and the entries of a worker are 1, 2, 3, …
// without a gap, up to at least the last one that was acknowledged. With a
// journal, each transfer is then noted in a table that knows no transactions.
type mdbLoad struct {
	*workers
	db       *sql.DB
	accounts int
	journal  bool
}

// startMDBLoad fills the database and starts workers, until the test is over.
func startMDBLoad(t *testing.T, s *mdbServer, workers, accounts int, pause time.Duration, journal bool) *mdbLoad {
	t.Helper()
	s.exec(t,
		"CREATE DATABASE shop",
		"CREATE TABLE shop.account (id int PRIMARY KEY, balance bigint NOT NULL, filler char(128) NOT NULL) ENGINE=InnoDB",
		fmt.Sprintf("INSERT INTO shop.account SELECT seq, 0, repeat(md5(seq), 4) FROM seq_0_to_%d", accounts-1),
		"CREATE TABLE shop.ledger (worker int, n bigint, debit int, credit int, amount bigint, filler char(100), PRIMARY KEY (worker, n), KEY (debit), KEY (credit)) ENGINE=InnoDB")
	if journal {
		s.exec(t, "CREATE TABLE shop.journal (worker int, n bigint, PRIMARY KEY (worker, n)) ENGINE=MyISAM")
	}
	l := &mdbLoad{db: openMDB(t, s.socket, "root", "shop"), accounts: accounts, journal: journal}
	l.db.SetMaxIdleConns(workers)
	l.workers = startWorkers(t, workers, pause, l.transfer)
	return l
}

func (l *mdbLoad) transfer(ctx context.Context, worker int, n int64) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	a, b := rand.IntN(l.accounts), rand.IntN(l.accounts)
	if a > b {
		a, b = b, a // so that nobody waits in a circle
	}
	amount := rand.Int64N(2000) - 1000
	for _, change := range []struct {
		id  int
		sum int64
	}{{a, -amount}, {b, amount}} {
		if _, err := tx.ExecContext(ctx, "UPDATE account SET balance = balance + ? WHERE id = ?", change.sum, change.id); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, repeat('x', 100))", worker, n, a, b, amount); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil || !l.journal {
		return err
	}
	_, err = l.db.ExecContext(ctx, "INSERT INTO journal VALUES (?, ?)", worker, n)
	return err
}

// check returns a function for VerifyOptions.Check: the invariant, and nothing
// missing that was acknowledged before.
func (l *mdbLoad) check(t *testing.T, before []int64) func(context.Context, mariadb.Instance) error {
	return func(ctx context.Context, at mariadb.Instance) error {
		db := openMDB(t, at.Socket, at.User, "shop")
		defer db.Close()
		if err := checkMDBLoad(ctx, db, l.accounts, "ledger", before); err != nil || !l.journal {
			return err
		}
		return checkMDBEntries(ctx, db, "journal", before)
	}
}

func checkMDBLoad(ctx context.Context, db *sql.DB, accounts int, ledger string, before []int64) error {
	var rows int
	var sum int64
	// Tables are read as such: an index may be what is wrong.
	if err := db.QueryRowContext(ctx, "SELECT count(*), sum(balance) FROM account USE INDEX ()").Scan(&rows, &sum); err != nil {
		return err
	}
	if rows != accounts || sum != 0 {
		return fmt.Errorf("invariant: %d accounts with a sum of %d, want %d with 0", rows, sum, accounts)
	}
	var wrong int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM account a LEFT JOIN
 (SELECT id, sum(amount) AS total FROM (SELECT debit AS id, -amount AS amount FROM ledger USE INDEX () UNION ALL SELECT credit, amount FROM ledger USE INDEX ()) e GROUP BY id) t
 ON t.id = a.id WHERE a.balance <> COALESCE(t.total, 0)`).Scan(&wrong)
	if err != nil {
		return err
	}
	if wrong != 0 {
		return fmt.Errorf("invariant: %d balances are not those of the ledger", wrong)
	}
	return checkMDBEntries(ctx, db, ledger, before)
}

// checkMDBEntries checks that every worker's entries have no gap.
func checkMDBEntries(ctx context.Context, db *sql.DB, table string, before []int64) error {
	for w, want := range before {
		var n, last int64
		err := db.QueryRowContext(ctx, "SELECT count(*), COALESCE(max(n), 0) FROM "+table+" WHERE worker = ?", w).Scan(&n, &last)
		if err != nil {
			return err
		}
		if n != last || n < want {
			return fmt.Errorf("worker %d has %d entries in %s up to number %d, and %d were acknowledged before the cut", w, n, table, last, want)
		}
	}
	return nil
}

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

	"github.com/stillpoint-go/protect/hooks/postgres"
)

// pgLoad moves money between accounts, and notes each transfer in a ledger, in
// one transaction. Whatever the instant: all balances add up to nothing, each
// balance is that of its entries, and the entries of a worker are 1, 2, 3, …
// without a gap, up to at least the last one that was acknowledged.
type pgLoad struct {
	*workers
	db       *sql.DB
	accounts int
}

// startLoad fills the database and starts workers, until the test is over.
func startLoad(t *testing.T, s *pgServer, workers, accounts int, pause time.Duration) *pgLoad {
	t.Helper()
	s.exec(t,
		"CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, filler text NOT NULL)",
		fmt.Sprintf("INSERT INTO account SELECT i, 0, repeat(md5(i::text), 4) FROM generate_series(0, %d) i", accounts-1),
		"CREATE TABLE ledger (worker int, n bigint, debit int, credit int, amount bigint, filler text, PRIMARY KEY (worker, n))",
		"CREATE INDEX ON ledger (debit)", "CREATE INDEX ON ledger (credit)", "CHECKPOINT")
	l := &pgLoad{db: s.db, accounts: accounts}
	l.workers = startWorkers(t, workers, pause, l.transfer)
	return l
}

func (l *pgLoad) transfer(ctx context.Context, worker int, n int64) error {
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
		if _, err := tx.ExecContext(ctx, "UPDATE account SET balance = balance + $1 WHERE id = $2", change.sum, change.id); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES ($1, $2, $3, $4, $5, repeat('x', 100))", worker, n, a, b, amount); err != nil {
		return err
	}
	return tx.Commit()
}

// check returns a function for VerifyOptions.Check: the invariant, and nothing
// missing that was acknowledged before.
func (l *pgLoad) check(t *testing.T, before []int64) func(context.Context, postgres.Instance) error {
	return func(ctx context.Context, at postgres.Instance) error {
		db := openPG(t, at.Socket, at.Port, at.User, "postgres")
		defer db.Close()
		return checkLoad(ctx, db, l.accounts, before)
	}
}

func checkLoad(ctx context.Context, db *sql.DB, accounts int, before []int64) error {
	// Tables are read as such: an index may be what is wrong.
	db.SetMaxOpenConns(1)
	for _, set := range []string{"enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"} {
		if _, err := db.ExecContext(ctx, "SET "+set+" = off"); err != nil {
			return err
		}
	}
	var rows int
	var sum int64
	if err := db.QueryRowContext(ctx, "SELECT count(*), sum(balance) FROM account").Scan(&rows, &sum); err != nil {
		return err
	}
	if rows != accounts || sum != 0 {
		return fmt.Errorf("invariant: %d accounts with a sum of %d, want %d with 0", rows, sum, accounts)
	}
	var wrong int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM account a LEFT JOIN
 (SELECT id, sum(amount) AS total FROM (SELECT debit AS id, -amount AS amount FROM ledger UNION ALL SELECT credit, amount FROM ledger) e GROUP BY id) t
 ON t.id = a.id WHERE a.balance <> COALESCE(t.total, 0)`).Scan(&wrong)
	if err != nil {
		return err
	}
	if wrong != 0 {
		return fmt.Errorf("invariant: %d balances are not those of the ledger", wrong)
	}
	for w, want := range before {
		var n, last int64
		err := db.QueryRowContext(ctx, "SELECT count(*), COALESCE(max(n), 0) FROM ledger WHERE worker = $1", w).Scan(&n, &last)
		if err != nil {
			return err
		}
		if n != last || n < want {
			return fmt.Errorf("worker %d has %d transfers up to number %d, and %d were acknowledged before the cut", w, n, last, want)
		}
	}
	return nil
}

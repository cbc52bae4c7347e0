// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

const (
	accounts = 100
	opening  = 1000                 // balance of each account at the start
	history  = 20000                // old transfers, so that there is something to deduplicate
	thinking = 5 * time.Millisecond // of a client between two transfers
)

// bank is the application: balances and transfers in a SQLite database on one
// volume, a receipt for each transfer in an append-only ledger on another. The
// invariant across both volumes is that every transfer has its receipt, and
// every receipt its transfer.
type bank struct {
	db     *sql.DB
	ledger *os.File

	acked atomic.Int64 // highest transfer that a client was told is done
	stop  context.CancelFunc
	wg    sync.WaitGroup
	err   atomic.Pointer[error]
}

func databasePath(dir string) string { return filepath.Join(dir, "bank.db") }
func ledgerPath(dir string) string   { return filepath.Join(dir, "receipts.log") }

func openDatabase(dir string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+databasePath(dir)+
		"?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10000)")
}

// openBank founds a bank on two empty volumes.
func openBank(ctx context.Context, dbDir, ledgerDir string) (*bank, error) {
	db, err := openDatabase(dbDir)
	if err != nil {
		return nil, err
	}
	ledger, err := os.OpenFile(ledgerPath(ledgerDir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b := &bank{db: db, ledger: ledger}
	if err := b.found(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bank) found(ctx context.Context) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	for _, stmt := range []string{
		`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)`,
		`CREATE TABLE transfer (id INTEGER PRIMARY KEY AUTOINCREMENT, debit INTEGER NOT NULL, credit INTEGER NOT NULL,
			amount INTEGER NOT NULL, note TEXT NOT NULL)`,
		fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d)
			INSERT INTO account SELECT i, %d FROM n`, accounts, opening),
	} {
		if _, err := tx.ExecContext(ctx, stmt); err != nil {
			return err
		}
	}
	for range history {
		if _, err := b.transferIn(ctx, tx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	_, err = b.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

// transferIn moves money within a transaction and writes the receipt. The
// receipt comes before the commit: both happen under the database's write
// lock, so whoever holds that lock holds both volumes still.
func (b *bank) transferIn(ctx context.Context, tx *sql.Tx) (int64, error) {
	debit, credit, amount := 1+rand.IntN(accounts), 1+rand.IntN(accounts), 1+rand.IntN(50)
	note := fmt.Sprintf("%x", randomBytes(400)) // a scan of the form
	res, err := tx.ExecContext(ctx, `INSERT INTO transfer (debit, credit, amount, note) VALUES (?, ?, ?, ?)`, debit, credit, amount, note)
	if err != nil {
		return 0, err
	}
	id, err := res.LastInsertId()
	if err != nil {
		return 0, err
	}
	for _, u := range []struct{ account, by int }{{debit, -amount}, {credit, amount}} {
		if _, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance + ? WHERE id = ?`, u.by, u.account); err != nil {
			return 0, err
		}
	}
	_, err = fmt.Fprintf(b.ledger, "%d %d %d %d\n", id, debit, credit, amount)
	return id, err
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.IntN(256))
	}
	return p
}

// Start lets clients move money until Stop.
func (b *bank) Start(ctx context.Context, clients int) {
	ctx, b.stop = context.WithCancel(ctx)
	for range clients {
		b.wg.Go(func() {
			for pause(ctx, thinking) == nil {
				// A transfer that has begun is finished: a receipt without its
				// transfer would be the bank's fault, not that of the backup.
				if err := b.transfer(context.WithoutCancel(ctx)); err != nil {
					b.err.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
}

func (b *bank) transfer(ctx context.Context) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	id, err := b.transferIn(ctx, tx)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for old := b.acked.Load(); old < id && !b.acked.CompareAndSwap(old, id); old = b.acked.Load() {
	}
	return nil
}

// Acked returns the highest transfer that was acknowledged: transfers commit in
// the order of their numbers, so all up to it are done.
func (b *bank) Acked() int64 { return b.acked.Load() }

// Stop waits for the clients and returns the first of their errors.
func (b *bank) Stop() error {
	if b.stop != nil {
		b.stop()
		b.wg.Wait()
	}
	if err := b.err.Load(); err != nil {
		return fmt.Errorf("client: %w", *err)
	}
	return nil
}

// Close closes the files.
func (b *bank) Close() error { return errors.Join(b.db.Close(), b.ledger.Close()) }

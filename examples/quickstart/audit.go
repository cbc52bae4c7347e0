// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
)

// audit is what a copy of the bank's volumes turned out to hold.
type audit struct {
	Transfers, Receipts int
	Last                int64 // highest transfer
}

// errBroken says that a copy breaks an invariant of the bank.
var errBroken = errors.New("broken")

// auditCopy opens a copy of the bank as after a disaster and checks it: the
// database is sound, no money came or went, and ledger and database tell the
// same story.
func auditCopy(ctx context.Context, dbDir, ledgerDir string) (audit, error) {
	var a audit
	db, err := openDatabase(dbDir)
	if err != nil {
		return a, err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict); err != nil {
		return a, fmt.Errorf("%w: integrity_check: %w", errBroken, err)
	}
	if verdict != "ok" {
		return a, fmt.Errorf("%w: integrity_check: %q", errBroken, verdict)
	}
	var total int64
	if err := db.QueryRowContext(ctx, `SELECT sum(balance) FROM account`).Scan(&total); err != nil {
		return a, fmt.Errorf("%w: balances: %w", errBroken, err)
	}
	if total != accounts*opening {
		return a, fmt.Errorf("%w: balances add up to %d instead of %d", errBroken, total, accounts*opening)
	}
	transfers := map[string]bool{}
	rows, err := db.QueryContext(ctx, `SELECT id, debit, credit, amount FROM transfer`)
	if err != nil {
		return a, fmt.Errorf("%w: transfers: %w", errBroken, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, debit, credit, amount int64
		if err := rows.Scan(&id, &debit, &credit, &amount); err != nil {
			return a, err
		}
		transfers[fmt.Sprint(id, debit, credit, amount)] = true
		a.Last = max(a.Last, id)
	}
	if err := rows.Err(); err != nil {
		return a, fmt.Errorf("%w: transfers: %w", errBroken, err)
	}
	receipts, err := readLedger(ledgerPath(ledgerDir))
	if err != nil {
		return a, err
	}
	a.Transfers, a.Receipts = len(transfers), len(receipts)
	if !maps.Equal(transfers, receipts) {
		return a, fmt.Errorf("%w: %d transfers in the database, %d receipts in the ledger, and they differ", errBroken, a.Transfers, a.Receipts)
	}
	return a, nil
}

func readLedger(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	receipts := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		receipts[lines.Text()] = true
	}
	return receipts, lines.Err()
}

// copyTrees is the naive backup: it copies the volumes file by file, one after
// the other, while the bank goes on.
func copyTrees(from []string, to []string) error {
	for i := range from {
		names, err := os.ReadDir(from[i])
		if err != nil {
			return err
		}
		if err := os.MkdirAll(to[i], 0o700); err != nil {
			return err
		}
		for _, n := range names {
			data, err := os.ReadFile(from[i] + "/" + n.Name())
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(to[i]+"/"+n.Name(), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

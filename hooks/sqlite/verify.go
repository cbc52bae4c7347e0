// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// ErrInconsistent reports a restored database that is damaged, or empty.
var ErrInconsistent = errors.New("sqlite: the copy is not consistent")

// VerifyOptions are the optional settings of Verify.
type VerifyOptions struct {
	// ForeignKeys has each foreign key looked up: for databases whose writers
	// enforce them, which SQLite leaves to each connection.
	ForeignKeys bool
	// Check is called when all else is well: for what only the application
	// knows to be true of its data. An error of it is returned as it is.
	Check func(ctx context.Context, db *sql.DB) error
}

// Verification is what Verify has looked at. All of it was found to be good.
type Verification struct {
	Tables  int           `json:"tables"`
	Indexes int           `json:"indexes"`
	Pages   int64         `json:"pages"`
	Took    time.Duration `json:"took_ns"`
}

// Verify checks a restored database, which db has open and nobody else uses:
// the structure of every table and index, that they agree with each other, and
// every value, by [integrity_check]. The restored files need no preparation: the
// first connection recovers what was committed and not yet moved from the -wal
// file into the database, or rolls back what a journal undoes.
//
// The error matches ErrInconsistent for a database that is not good. Success is
// never empty: a database without a table is an error as well, since opening a
// file that is missing makes one.
//
// [integrity_check]: https://www.sqlite.org/pragma.html#pragma_integrity_check
func Verify(ctx context.Context, db *sql.DB, opts *VerifyOptions) (*Verification, error) {
	var o VerifyOptions
	if opts != nil {
		o = *opts
	}
	began := time.Now()
	v, err := verify(ctx, db, o)
	if err != nil {
		return nil, fmt.Errorf("sqlite: verify: %w", err)
	}
	v.Took = time.Since(began)
	return v, nil
}

func verify(ctx context.Context, db *sql.DB, o VerifyOptions) (*Verification, error) {
	v := new(Verification)
	err := db.QueryRowContext(ctx, "SELECT count(*) FILTER (WHERE type = 'table'), count(*) FILTER (WHERE type = 'index') FROM sqlite_master").Scan(&v.Tables, &v.Indexes)
	if err == nil {
		err = db.QueryRowContext(ctx, "PRAGMA page_count").Scan(&v.Pages)
	}
	if err != nil {
		return nil, damage(ctx, err)
	}
	if v.Tables == 0 {
		return nil, fmt.Errorf("%w: there is no table in it", ErrInconsistent)
	}
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return nil, damage(ctx, err)
	}
	if verdict != "ok" {
		return nil, fmt.Errorf("%w: %.200q", ErrInconsistent, verdict)
	}
	if o.ForeignKeys {
		if err := checkReferences(ctx, db); err != nil {
			return nil, err
		}
	}
	if o.Check != nil {
		return v, o.Check(ctx, db)
	}
	return v, nil
}

// checkReferences looks up each foreign key.
func checkReferences(ctx context.Context, db *sql.DB) error {
	var table, parent string
	var row sql.NullInt64
	var key int
	err := db.QueryRowContext(ctx, "PRAGMA foreign_key_check").Scan(&table, &row, &parent, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return damage(ctx, err)
	}
	return fmt.Errorf("%w: row %d of %.100q refers to no row of %.100q", ErrInconsistent, row.Int64, table, parent)
}

// damage says what it means that SQLite cannot read the database.
func damage(ctx context.Context, err error) error {
	if code, known := resultCode(err); known && (code == resultCorrupt || code == resultNotADB) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	return err
}

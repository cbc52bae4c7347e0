// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks/sqlite"
)

// TestSQLiteVerify tries copies that are known to be bad.
func TestSQLiteVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := openSQLite(t, path, "delete", time.Second)
	for _, q := range []string{
		"CREATE INDEX x ON t (x)", "CREATE TABLE child (id INTEGER PRIMARY KEY, t INTEGER REFERENCES t (n))",
		"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2000) INSERT INTO t SELECT i, randomblob(200) FROM c",
		"INSERT INTO child VALUES (1, 5), (2, 999999)",
	} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	mine := errors.New("mine")
	tests := map[string]struct {
		change func(b []byte) []byte
		opts   *sqlite.VerifyOptions
		want   error
	}{
		"good":                   {func(b []byte) []byte { return b }, nil, nil},
		"an application's check": {func(b []byte) []byte { return b }, &sqlite.VerifyOptions{Check: func(context.Context, *sql.DB) error { return mine }}, mine},
		"a reference to nothing": {func(b []byte) []byte { return b }, &sqlite.VerifyOptions{ForeignKeys: true}, sqlite.ErrInconsistent},
		"nothing":                {func([]byte) []byte { return nil }, nil, sqlite.ErrInconsistent},
		"no database":            {func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }, nil, sqlite.ErrInconsistent},
		"its end is missing":     {func(b []byte) []byte { return b[:len(b)/2/page*page] }, nil, sqlite.ErrInconsistent},
		"a page of zeros":        {func(b []byte) []byte { clear(b[20*page : 21*page]); return b }, nil, sqlite.ErrInconsistent},
		"pages exchanged": {func(b []byte) []byte {
			c := bytes.Clone(b[20*page : 21*page])
			copy(b[20*page:], b[60*page:61*page])
			copy(b[60*page:], c)
			return b
		}, nil, sqlite.ErrInconsistent},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, tt.change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			v, err := sqlite.Verify(t.Context(), db, tt.opts)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err == nil && (v.Tables != 2 || v.Indexes != 1 || v.Pages != int64(len(good)/page)) {
				t.Errorf("it looked at %+v", v)
			}
		})
	}
}

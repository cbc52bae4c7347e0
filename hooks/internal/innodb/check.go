// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// Checked counts what was looked at, and found to be good.
type Checked struct {
	Databases int
	Tables    int
	// Unchecked have an engine that has no check, such as MEMORY.
	Unchecked int
}

// CheckTables checks all tables of all databases.
func (at *Instance) CheckTables(ctx context.Context) (*Checked, error) {
	var out bytes.Buffer
	var failed program.Tail
	if err := at.run(ctx, &out, &failed, at.l.Check, "--all-databases", "--check", "--extended"); err != nil {
		return nil, fmt.Errorf("%w: %s: %w: %s", ErrBroken, at.l.Check, err, failed.String())
	}
	checked, complaints := readCheck(out.String())
	if text := failed.String(); text != "" {
		complaints = append(complaints, text)
	}
	if len(complaints) > 0 {
		return nil, fmt.Errorf("%w: %s: %s", ErrBroken, at.l.Check, program.Printable(strings.Join(complaints[:min(len(complaints), maxErrors)], "; ")))
	}
	if checked.Tables == 0 {
		return nil, fmt.Errorf("%w: %s checked no table: there is nothing to vouch for", ErrBroken, at.l.Check)
	}
	return checked, nil
}

// noCheck is what is said of a table whose engine has no check.
const noCheck = "The storage engine for the table doesn't support check"

// readCheck reads a line for each table that is fine, such as "shop.orders OK",
// and else the table, and what is to be said of it line by line.
func readCheck(text string) (*Checked, []string) {
	checked := new(Checked)
	databases := map[string]bool{}
	var complaints []string
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		name, good := strings.CutSuffix(line, " OK")
		kind, said, isMessage := strings.Cut(line, ": ")
		switch {
		case line == "":
		case good:
			database, _, _ := strings.Cut(strings.TrimSpace(name), ".")
			databases[database] = true
			checked.Tables++
		case isMessage && strings.TrimSpace(kind) == "note" && said == noCheck:
			checked.Unchecked++
		case isMessage:
			complaints = append(complaints, table+": "+line)
		default:
			table = line
		}
	}
	checked.Databases = len(databases)
	return checked, complaints
}

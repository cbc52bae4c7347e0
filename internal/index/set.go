// SPDX-License-Identifier: Apache-2.0

package index

import (
	"slices"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Set is what several tables say. It is immutable and safe for concurrent use.
// The nil Set is empty.
type Set struct {
	tables []*Table
	base   []int // ordinal of the first record of each table
	n      int
}

// NewSet returns the union of tables.
func NewSet(tables ...*Table) *Set {
	s := &Set{tables: tables}
	for _, t := range tables {
		s.base = append(s.base, s.n)
		s.n += t.recs
	}
	return s
}

// Tables returns the tables, which must not be modified.
func (s *Set) Tables() []*Table {
	if s == nil {
		return nil
	}
	return s.tables
}

// Len returns the number of records of all tables, an upper bound of the number
// of chunks.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.n
}

// Find returns all places where the chunk is.
func (s *Set) Find(id ondisk.ID) ([]Location, error) {
	var all []Location
	for _, t := range s.Tables() {
		err := t.lookup(id, func(_ int, rec []byte) error {
			n, e := parseRecord(rec)
			p, err := t.pack(int(n))
			if err != nil {
				return err
			}
			same := func(l Location) bool { return *l.Pack == *p && l.Entry == e }
			if !slices.ContainsFunc(all, same) {
				all = append(all, Location{Pack: p, Entry: e})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Ordinal returns a number below Len that stands for the chunk, in this Set
// alone: for who keeps a bit for each chunk.
func (s *Set) Ordinal(id ondisk.ID) (n int, ok bool, err error) {
	for i, t := range s.Tables() {
		err := t.lookup(id, func(at int, _ []byte) error {
			if !ok {
				n, ok = s.base[i]+at, true
			}
			return nil
		})
		if err != nil || ok {
			return n, ok, err
		}
	}
	return 0, false, nil
}

// Scan reads the set in order.
func (s *Set) Scan() (*Scan, error) {
	runs := make([]Run, 0, len(s.Tables()))
	for _, t := range s.Tables() {
		runs = append(runs, t)
	}
	return NewScan(runs...)
}

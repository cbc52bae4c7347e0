// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/stillpoint-go/protect/internal/cache"
	"github.com/stillpoint-go/protect/internal/index"
)

// local is what a repository keeps on this machine, if it may. Nothing there
// is trusted.
type local struct {
	objects *cache.Cache // sealed objects and chunks
	tables  *cache.Cache // index tables
	auth    *index.Auth  // of the tables
	reuse   bool         // tables that are there already may be used
	// filesFrom is how many records make a table worth a file.
	filesFrom int
	// failures counts how often tables in files broke while they were used.
	failures *atomic.Int32
}

// openLocal uses the caller's folder, if there is one. The keys must be known.
func (r *Repository) openLocal(opts *Options) {
	if opts == nil || opts.CacheDir == "" {
		return
	}
	limit := opts.CacheDirBytes
	if limit <= 0 {
		limit = 1 << 30
	}
	c := cache.Open(opts.CacheDir, r.id, limit, r.log)
	r.local = local{objects: c, tables: c, auth: index.NewAuth(r.keys.CacheKey()), reuse: true, filesFrom: fileRecords, failures: new(atomic.Int32)}
}

// fresh returns the same without anything that was there before.
func (l local) fresh() local {
	return local{tables: l.tables, auth: l.auth, filesFrom: l.filesFrom, failures: l.failures}
}

// getListed is getObject for what a listing has just shown: that it exists need
// not be found out again.
func (r *Repository) getListed(ctx context.Context, key string, limit int64) ([]byte, error) {
	if raw := r.local.objects.Get(key, limit+int64(sealedOverhead)); raw != nil {
		if plain, err := r.keys.OpenObject(key, raw); err == nil {
			return plain, nil
		}
		r.local.objects.Drop(key)
	}
	raw, plain, err := r.fetchObject(ctx, key, limit)
	if err != nil {
		return nil, err
	}
	r.local.objects.Put(key, raw)
	return plain, nil
}

// getChunk reads and opens a chunk. Metadata is kept in the local cache.
func (r *Repository) getChunk(ctx context.Context, at index.Location) ([]byte, error) {
	key, e := at.Pack.Ref.Key(), at.Entry
	name := fmt.Sprintf("%s:%d+%d", key, e.Offset, e.Sealed)
	if e.Kind.Meta() {
		if sealed := r.local.objects.Get(name, int64(e.Sealed)); sealed != nil {
			if plain, err := r.open(at, sealed); err == nil {
				return plain, nil
			}
			r.local.objects.Drop(name)
		}
	}
	sealed, err := r.store.GetRange(ctx, key, int64(e.Offset), int64(e.Sealed))
	if err != nil {
		return nil, err
	}
	plain, err := r.open(at, sealed)
	if err == nil && e.Kind.Meta() {
		r.local.objects.Put(name, sealed)
	}
	return plain, err
}

const (
	// fileRecords is from how many records on a table is worth a file. What is
	// kept in memory instead takes less than 450 KB in all.
	fileRecords = 8 << 10
	// maxFailures is how often tables in files may break until they are not
	// used any more.
	maxFailures = 2
	// maxTables bounds how many tables a look-up asks. Few of them cost a read.
	maxTables = 24
)

// buildTable merges runs into a table, in a file if they are large.
func (r *Repository) buildTable(runs ...index.Run) (*index.Table, error) {
	n := 0
	for _, run := range runs {
		n += run.Len()
	}
	if r.local.tables != nil && n >= r.local.filesFrom && r.local.failures.Load() < maxFailures {
		t, err := r.writeTable(runs)
		if err == nil {
			return t, nil
		}
		r.log.Warn("an index table cannot be kept in a file and takes memory", "records", n, "error", err)
	}
	return index.NewTable(runs...)
}

func (r *Repository) writeTable(runs []index.Run) (*index.Table, error) {
	name := r.local.auth.FileName(index.Covered(runs...))
	err := r.local.tables.Create(name, func(w io.Writer) error {
		return index.WriteTable(w, r.local.auth, name, runs...)
	})
	if err != nil {
		return nil, err
	}
	return r.openTable(name)
}

func (r *Repository) openTable(name string) (*index.Table, error) {
	f, size, err := r.local.tables.OpenFile(name)
	if err != nil {
		return nil, err
	}
	t, err := index.OpenTable(f, size, r.local.auth, name)
	if err != nil {
		_ = f.Close()
		r.local.tables.RemoveFile(name)
	}
	return t, err // who has the table keeps the file open
}

// savedTables opens the tables in the folder. Damaged ones are removed.
func (r *Repository) savedTables() []*index.Table {
	if !r.local.reuse {
		return nil
	}
	var tables []*index.Table
	for _, name := range r.local.tables.Files() {
		if t, err := r.openTable(name); err == nil {
			tables = append(tables, t)
		}
	}
	// Large ones first: others may turn out to be superfluous.
	slices.SortStableFunc(tables, func(a, b *index.Table) int { return b.Len() - a.Len() })
	return tables
}

// dropTable removes the table's file.
func (r *Repository) dropTable(t *index.Table) {
	if !t.InMemory() {
		r.local.tables.RemoveFile(r.local.auth.FileName(t.Covers()))
	}
}

// mergeTables keeps the number of tables small, and what they take of memory:
// those in memory become one, in a file once it is worth it, and of too many the
// small ones do.
func (r *Repository) mergeTables(tables []*index.Table) ([]*index.Table, error) {
	var small, rest []*index.Table
	records := 0
	for _, t := range tables {
		if t.InMemory() && t.Len() < fileRecords {
			small, records = append(small, t), records+t.Len()
		} else {
			rest = append(rest, t)
		}
	}
	if len(small) > maxTables/4 || len(small) > 1 && records >= fileRecords {
		t, err := r.mergeInto(small)
		if err != nil {
			return nil, err
		}
		small = []*index.Table{t}
	}
	tables = append(rest, small...)
	if len(tables) <= maxTables {
		return tables, nil
	}
	slices.SortStableFunc(tables, func(a, b *index.Table) int { return b.Len() - a.Len() })
	t, err := r.mergeInto(tables[maxTables/2:])
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(tables[:maxTables/2]), t), nil
}

func (r *Repository) mergeInto(tables []*index.Table) (*index.Table, error) {
	runs := make([]index.Run, 0, len(tables))
	for _, t := range tables {
		runs = append(runs, t)
	}
	merged, err := r.buildTable(runs...)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		r.dropTable(t)
	}
	return merged, nil
}

// ask asks the index. Tables that turn out to be damaged are built anew from
// the segments.
func ask[T any](ctx context.Context, r *Repository, question func(*index.Set) (T, error)) (T, error) {
	for range 2 {
		s := r.indexSet()
		answer, err := question(s)
		if !errors.Is(err, index.ErrDamaged) {
			return answer, err
		}
		if err := r.rebuild(ctx, s, err); err != nil && !errors.Is(err, ErrCorrupt) {
			var none T
			return none, err
		}
	}
	return question(r.indexSet())
}

// rebuild replaces the tables of a set that are in files: the first time by
// files, then by tables in memory, which do not break.
func (r *Repository) rebuild(ctx context.Context, bad *index.Set, why error) error {
	if err := r.lockIndex(ctx); err != nil {
		return err
	}
	defer r.unlockIndex()
	if r.indexSet() != bad {
		return nil // somebody else did
	}
	return r.refreshFrom(ctx, r.dropFiles(bad.Tables(), why))
}

// dropFiles returns the tables that are in memory. The others are thrown away:
// one of them broke while it was used, and the disk is not to be trusted.
func (r *Repository) dropFiles(tables []*index.Table, why error) []*index.Table {
	r.log.Warn("the local copy of the index is damaged and is made anew", "error", why)
	var sound []*index.Table
	for _, t := range tables {
		if t.InMemory() {
			sound = append(sound, t)
		} else {
			r.dropTable(t)
		}
	}
	r.local.failures.Add(1)
	return sound
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"runtime"

	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
)

// FlushAfter has the index of the session flushed after so many bytes.
func (w *Writer) FlushAfter(n int64) {
	w.pk.mu.Lock()
	w.pk.flushBytes = n
	w.pk.mu.Unlock()
}

// WaitJournal flushes until the journal of all files that are complete is
// stored, or the session fails. The session flushes no more until its end.
func (w *Writer) WaitJournal() {
	w.pk.stopFlusher() // what it has taken is not waiting any more, and not yet stored
	for {
		low, err := w.pk.flush()
		if err != nil {
			w.pk.cancel(err)
			return
		}
		w.journal.store(w.pk.ctx, low)
		w.journal.mu.Lock()
		n := w.journal.mu.waiting
		w.journal.mu.Unlock()
		if n == 0 {
			return
		}
		runtime.Gosched()
	}
}

// Journaled returns the paths that are in the journals of all sessions.
func (r *Repository) Journaled(ctx context.Context) (map[string]bool, error) {
	paths := map[string]bool{}
	for o, err := range r.store.List(ctx, ondisk.ResumePrefix) {
		if err != nil {
			return nil, err
		}
		plain, err := r.getObject(ctx, o.Key, ondisk.MaxNode+maxJournal)
		if err != nil {
			return nil, err
		}
		_, recs, err := decodeJournal(plain)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			p, err := ondisk.KeyPath(rec.key)
			if err != nil {
				return nil, err
			}
			paths[p] = true
		}
	}
	return paths, nil
}

// Sum makes the text of a header or a slot.
func Sum(lines ...string) []byte { return sum(lines...) }

// KeepTablesInFiles makes the repository keep even the smallest table of the
// index in a file.
func KeepTablesInFiles(r *Repository) { r.local.filesFrom = 1 }

// PutSegment stores an index segment, as a session does.
func (r *Repository) PutSegment(ctx context.Context, name index.Name, plain []byte) error {
	return r.store.Put(ctx, name.Key(), r.keys.SealObject(name.Key(), plain))
}

// Refresh reads the index, and Find asks it.
func (r *Repository) Refresh(ctx context.Context) error { return r.refresh(ctx) }

// Find returns in how many places the index says that a chunk is.
func (r *Repository) Find(ctx context.Context, id ondisk.ID) (int, error) {
	all, err := r.find(ctx, id)
	return len(all), err
}

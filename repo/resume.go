// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// A session that may reuse files keeps a journal of those that it has read and
// stored. Should it not come to its end, the next session of the same name
// finds them there. A journal is a hint: it is only believed as far as the
// chunks that it names can be referred to.
const (
	// maxWaiting bounds the journal that waits for its chunks to be in the
	// index. With more, the index is flushed.
	maxWaiting = 8 << 20
	// maxJournal bounds the plaintext of one object.
	maxJournal = 4 << 20
	// beatEvery is how often a session that gets on and has nothing to store
	// leaves a journal of nothing, lest a collector take it for dead.
	beatEvery = time.Hour
)

// journal collects the files that a session has completed.
type journal struct {
	w    *Writer
	next uint32 // number of the next object; the flusher's
	last pulse  // the flusher's

	mu struct {
		sync.Mutex
		volumes map[string]*journalQueue
		waiting int // bytes
	}
}

// pulse is how far a session had come when it last stored something.
type pulse struct {
	at           time.Time
	stored, done int64
}

// journalQueue holds files of one volume in order.
type journalQueue struct {
	records []journalRecord
	marks   []int64 // the last chunk that each may refer to
}

// journalRecord is a file of a volume, under its key in the tree.
type journalRecord struct{ key, entry []byte }

func (r journalRecord) size() int { return len(r.key) + len(r.entry) + 8 }

func journalKey(session [16]byte, n uint32) string {
	return fmt.Sprintf("%s%x-%08x", ondisk.ResumePrefix, session, n)
}

func newJournal(w *Writer) *journal {
	j := &journal{w: w}
	j.mu.volumes = map[string]*journalQueue{}
	return j
}

// note remembers a file whose chunks are all claimed. Files of a volume come
// in order.
func (j *journal) note(volume string, key, entry []byte) {
	rec := journalRecord{slices.Clone(key), slices.Clone(entry)}
	mark := j.w.pk.mark()
	j.mu.Lock()
	defer j.mu.Unlock()
	q := j.mu.volumes[volume]
	if q == nil {
		q = &journalQueue{}
		j.mu.volumes[volume] = q
	}
	q.records, q.marks = append(q.records, rec), append(q.marks, mark)
	if j.mu.waiting += rec.size(); j.mu.waiting >= maxWaiting {
		j.w.pk.wantFlush()
	}
}

// take returns the files that refer to no chunk beyond low, by volume.
func (j *journal) take(low int64) map[string][]journalRecord {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := map[string][]journalRecord{}
	for volume, q := range j.mu.volumes {
		n := 0
		for n < len(q.records) && q.marks[n] <= low {
			j.mu.waiting -= q.records[n].size()
			n++
		}
		if n > 0 {
			out[volume] = slices.Clone(q.records[:n])
			q.records, q.marks = slices.Delete(q.records, 0, n), slices.Delete(q.marks, 0, n)
		}
	}
	return out
}

// store writes what the index has all chunks of. Without it a later session
// reads more, so that errors are only told.
func (j *journal) store(ctx context.Context, low int64) {
	for volume, recs := range j.take(low) {
		for len(recs) > 0 {
			var plain []byte
			plain, recs = encodeJournal(volume, recs)
			if err := j.put(ctx, plain); err != nil {
				j.w.r.log.Warn("the journal of the session is not complete", "error", err)
				return
			}
		}
	}
}

func (j *journal) put(ctx context.Context, plain []byte) error {
	key := journalKey(j.w.session.id, j.next)
	j.next++
	return j.w.r.store.Put(ctx, key, j.w.r.keys.SealObject(key, plain))
}

// beat shows others that the session gets on, if nothing else has for a while.
func (j *journal) beat(ctx context.Context) {
	now := pulse{time.Now(), j.w.pk.stored.Load(), j.w.files.Load() + j.w.bytes.Load()}
	if now.stored == j.last.stored && !j.last.at.IsZero() {
		if now.done == j.last.done || now.at.Sub(j.last.at) < beatEvery {
			return
		}
		nothing, _ := encodeJournal("", nil)
		if err := j.put(ctx, nothing); err != nil {
			j.w.r.log.Warn("a collector may take the session for dead", "error", err)
			return
		}
	}
	j.last = now
}

// encodeJournal encodes as many records as one object takes, and returns the
// others.
func encodeJournal(volume string, recs []journalRecord) (plain []byte, rest []journalRecord) {
	plain = ondisk.AppendBytes(plain, volume)
	for i, r := range recs {
		if i > 0 && len(plain)+r.size() > maxJournal {
			return plain, recs[i:]
		}
		plain = ondisk.AppendBytes(ondisk.AppendBytes(plain, r.key), r.entry)
	}
	return plain, nil
}

func decodeJournal(plain []byte) (volume string, recs []journalRecord, err error) {
	d := ondisk.NewDecoder(plain)
	volume = string(d.Bytes(ondisk.MaxName))
	for d.Len() > 0 {
		r := journalRecord{d.Bytes(ondisk.MaxPath), d.Bytes(ondisk.MaxNode)}
		if n := len(recs); n > 0 && slices.Compare(r.key, recs[n-1].key) <= 0 {
			d.Fail("files out of order")
		}
		recs = append(recs, r)
	}
	return volume, recs, d.Done()
}

// maxResumed bounds the sessions whose journals are read: the latest ones.
const maxResumed = 4

// journals returns the keys of the journals that sessions of this name left,
// other than that of self: in order for each session, the latest of them first.
func (r *Repository) journals(ctx context.Context, name string, self [16]byte) ([][]string, error) {
	sessions, err := r.listSessions(ctx)
	if err != nil {
		return nil, err
	}
	sessions = slices.DeleteFunc(sessions, func(s *session) bool { return s.name != name || s.id == self })
	slices.SortFunc(sessions, func(a, b *session) int { return b.object.ModTime.Compare(a.object.ModTime) })
	var out [][]string
	for _, s := range sessions[:min(len(sessions), maxResumed)] {
		var keys []string
		for o, err := range r.store.List(ctx, fmt.Sprintf("%s%x-", ondisk.ResumePrefix, s.id)) {
			if err != nil {
				return nil, err
			}
			keys = append(keys, o.Key)
		}
		if len(keys) > 0 {
			slices.Sort(keys)
			out = append(out, keys)
		}
	}
	return out, nil
}

// drop removes the session's own journal, which nobody needs once its point is
// there. Writers need not be allowed to: a collector does it, too.
func (j *journal) drop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for n := range j.next {
		if err := j.w.r.store.Delete(ctx, journalKey(j.w.session.id, n)); err != nil {
			j.w.r.log.Debug("the session's journal stays for a collector", "error", err)
			return
		}
	}
}

// resumed reads the files of a volume from the journal of one session, in
// step with the walk.
type resumed struct {
	r      *Repository
	volume string
	keys   []string // not read yet
	recs   []journalRecord
}

// at returns the entry of a path, or nil. Paths are asked for in order.
func (s *resumed) at(ctx context.Context, key []byte) (*ondisk.Entry, error) {
	for {
		n, found := slices.BinarySearchFunc(s.recs, key, func(r journalRecord, key []byte) int { return slices.Compare(r.key, key) })
		if s.recs = s.recs[n:]; found {
			return ondisk.DecodeEntry(s.recs[0].entry)
		}
		if len(s.recs) > 0 || len(s.keys) == 0 {
			return nil, nil // no entry, no error
		}
		plain, err := s.r.getObject(ctx, s.keys[0], ondisk.MaxNode+maxJournal)
		if err != nil {
			return nil, err
		}
		s.keys = s.keys[1:]
		volume, recs, err := decodeJournal(plain)
		if err != nil {
			return nil, err
		}
		if volume == s.volume {
			s.recs = recs
		}
	}
}

// resume returns an entry that an earlier session stored under the path and
// whose content is still that of the file, or nil.
func (t *treeWriter) resume(ctx context.Context, path string, same func(*ondisk.Entry) bool) (*ondisk.Entry, error) {
	key := ondisk.PathKey(path)
	for i := 0; i < len(t.resumed); i++ {
		e, err := t.resumed[i].at(ctx, key)
		if err != nil {
			if cerr := ctx.Err(); cerr != nil {
				return nil, cerr
			}
			t.w.r.log.Warn("the journal of an earlier session cannot be used", "error", err)
			t.resumed = slices.Delete(t.resumed, i, i+1)
			i--
			continue
		}
		if e == nil || !same(e) {
			continue
		}
		if ok, err := t.w.intact(ctx, e); ok || err != nil {
			return e, err
		}
	}
	return nil, nil // no entry, no error
}

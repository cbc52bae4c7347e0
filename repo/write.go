// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/stillpoint-go/protect/internal/chunk"
	"github.com/stillpoint-go/protect/internal/index"
	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// WriteOptions describe the recovery point that a session commits.
type WriteOptions struct {
	// ID is the identifier of the point, chosen by the caller: 1 to 255 bytes
	// of UTF-8 without control characters. Required.
	ID string
	// Name groups points; the last one of the same name is the parent, with
	// which files are compared so that only changes are stored.
	Name string
	// Time is recorded in the point. The zero value means now.
	Time time.Time
	// Level, Labels and Evidence are recorded as they are, in a record of 4 MiB
	// at most, as JSON.
	Level    string
	Labels   map[string]string
	Evidence map[string]map[string][]byte
	// Reuse says which files need not be read, being those of the parent. The
	// zero value reads all.
	Reuse Reuse
	// Progress, if set, is called from one goroutine at a time, at most twice a
	// second and once at the end. It must not block.
	Progress func(Progress)
}

// check refuses what a record could not give back as it was, or not hold.
func (o *WriteOptions) check() error {
	if err := checkID(o.ID); err != nil {
		return err
	}
	texts := []string{o.Name, o.Level}
	for k, v := range o.Labels {
		texts = append(texts, k, v)
	}
	for target, items := range o.Evidence {
		texts = append(slices.AppendSeq(texts, maps.Keys(items)), target)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: %q is not UTF-8", fs.ErrInvalid, s)
		}
	}
	if y := o.Time.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("%w: time in the year %d", fs.ErrInvalid, y)
	}
	p := Point{ID: o.ID, Name: o.Name, Level: o.Level, Labels: o.Labels, Evidence: o.Evidence}
	_, err := p.encode(nil) // before hours of work, not after
	return err
}

// Progress is how far a session has come, in cumulative counts.
type Progress struct {
	Files  int64 // entries other than directories
	Bytes  int64 // of files that were read
	New    int64 // plaintext that the repository did not have
	Stored int64 // size of the objects written
}

// progressEvery is the shortest time between two reports.
const progressEvery = 500 * time.Millisecond

// Writer stores the volumes of a recovery point. It is safe for concurrent use
// and ends with the function that it was passed to.
type Writer struct {
	r         *Repository
	session   *session
	pk        *packer
	parent    *Point          // pinned: its chunks stay while the session runs
	head      *Point          // with the highest seq
	condemned *ondisk.PackSet // never to be referred to again; nil stands for all packs
	table     *chunk.Table
	cut       uint64 // keys the boundaries of nodes and small-file chunks
	reuse     Reuse
	journal   *journal
	journals  [][]string // of sessions that did not come to their end
	// trusted says that what the parent refers to need not be looked at.
	trusted bool
	origin  *Point // what the session copies, if it does; its Origin is set

	mu struct {
		sync.Mutex
		volumes []Volume
		names   map[string]bool
	}
	files, bytes atomic.Int64
	small        sync.Pool // of *[smallFile]byte
}

// Write runs one session: fn stores volumes with the Writer, and when it
// returns nil and all of them are stored, the recovery point is committed and
// returned. Otherwise nothing becomes visible.
//
// Write is idempotent in opts.ID: if the point is there already, fn does not
// run and the committed point is returned. Of sessions that write the same ID
// at the same time, one commits, and all return its point.
//
// The error matches ErrAmbiguous if the store did not say whether the commit
// took place, and ErrFenced if a collector gave the session up for dead.
func (r *Repository) Write(ctx context.Context, opts WriteOptions, fn func(context.Context, *Writer) error) (*Point, error) {
	p, err := r.write(ctx, opts, fn)
	if err != nil {
		return nil, fmt.Errorf("repo: write point %q: %w", opts.ID, err)
	}
	return p, nil
}

func (r *Repository) write(ctx context.Context, opts WriteOptions, fn func(context.Context, *Writer) error) (_ *Point, err error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	p, at, err := r.committed(ctx, opts.ID)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return p.clone(), nil
	}
	if err := r.writable(ctx); err != nil {
		return nil, err
	}
	w, err := r.newWriter(ctx, at, &opts)
	if err != nil {
		return nil, err
	}
	defer func() { w.abort(ctx, err) }()
	defer w.pk.close()
	stop := w.report(opts.Progress)
	defer stop()
	if err := fn(w.pk.ctx, w); err != nil { //nolint:contextcheck // it is made from ctx
		// The failure of a helper shows elsewhere as a cancelled context.
		if cause := context.Cause(w.pk.ctx); cause != nil && errors.Is(err, context.Canceled) { //nolint:contextcheck // see above
			err = cause
		}
		return nil, err
	}
	if err := w.complete(); err != nil {
		return nil, err
	}
	return w.commit(ctx, opts)
}

// newWriter begins a session. The order of its steps is what keeps collectors
// from deleting what the session is going to refer to.
func (r *Repository) newWriter(ctx context.Context, at attempt, opts *WriteOptions) (*Writer, error) {
	all, err := r.readRoots(ctx, "")
	if err := r.tolerate(err); err != nil {
		return nil, err
	}
	parent := all.newest(func(p *Point) bool { return p.Name == opts.Name })
	var pins []attempt
	if parent != nil {
		pins = append(pins, parent.at)
	}
	s, err := r.beginSession(ctx, at, opts.Name, pins...)
	if err != nil {
		return nil, err
	}
	if parent, err = r.confirm(ctx, parent); err != nil {
		return nil, err
	}
	condemned, err := r.readCondemned(ctx)
	if errors.Is(err, ErrCorrupt) { // anything may be condemned
		condemned, parent = nil, nil
	}
	if err := r.tolerate(err); err != nil {
		return nil, err
	}
	var journals [][]string
	if opts.Reuse != ReuseNever {
		journals, err = r.journals(ctx, opts.Name, s.id)
		if err := r.tolerate(err); err != nil {
			return nil, err
		}
	}
	if err := r.tolerate(r.refresh(ctx)); err != nil {
		return nil, err
	}
	w := &Writer{
		r: r, session: s, parent: parent, head: all.newest(func(*Point) bool { return true }), condemned: condemned,
		table: chunk.NewTable(r.keys.ChunkTable(chunk.TableSize)), cut: r.keys.NodeSeed(),
		reuse: opts.Reuse, journals: journals,
		// The parent is pinned: no collector takes what it refers to. Only damage does.
		trusted: !condemned.Damaged(),
	}
	w.pk = newPacker(ctx, r, s.id, func(id ondisk.ID) bool { _, ok := w.find(id); return ok })
	w.mu.names = map[string]bool{}
	w.journal = newJournal(w)
	w.pk.startFlusher(func(low int64) {
		w.journal.store(w.pk.ctx, low)
		w.journal.beat(w.pk.ctx)
	})
	return w, nil
}

// tolerate drops damage, which costs a session space, not its point.
func (r *Repository) tolerate(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	r.log.Warn("parts of the repository are damaged and will not be reused", "error", err)
	return nil
}

// confirm returns the parent if it is still live now that the session's record,
// which pins it, is there. If it was forgotten before, its chunks may be going.
func (r *Repository) confirm(ctx context.Context, parent *Point) (*Point, error) {
	if parent == nil {
		return nil, nil // no parent, no error
	}
	closed, err := r.readClosed(ctx)
	if err != nil || closed.Has(parent.at) {
		return nil, r.tolerate(err) // what cannot be read might say that it is forgotten
	}
	return parent, nil
}

// find returns a copy of a chunk to which the session may refer.
func (w *Writer) find(id ondisk.ID) (index.Location, bool) {
	if w.condemned == nil {
		return index.Location{}, false
	}
	l, ok, err := w.r.usable(w.pk.ctx, id, w.condemned.Has)
	if err != nil {
		w.pk.cancel(err) // the session ends, as with errors of its helpers
	}
	return l, ok
}

func (w *Writer) commit(ctx context.Context, opts WriteOptions) (*Point, error) {
	if err := w.pk.finish(); err != nil {
		return nil, err
	}
	p := w.point(opts)
	plain, err := p.encode(w.head)
	if err != nil {
		return nil, err
	}
	key := p.at.Key()
	err = w.r.store.Put(ctx, key, w.r.keys.SealObject(key, plain))
	switch {
	case err == nil:
		p.digest = w.r.keys.RecordDigest(plain)
	case errors.Is(err, fs.ErrExist): // a fence, or another session was faster
		p, err = w.r.fetchPoint(ctx, w.session.at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a fence is gone once it is folded
			return nil, fmt.Errorf("%w: %w", ErrAmbiguous, err)
		}
	case errors.Is(err, store.ErrUnknown):
		return nil, fmt.Errorf("%w: %w", ErrAmbiguous, err)
	default:
		return nil, err
	}
	// A fence may have been there and folded into the closed attempts before our
	// record came.
	closed, err := w.r.readClosed(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
	w.journal.drop(ctx)
	w.r.endSession(ctx, w.session)
	w.r.compact(ctx)
	if p == nil || closed.Has(w.session.at) {
		return nil, ErrFenced
	}
	return p.clone(), nil
}

// abort ends a session that failed for want of room. Others stay on record, so
// that what they stored is still there for the next one; but this one would keep
// collectors from making the room that it lacks, as would packs that might be
// indexed yet. It must not have tried to commit, or have a definite answer.
func (w *Writer) abort(ctx context.Context, err error) {
	if !errors.Is(err, ErrFull) || errors.Is(err, ErrAmbiguous) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	w.journal.drop(ctx)
	w.r.endSession(ctx, w.session)
	if refs := w.pk.unindexed(); len(refs) > 0 {
		if err := w.r.condemn(ctx, ondisk.Garbage, refs...); err != nil {
			w.r.log.Warn("what the session has stored stays for a day", "error", err)
		}
	}
}

// point returns what the session commits.
func (w *Writer) point(opts WriteOptions) *Point {
	if opts.Time.IsZero() {
		opts.Time = time.Now()
	}
	p := &Point{
		ID: opts.ID, Name: opts.Name, Time: opts.Time.UTC(), Level: opts.Level, Labels: opts.Labels, Evidence: opts.Evidence,
		Volumes: w.mu.volumes, at: w.session.at, session: w.session.id, seq: 1,
	}
	if w.head != nil {
		p.seq = w.head.seq + 1
	}
	if w.origin != nil {
		p.Committed, p.Origin, p.originDigest = w.origin.Committed, w.origin.Origin, w.origin.originDigest
	}
	slices.SortFunc(p.Volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	for _, v := range p.Volumes {
		p.Stats.Files += v.Files
		p.Stats.Dirs += v.Dirs
		p.Stats.Bytes += v.Bytes
	}
	p.Stats.New, p.Stats.Stored = w.pk.fresh.Load(), w.pk.stored.Load()
	p.Stats.Chunks, p.Stats.Packs = w.pk.count.Load(), w.pk.packs.Load()
	return p
}

// report calls fn with the progress until stop is called.
func (w *Writer) report(fn func(Progress)) (stop func()) {
	if fn == nil {
		return func() {}
	}
	snapshot := func() {
		fn(Progress{Files: w.files.Load(), Bytes: w.bytes.Load(), New: w.pk.fresh.Load(), Stored: w.pk.stored.Load()})
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				snapshot()
			case <-done:
				snapshot()
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// begin reserves the name of a volume.
func (w *Writer) begin(volume string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !ondisk.ValidName(volume) || !utf8.ValidString(volume):
		return fmt.Errorf("%w: volume name %q", fs.ErrInvalid, volume)
	case w.mu.names[volume]:
		return fmt.Errorf("%w: volume %q", fs.ErrExist, volume)
	case len(w.mu.names) == ondisk.MaxVolumes:
		return fmt.Errorf("%w: more than %d volumes", fs.ErrInvalid, ondisk.MaxVolumes)
	}
	w.mu.names[volume] = true
	return nil
}

// complete reports a volume that was begun and not stored: whoever ignored that
// error does not get a point without it.
func (w *Writer) complete() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.mu.names {
		if !slices.ContainsFunc(w.mu.volumes, func(v Volume) bool { return v.Name == name }) {
			return fmt.Errorf("volume %q was not stored", name)
		}
	}
	return nil
}

func (w *Writer) done(v Volume) {
	w.mu.Lock()
	w.mu.volumes = append(w.mu.volumes, v)
	w.mu.Unlock()
}

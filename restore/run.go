// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/repo"
)

const (
	// openDirs bounds the directories that are open: those from the root of the
	// volume to where the walk is, and those that wait for their files.
	openDirs = ondisk.MaxDepth + 64
	// skipsListed bounds Report.Skipped.
	skipsListed = 100
	// progressEvery is the shortest time between two reports.
	progressEvery = 500 * time.Millisecond
)

// run is one restore.
type run struct {
	opts  Options
	total struct{ files, bytes int64 }
	left  budget // of the caller's
	top   *dir   // the staging directory

	pieces chan struct{} // a token for each piece of a large file in work
	open   chan struct{} // a token for each open directory but top

	files, dirs, bytes, written atomic.Int64

	skipped struct {
		sync.Mutex
		list  []Skip
		total int64
	}
	failed failures
}

// budget bounds what may be restored.
type budget struct{ entries, bytes int64 }

// take takes one entry with its size. It reports whether there was enough.
func (b *budget) take(size int64) bool {
	if b.entries < 1 || b.bytes < size {
		return false
	}
	b.entries--
	b.bytes -= size
	return true
}

const unlimited = 1<<63 - 1

func newRun(o Options, all []selection) (*run, error) {
	r := &run{
		opts: o, left: budget{entries: unlimited, bytes: unlimited},
		pieces: make(chan struct{}, o.Concurrency), open: make(chan struct{}, openDirs),
	}
	if o.MaxBytes > 0 {
		r.left.bytes = o.MaxBytes
	}
	if o.MaxEntries > 0 {
		r.left.entries = o.MaxEntries
	}
	entries, bytes := r.left.entries, r.left.bytes
	for _, s := range all {
		c := s.claim
		if c.Files < 0 || c.Dirs < 0 || c.Bytes < 0 || c.Files+c.Dirs < 0 {
			return nil, corrupt("volume %q has impossible totals", c.Name)
		}
		r.total.files += c.Files
		r.total.bytes += c.Bytes
		entries -= c.Files + c.Dirs
		bytes -= c.Bytes
		if s.path == "." && (entries < 0 || bytes < 0) {
			return nil, fmt.Errorf("%w with volume %q, which has %d entries and %d bytes", ErrBudget, c.Name, c.Files+c.Dirs, c.Bytes)
		}
	}
	return r, nil
}

// item is an entry with the place for which it is restored, which differs from
// that of the entry for a hard link that becomes a file.
type item struct {
	volume, path string
	*repo.Entry
}

// dir is a directory being restored.
type dir struct {
	item   // without an Entry for a directory that is not of a volume
	root   *os.Root
	parent *dir
	// refs counts what may still change the directory: the walk while it is in
	// it, and its entries until they are complete.
	refs atomic.Int32
}

// skip notes a property that was not restored.
func (r *run) skip(it item, what string) {
	r.opts.Logger.Debug("not restored", "volume", it.volume, "path", fmt.Sprintf("%q", it.path), "what", what)
	r.skipped.Lock()
	defer r.skipped.Unlock()
	if r.skipped.total++; len(r.skipped.list) < skipsListed {
		r.skipped.list = append(r.skipped.list, Skip{Volume: it.volume, Path: it.path, What: what})
	}
}

// commit gives the staging directory its metadata and makes it the target.
func (r *run) commit(ctx context.Context, st *staging) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	finish := func(root *os.Root, f *os.File) error {
		if r.top.Entry == nil {
			return nil
		}
		err := r.applyMeta(r.top.item, root, ".", f)
		if st.inside && errors.Is(err, fs.ErrPermission) {
			// A directory that we may fill, but that is not ours.
			r.skip(r.top.item, "metadata of the target directory")
			return nil
		}
		return err
	}
	return st.commit(ctx, finish, !r.opts.NoSync)
}

func (r *run) progress() Progress {
	return Progress{
		Files: r.files.Load(), Dirs: r.dirs.Load(), Bytes: r.bytes.Load(), Written: r.written.Load(),
		FilesTotal: r.total.files, BytesTotal: r.total.bytes,
	}
}

func (r *run) report(start time.Time) *Report {
	p := r.progress()
	return &Report{
		Files: p.Files, Dirs: p.Dirs, Bytes: p.Bytes, Written: p.Written, Elapsed: time.Since(start),
		Skipped: r.skipped.list, SkippedTotal: r.skipped.total,
		Failed: r.failed.list, FailedTotal: r.failed.total,
	}
}

// reportProgress calls Options.Progress until stop is called, which does so a
// last time.
func (r *run) reportProgress() (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.opts.Progress(r.progress())
			case <-quit:
				r.opts.Progress(r.progress())
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

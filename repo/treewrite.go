// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/tree"
)

const (
	smallFile = 128 << 10 // larger files do not share their chunks with others
	openFiles = 64        // files open at once for one volume
	ahead     = 256       // entries between the walk and the tree
)

// treeWriter turns the entries of a volume into a tree. A walk produces them
// in order, readers read the contents of several files at once, and the
// entries go into the tree in order again.
type treeWriter struct {
	w       *Writer
	builder *tree.Builder
	group   *aggregator
	volume  Volume
	name    string
	resumed []*resumed // of sessions that did not come to their end

	// The entries of the parent, in step with the walk.
	nextParent func() (tree.Record, error, bool)
	stopParent func()
	parent     tree.Record
	parentOK   bool
}

func (w *Writer) putNode(kind ondisk.Kind) tree.Put {
	return func(node []byte) (ondisk.ID, error) { return w.pk.put(kind, node) }
}

func (w *Writer) newTreeWriter(ctx context.Context, volume string) (*treeWriter, error) {
	t := &treeWriter{w: w, name: volume, builder: tree.NewBuilder(w.cut, w.putNode(ondisk.KindTree))}
	t.group = &aggregator{w: w, emit: t.add}
	t.nextParent, t.stopParent = func() (tree.Record, error, bool) { return tree.Record{}, nil, false }, func() {}
	for _, keys := range w.journals {
		t.resumed = append(t.resumed, &resumed{r: w.r, volume: volume, keys: keys})
	}
	if v := volumeOf(w.parent, volume); v != nil {
		records := tree.New(v.root, w.r.loader.node(ondisk.KindTree)).From(ctx, nil)
		t.nextParent, t.stopParent = iter.Pull2(records)
	}
	if err := t.advance(); err != nil {
		t.stopParent()
		return nil, err
	}
	return t, nil
}

// run walks, reads and stores the volume. It returns when nothing of it runs
// any more.
func (t *treeWriter) run(ctx context.Context, walk func(emit func(*job) error) (skipped int64, err error)) (Volume, error) {
	defer t.stopParent()
	order := make(chan *job, ahead)
	work := make(chan *job, openFiles)
	g, ctx := errgroup.WithContext(ctx)
	var skipped int64
	g.Go(func() (err error) {
		defer close(order)
		defer close(work)
		skipped, err = walk(func(j *job) error {
			select {
			case order <- j:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if j.done == nil {
				return nil
			}
			select {
			case work <- j:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		return err
	})
	for range runtime.GOMAXPROCS(0) + 1 {
		g.Go(func() error { return t.w.readFiles(ctx, work) })
	}
	g.Go(func() error {
		for j := range order {
			if err := t.take(ctx, j); err != nil {
				return err
			}
		}
		return t.group.flush()
	})
	err := g.Wait()
	for j := range work {
		_ = j.file.Close() // never reached a reader
	}
	if err != nil {
		return Volume{}, err
	}
	t.volume.Skipped = skipped
	t.volume.root, err = t.builder.Finish()
	return t.volume, err
}

// take passes on an entry whose content has been read.
func (t *treeWriter) take(ctx context.Context, j *job) error {
	if j.done != nil {
		select {
		case <-j.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if j.err != nil {
			return fmt.Errorf("%q: %w", j.path, j.err)
		}
	}
	old := j.old
	j.old = nil // entries may wait for long
	switch {
	case j.small == nil:
		return t.group.pass(j)
	case old != nil && old.Hash == j.entry.Hash && old.Size == j.entry.Size && t.w.reusable(old.Extents):
		j.entry.Extents = old.Extents
		t.w.dropSmall(j)
		return t.group.pass(j)
	default:
		return t.group.place(j)
	}
}

// parentEntry returns the entry that the parent has at the path, or nil. Paths
// are asked for in order.
func (t *treeWriter) parentEntry(path string) (*ondisk.Entry, error) {
	key := string(ondisk.PathKey(path))
	for t.parentOK && string(t.parent.Key) < key {
		if err := t.advance(); err != nil {
			return nil, err
		}
	}
	if !t.parentOK || string(t.parent.Key) != key {
		return nil, nil // no entry, no error
	}
	e, err := ondisk.DecodeEntry(t.parent.Value)
	return e, t.abandon(err)
}

func (t *treeWriter) advance() error {
	var err error
	t.parent, err, t.parentOK = t.nextParent()
	return t.abandon(err)
}

// abandon gives up the parent if err is damage: that costs space, not the new
// recovery point. Other errors are returned.
func (t *treeWriter) abandon(err error) error {
	if err = malformed(err); !errors.Is(err, ErrCorrupt) {
		return err
	}
	t.w.r.log.Warn("the parent is damaged and will not be reused", "error", err)
	t.parentOK = false
	return nil
}

// reusable reports whether slices that were found through the parent can be
// referred to.
func (w *Writer) reusable(slices []ondisk.Slice) bool {
	return w.trusted || w.usable(ondisk.KindData, slices)
}

// usable reports whether all slices lie within chunks of the kind that the
// session may refer to.
func (w *Writer) usable(kind ondisk.Kind, slices []ondisk.Slice) bool {
	for _, s := range slices {
		if s.ID.IsZero() {
			continue
		}
		l, ok := w.find(s.ID)
		if !ok || l.Entry.Kind != kind || uint64(s.Off)+s.Len > uint64(l.Entry.Plain) {
			return false
		}
	}
	return true
}

// add puts a finished entry into the tree.
func (t *treeWriter) add(j *job) error {
	path, e := j.path, j.entry
	// A point that cannot be read again must not be committed.
	if err := e.Validate(); err != nil {
		return fmt.Errorf("%w: %q cannot be stored: %w", fs.ErrInvalid, path, err)
	}
	if e.Type == ondisk.TypeDir {
		t.volume.Dirs++
	} else {
		t.volume.Files++
		t.volume.Bytes += int64(e.Size) // below 2^62
		t.w.files.Add(1)
	}
	key, value := ondisk.PathKey(path), ondisk.AppendEntry(nil, e)
	if e.Stat != nil && !j.inherited && e.Size > 0 {
		t.w.journal.note(t.name, key, value)
	}
	return t.builder.Add(key, value)
}

// readFiles reads the contents of files until there is no more work.
func (w *Writer) readFiles(ctx context.Context, work <-chan *job) error {
	var large *pager
	for j := range work {
		if j.read != nil {
			j.err = j.read(ctx, &large)
		} else {
			j.err = w.readFile(ctx, j, &large)
			_ = j.file.Close()
		}
		close(j.done)
	}
	if large != nil {
		large.close()
	}
	return nil
}

func (w *Writer) readFile(ctx context.Context, j *job, large **pager) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	j.entry.ModTime = info.ModTime().UTC()
	sparse := stat(info).blocks < size>>9
	if sparse && size <= smallFile && nextSegment(j.file, 0, size) == (segment{0, size}) {
		sparse = false // its file system compresses, or keeps small files elsewhere
	}
	if size <= smallFile && !sparse {
		err = w.readSmall(j, size)
	} else {
		if *large == nil {
			*large = w.newPager(ctx)
		}
		(*large).begin(j.old, size)
		if err = (*large).readFile(j.file, size, sparse); err == nil {
			err = (*large).finish(j.entry)
		}
	}
	if !sameStatus(j.entry, info) {
		j.entry.Stat = nil // it has changed since it was opened, or is changing
	}
	return err
}

func (w *Writer) readSmall(j *job, size int64) error {
	data := w.smallBuffer(int(size))
	// Not from where the search for holes has left the file.
	n, err := j.file.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	w.bytes.Add(int64(n))
	if n > 0 {
		j.small = data[:n]
		j.entry.Size, j.entry.Hash = uint64(n), w.r.keys.ChunkID(ondisk.KindData, j.small) // not negative
	}
	return nil
}

// tinyFile is the size up to which a file has memory of its own while it waits.
const tinyFile = 16 << 10

// smallBuffer returns memory for the content of a small file.
func (w *Writer) smallBuffer(size int) []byte {
	if size <= tinyFile {
		return make([]byte, size)
	}
	if b, ok := w.small.Get().(*[smallFile]byte); ok {
		return b[:size]
	}
	return new([smallFile]byte)[:size]
}

// dropSmall gives back the memory of a small file whose content has a place.
func (w *Writer) dropSmall(j *job) {
	if cap(j.small) == smallFile {
		w.small.Put((*[smallFile]byte)(j.small[:smallFile]))
	}
	j.small = nil
}

// PutStream stores all that r returns as a volume that is one file. An error
// of r other than io.EOF ends the session: a truncated stream never becomes a
// recovery point.
//
// What the parent has at the same place is not stored again, in units of 16
// KiB. Other content is cut at boundaries that depend on it, so that it may
// move; that of disks and databases, which [Writer.PutBlocks] says more about,
// in chunks of 1 MiB.
func (w *Writer) PutStream(ctx context.Context, volume string, r io.Reader) error {
	return w.putFile(ctx, volume, func(p *pager, old *ondisk.Entry) error {
		var size int64
		if old != nil {
			size = int64(old.Size) // below 2^62
		}
		p.begin(old, size)
		return p.readStream(r)
	})
}

// putFile stores a volume that is one file, which read passes to the pager.
// Old is what the parent has, or nil.
func (w *Writer) putFile(ctx context.Context, volume string, read func(p *pager, old *ondisk.Entry) error) error {
	if err := w.begin(volume); err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	v, err := w.writeFile(ctx, volume, read)
	if err != nil {
		return fmt.Errorf("volume %q: %w", volume, err)
	}
	v.Name = volume
	w.done(v)
	return nil
}

func (w *Writer) writeFile(ctx context.Context, volume string, read func(p *pager, old *ondisk.Entry) error) (Volume, error) {
	t, err := w.newTreeWriter(ctx, volume)
	if err != nil {
		return Volume{}, err
	}
	return t.run(ctx, func(emit func(*job) error) (int64, error) {
		old, err := t.parentEntry(".")
		if err != nil {
			return 0, err
		}
		p := w.newPager(ctx)
		defer p.close()
		if err := read(p, old); err != nil {
			return 0, err
		}
		e := &ondisk.Entry{Type: ondisk.TypeFile, Mode: uint32(streamMode), ModTime: time.Now().UTC()}
		if err := p.finish(e); err != nil {
			return 0, err
		}
		return 0, emit(&job{path: ".", entry: e})
	})
}

// streamMode is the mode with which a stream is restored.
const streamMode fs.FileMode = 0o600

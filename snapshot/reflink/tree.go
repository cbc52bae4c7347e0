// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

// batch is the number of names that one task handles.
const batch = 64

// cloner clones one tree.
type cloner struct {
	opts    Options
	skip    string // the folder of snapshots, left out of the clone
	sources *sources
	open    map[fileKey]int // files that the process has open besides

	ctx      context.Context //nolint:containedctx // a cloner lives as long as its one call
	from, to *os.Root
	device   uint64
	skipInfo fs.FileInfo
	pool     pool

	noClone, noRange       atomic.Bool
	cloned, ranged, copied atomic.Bool
	files, bytes, skipped  atomic.Int64

	mu    sync.Mutex
	dirs  []dirMeta
	links map[uint64]*links
}

// dirMeta is what a directory gets after everything in it is done.
type dirMeta struct {
	rel string
	attributes
}

// links are the names of one file. The owner is the name under which it is
// cloned; the others become links to that.
type links struct {
	owner string
	names []string
}

// dir is a directory on both sides, used by several tasks.
type dir struct {
	rel      string
	depth    int
	from, to *os.Root
	list     *os.File
	users    atomic.Int32
}

func (d *dir) release() {
	if d.users.Add(-1) == 0 {
		d.list.Close()
		d.from.Close()
		d.to.Close()
	}
}

// task is a part of the work: to open the directory rel if dir is nil, to read
// names of dir if there are none, and else to clone these.
type task struct {
	rel   string
	depth int
	look  fs.FileInfo // what rel was when it was found
	dir   *dir
	names []string
}

// method is the weakest way that was used to clone data.
func (c *cloner) method() string {
	switch {
	case c.copied.Load():
		return "copy"
	case c.ranged.Load():
		return "copy_file_range"
	case c.cloned.Load():
		return "FICLONE"
	}
	return "copy" // of nothing
}

// tree clones the directory from as the new directory to.
func (c *cloner) tree(ctx context.Context, from, to string) (err error) {
	c.ctx, c.links, c.open = ctx, make(map[uint64]*links), c.sources.begin()
	c.noClone.Store(c.opts.CopyOnly)
	c.noRange.Store(c.opts.CopyOnly)
	if c.skipInfo, err = os.Stat(c.skip); err != nil {
		return err
	}
	before, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if c.from, err = os.OpenRoot(from); err != nil {
		return err
	}
	defer c.from.Close()
	fi, err := c.from.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(before, fi) {
		return errors.New("the volume was replaced while it was opened")
	}
	c.device = identify(fi).device
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if c.to, err = os.OpenRoot(to); err != nil {
		return err
	}
	defer c.to.Close()
	c.pool.run = c.runTask
	c.pool.drop = func(t task) {
		if t.dir != nil {
			t.dir.release()
		}
	}
	if err := c.pool.work(ctx, c.opts.Workers, task{rel: ".", look: fi}); err != nil {
		return err
	}
	if err := c.finishLinks(); err != nil {
		return err
	}
	return c.finishDirs()
}

func (c *cloner) runTask(t task) error {
	switch {
	case t.dir == nil:
		return c.openDir(t)
	case t.names == nil:
		return c.read(t.dir)
	}
	defer t.dir.release()
	for _, name := range t.names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(t.dir, name); err != nil {
			return err
		}
	}
	return nil
}

// openDir opens the directory of t on both sides.
func (c *cloner) openDir(t task) (err error) {
	if t.depth > snapdir.MaxDepth {
		return fmt.Errorf("directory %.100q… is nested deeper than %d", t.rel, snapdir.MaxDepth)
	}
	d := &dir{rel: t.rel, depth: t.depth}
	if d.from, err = c.from.OpenRoot(t.rel); err != nil {
		if errors.Is(err, fs.ErrNotExist) && t.rel != "." {
			return nil // removed just now: its copy stays empty
		}
		return err
	}
	d.users.Store(1)
	if d.to, err = c.to.OpenRoot(t.rel); err != nil {
		d.from.Close()
		return err
	}
	if d.list, err = d.from.Open("."); err != nil {
		d.from.Close()
		d.to.Close()
		return err
	}
	fi, err := d.list.Stat()
	if err != nil {
		d.release()
		return err
	}
	if !os.SameFile(fi, t.look) {
		d.release()
		return fmt.Errorf("%q: %w", t.rel, errChanged)
	}
	attrs, err := readAttributes(d.list, fi)
	if err != nil {
		d.release()
		return fmt.Errorf("%q: %w", t.rel, err)
	}
	c.mu.Lock()
	c.dirs = append(c.dirs, dirMeta{rel: t.rel, attributes: attrs})
	c.mu.Unlock()
	c.pool.add(task{dir: d})
	return nil
}

// read makes tasks of the next names of d.
func (c *cloner) read(d *dir) error {
	names, err := d.list.Readdirnames(batch)
	if len(names) > 0 {
		// Others go on reading while this batch is cloned.
		d.users.Add(1)
		c.pool.add(task{dir: d})
		c.pool.add(task{dir: d, names: names})
		return nil
	}
	d.release()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// finishLinks makes the further names of files that have several, after the
// files are there.
func (c *cloner) finishLinks() error {
	for _, l := range c.links {
		for _, rel := range l.names {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			if l.owner == "" {
				// The name that was to be cloned vanished; the next takes over.
				if err := c.again(rel); err != nil {
					return err
				}
			} else if rel != l.owner {
				if err := c.to.Link(l.owner, rel); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// again clones the entry rel after all others.
func (c *cloner) again(rel string) (err error) {
	d := &dir{rel: filepath.Dir(rel)}
	if d.from, err = c.from.OpenRoot(d.rel); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer d.from.Close()
	if d.to, err = c.to.OpenRoot(d.rel); err != nil {
		return err
	}
	defer d.to.Close()
	return c.entry(d, filepath.Base(rel))
}

// finishDirs sets what filling a directory would change or be hindered by,
// deepest first.
func (c *cloner) finishDirs() error {
	slices.SortFunc(c.dirs, func(a, b dirMeta) int { return strings.Count(b.rel, sep) - strings.Count(a.rel, sep) })
	for _, d := range c.dirs {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		f, err := c.to.Open(d.rel)
		if err != nil {
			return err
		}
		err = d.apply(f)
		f.Close()
		if err == nil {
			err = c.to.Chtimes(d.rel, time.Time{}, d.modTime)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", d.rel, err)
		}
	}
	return nil
}

const sep = string(filepath.Separator)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

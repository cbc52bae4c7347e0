// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// changes bounds how often an entry may turn into something else while it is
// opened.
const changes = 10

// errChanged means that an entry is not what it was a moment ago.
var errChanged = errors.New("the entry is replaced again and again")

// attributes are what a file or directory has besides data.
type attributes struct {
	owner
	mode    fs.FileMode
	modTime time.Time
	xattrs  []xattr
}

// owner is an owner to give to a clone, if set.
type owner struct {
	set      bool
	uid, gid int
}

// identity tells files apart. Zero fields are not known.
type identity struct{ device, inode, links uint64 }

type xattr struct {
	name  string
	value []byte
}

// entry clones name in d. What vanishes meanwhile was not there.
func (c *cloner) entry(d *dir, name string) error {
	rel := filepath.Join(d.rel, name)
	for range changes {
		fi, err := d.from.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		switch mode := fi.Mode(); {
		case mode.IsRegular():
			err = c.file(d, name, rel, fi)
		case mode.IsDir():
			err = c.directory(d, name, rel, fi)
		case mode&fs.ModeSymlink != 0:
			err = c.symlink(d, name, fi)
		default:
			c.skipped.Add(1)
			return nil
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			// A directory that changes while it is read may show a name twice.
			return nil
		}
		if !errors.Is(err, errChanged) {
			return fmt.Errorf("%q: %w", rel, err)
		}
	}
	return fmt.Errorf("%q: %w", rel, errChanged)
}

// directory makes the directory and leaves the rest to a task.
func (c *cloner) directory(d *dir, name, rel string, fi fs.FileInfo) error {
	if os.SameFile(fi, c.skipInfo) {
		return nil
	}
	if err := d.to.Mkdir(name, 0o700); err != nil {
		return err
	}
	if identify(fi).device != c.device {
		return nil // a mount point
	}
	c.pool.add(task{rel: rel, depth: d.depth + 1, look: fi})
	return nil
}

func (c *cloner) symlink(d *dir, name string, fi fs.FileInfo) error {
	target, err := d.from.Readlink(name)
	if err != nil {
		return changed(err)
	}
	if err := d.to.Symlink(target, name); err != nil {
		return err
	}
	return applyLink(d.to, name, ownedBy(fi), fi.ModTime())
}

// file clones a regular file.
func (c *cloner) file(d *dir, name, rel string, fi fs.FileInfo) error {
	if !c.own(fi, rel) {
		return nil
	}
	src := c.sources.reuse(fi)
	if src == nil {
		var err error
		if src, err = d.from.OpenFile(name, openFlags, 0); err != nil {
			c.disown(fi, rel)
			return changed(err)
		}
	}
	now, err := src.Stat()
	if err != nil {
		return errors.Join(err, src.Close())
	}
	defer c.sources.release(src, now, c.open)
	if !now.Mode().IsRegular() || !os.SameFile(fi, now) {
		c.disown(fi, rel)
		return errChanged
	}
	attrs, err := readAttributes(src, now)
	if err != nil {
		return err
	}
	dst, err := d.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = c.content(dst, src, now.Size())
	if err == nil {
		err = attrs.apply(dst)
	}
	if err == nil && syncEachFile {
		err = dst.Sync()
	}
	err = errors.Join(err, dst.Close())
	if err == nil {
		err = d.to.Chtimes(name, time.Time{}, attrs.modTime)
	}
	c.files.Add(1)
	c.bytes.Add(now.Size())
	return err
}

// own reports whether rel is the name under which the file fi is to be cloned.
// Other names of it are kept for the end.
func (c *cloner) own(fi fs.FileInfo, rel string) bool {
	id := identify(fi)
	if id.links < 2 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.links[id.inode]
	if l == nil {
		l = &links{}
		c.links[id.inode] = l
	}
	if !slices.Contains(l.names, rel) {
		l.names = append(l.names, rel)
	}
	if l.owner != "" {
		return false
	}
	l.owner = rel
	return true
}

// disown takes back own for a name that turned out to be something else.
func (c *cloner) disown(fi fs.FileInfo, rel string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.links[identify(fi).inode]; l != nil && l.owner == rel {
		l.owner = ""
	}
}

// changed turns the errors of opening what is no longer there into errChanged.
func changed(err error) error {
	if errors.Is(err, fs.ErrNotExist) || replaced(err) {
		return errChanged
	}
	return err
}

// plain copies from off to end by reading and writing, and returns where the
// source ended.
func (c *cloner) plain(dst, src *os.File, off, end int64) (int64, error) {
	if off >= end {
		return off, nil
	}
	buf := make([]byte, min(end-off, 1<<20))
	for off < end {
		if err := c.ctx.Err(); err != nil {
			return off, err
		}
		n, err := src.ReadAt(buf[:min(end-off, int64(len(buf)))], off)
		if n > 0 {
			c.copied.Store(true)
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return off, err
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return off, nil
		}
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

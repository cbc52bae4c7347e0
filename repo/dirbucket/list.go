// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"gocloud.dev/blob/driver"

	"github.com/stillpoint-go/protect/internal/durable"
)

const (
	// defaultPageSize is large because each page reads its directories again.
	defaultPageSize = 1 << 15
	readDirBatch    = 4096
)

// ListPaged implements driver.Bucket. It holds the names of one directory of
// each depth in memory. The page token is the last key of the page before.
func (b *bucket) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	if opts.BeforeList != nil {
		if err := opts.BeforeList(noTypes); err != nil {
			return nil, err
		}
	}
	l := &lister{
		ctx:    ctx,
		prefix: opts.Prefix,
		delim:  opts.Delimiter,
		token:  string(opts.PageToken),
		limit:  opts.PageSize,
		page:   &driver.ListPage{},
	}
	if l.limit == 0 {
		l.limit = defaultPageSize
	}
	base := opts.Prefix[:strings.LastIndexByte(opts.Prefix, '/')+1]
	dir, err := dirName(base)
	if err != nil {
		return l.page, nil //nolint:nilerr // no key can be that long
	}
	if _, err := l.enter(b.root, dir, base); err != nil {
		return nil, fmt.Errorf("dirbucket: list: %w", err)
	}
	return l.page, nil
}

// lister walks the tree in the order of keys.
type lister struct {
	ctx                  context.Context //nolint:containedctx // lives for one call
	prefix, delim, token string
	limit                int
	page                 *driver.ListPage
}

// entry is an element of a directory: an object, or a directory of objects.
type entry struct {
	key  string // the whole key; that of a directory ends in a slash
	name string
	dir  bool
}

// enter walks the directory name below root, whose keys begin with base. It
// reports whether the page is full.
func (l *lister) enter(root *os.Root, name, base string) (full bool, err error) {
	dir, err := openDir(root, name)
	if dir == nil || err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	entries, err := l.read(dir, base)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if err := l.ctx.Err(); err != nil {
			return false, err
		}
		if full, err = l.visit(dir, e); full || err != nil {
			return full, err
		}
	}
	return false, nil
}

// read returns the entries of dir that can matter, in the order of their keys.
// Sorting directories with their slash makes the walk strictly ordered.
func (l *lister) read(dir *os.Root, base string) ([]entry, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// What a listing shows may be acted on, so it must not vanish any more.
	if err := durable.SyncDir(f); err != nil {
		return nil, err
	}
	var entries []entry
	for {
		// Names only: with entries, a root pays one more lstat for each.
		names, err := f.Readdirnames(readDirBatch)
		for _, name := range names {
			if e, ok := parseEntry(name, base); ok && l.matters(e) {
				entries = append(entries, e)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}

// parseEntry reports false for foreign files. The name tells what an entry is
// meant to be, not what somebody may have planted there.
func parseEntry(name, base string) (entry, bool) {
	escaped, isDir := strings.CutSuffix(name, dirSuffix)
	element, ok := unescape(escaped)
	if !ok {
		return entry{}, false
	}
	e := entry{key: base + element, name: name, dir: isDir}
	if isDir {
		e.key += "/"
	}
	return e, true
}

// matters reports whether e is, or may hold, a result of this page.
func (l *lister) matters(e entry) bool {
	if !strings.HasPrefix(e.key, l.prefix) && !(e.dir && strings.HasPrefix(l.prefix, e.key)) {
		return false
	}
	return e.key > l.token || (e.dir && strings.HasPrefix(l.token, e.key)) || l.token == ""
}

// collapse returns the result that stands for all keys that begin with key, if
// the delimiter makes them one.
func (l *lister) collapse(key string) (string, bool) {
	if l.delim == "" || !strings.HasPrefix(key, l.prefix) {
		return "", false
	}
	head, _, found := strings.Cut(key[len(l.prefix):], l.delim)
	return l.prefix + head + l.delim, found
}

func (l *lister) visit(dir *os.Root, e entry) (full bool, err error) {
	group, collapsed := l.collapse(e.key)
	switch {
	case collapsed:
		if group <= l.token || l.last() == group {
			return false, nil
		}
		if some, err := isObject(l.ctx, dir, e); !some || err != nil {
			return false, err
		}
		return l.add(&driver.ListObject{Key: group, IsDir: true}), nil
	case e.dir:
		return l.enter(dir, e.name, e.key)
	}
	o, err := stat(dir, e)
	if o == nil || err != nil {
		return false, err
	}
	return l.add(o), nil
}

func (l *lister) last() string {
	if n := len(l.page.Objects); n > 0 {
		return l.page.Objects[n-1].Key
	}
	return ""
}

// add reports whether the page was full before o.
func (l *lister) add(o *driver.ListObject) (full bool) {
	if len(l.page.Objects) == l.limit {
		l.page.NextPageToken = []byte(l.last())
		return true
	}
	l.page.Objects = append(l.page.Objects, o)
	return false
}

// openDir opens the directory name, nil if it is none.
func openDir(root *os.Root, name string) (*os.Root, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.IsDir()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dir, err
}

// stat returns the list entry of e, nil if it has vanished or is no object.
func stat(dir *os.Root, e entry) (*driver.ListObject, error) {
	info, err := dir.Lstat(e.name)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.Mode().IsRegular()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o := &driver.ListObject{Key: e.key, ModTime: info.ModTime(), Size: info.Size()}
	if info.Size()%trailerModulus != trailerResidue {
		return o, nil
	}
	opened, err := openObject(dir, e.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, errTrailer):
		return o, nil // damage must not hide the object; reading it tells
	case err != nil:
		return nil, err
	}
	o.ModTime, o.Size = opened.info.ModTime(), opened.size
	return o, opened.f.Close()
}

// isObject reports whether e is an object, or a directory with an object below:
// empty directories stay behind when objects are deleted.
func isObject(ctx context.Context, root *os.Root, e entry) (bool, error) {
	if !e.dir {
		o, err := stat(root, e)
		return o != nil, err
	}
	dir, err := openDir(root, e.name)
	if dir == nil || err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	f, err := dir.Open(".")
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	for {
		names, err := f.Readdirnames(readDirBatch)
		for _, name := range names {
			below, ok := parseEntry(name, "")
			if !ok {
				continue
			}
			if some, err := isObject(ctx, dir, below); some || err != nil {
				return some, err
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return false, err
		}
	}
}

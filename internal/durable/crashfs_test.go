// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/durable"
)

// crashFS is a file system that remembers what is on stable storage, so that a
// test can cut the power after each operation. Its disk keeps a name only after
// SyncDir of its directory and content only after Sync of the file; what is not
// flushed may or may not survive, name by name.
type crashFS struct {
	root     *node
	noLinks  bool              // Link fails as on vfat
	noExcl   bool              // RenameNoReplace fails as on NFS
	fail     map[string]error  // errors by operation text
	lostLink bool              // Link takes effect and says that the name exists
	before   func(op string)   // called before an operation takes effect
	after    func(op string)   // called after each operation
	names    map[string]string // temporary names in the order of their birth
	log      []string          // operations that took place or failed
}

type node struct {
	dir           bool
	current, disk map[string]*node // of a directory
	data, synced  []byte           // of a file; synced is nil if never flushed
	flushed       bool
	born          time.Time
}

func newCrashFS() *crashFS {
	return &crashFS{root: newDirNode(), names: map[string]string{}}
}

func newDirNode() *node {
	return &node{dir: true, current: map[string]*node{}, disk: map[string]*node{}}
}

// alias replaces the random part of temporary names, so that traces compare.
func (c *crashFS) alias(name string) string {
	if !durable.IsTemp(name) {
		return name
	}
	base := path.Base(name)
	if c.names[base] == "" {
		c.names[base] = fmt.Sprintf(".tmp-%d", len(c.names))
	}
	return path.Join(path.Dir(name), c.names[base])
}

func (c *crashFS) step(op string, names []string, effect func() error) error {
	for _, n := range names {
		op += " " + c.alias(n)
	}
	if c.before != nil {
		c.before(op)
	}
	err := c.fail[op]
	if err == nil {
		err = effect()
	}
	if err != nil {
		op += " !"
	}
	c.log = append(c.log, op)
	if c.after != nil {
		c.after(op)
	}
	return err
}

func (c *crashFS) walk(name string) (*node, error) {
	n := c.root
	for part := range strings.SplitSeq(name, "/") {
		if part == "." {
			continue
		}
		next := n.current[part]
		if next == nil {
			return nil, &fs.PathError{Op: "walk", Path: name, Err: fs.ErrNotExist}
		}
		n = next
	}
	return n, nil
}

// add gives n the name name, which must be free unless replace.
func (c *crashFS) add(name string, n *node, replace bool) error {
	parent, err := c.walk(path.Dir(name))
	if err != nil {
		return err
	}
	if _, taken := parent.current[path.Base(name)]; taken && !replace {
		return &fs.PathError{Op: "add", Path: name, Err: fs.ErrExist}
	}
	parent.current[path.Base(name)] = n
	return nil
}

func (c *crashFS) drop(name string) error {
	if _, err := c.walk(name); err != nil {
		return err
	}
	parent, err := c.walk(path.Dir(name))
	if err != nil {
		return err
	}
	delete(parent.current, path.Base(name))
	return nil
}

func (c *crashFS) move(oldname, newname string, replace bool) error {
	n, err := c.walk(oldname)
	if err != nil {
		return err
	}
	if err := c.add(newname, n, replace); err != nil {
		return err
	}
	return c.drop(oldname)
}

func (c *crashFS) CreateExclusive(name string, _ fs.FileMode) (durable.WriteSyncCloser, error) {
	n := &node{born: time.Now()}
	err := c.step("create", []string{name}, func() error { return c.add(name, n, false) })
	if err != nil {
		return nil, err
	}
	return &openFile{c: c, n: n, name: name}, nil
}

func (c *crashFS) Mkdir(name string, _ fs.FileMode) error {
	return c.step("mkdir", []string{name}, func() error { return c.add(name, newDirNode(), false) })
}

func (c *crashFS) Link(oldname, newname string) error {
	return c.step("link", []string{oldname, newname}, func() error {
		if c.noLinks {
			return &fs.PathError{Op: "link", Path: newname, Err: fs.ErrPermission}
		}
		n, err := c.walk(oldname)
		if err != nil {
			return err
		}
		if err := c.add(newname, n, false); err != nil || !c.lostLink {
			return err
		}
		return fs.ErrExist
	})
}

func (c *crashFS) Rename(oldname, newname string) error {
	return c.step("rename", []string{oldname, newname}, func() error { return c.move(oldname, newname, true) })
}

func (c *crashFS) RenameNoReplace(oldname, newname string) error {
	return c.step("rename-excl", []string{oldname, newname}, func() error {
		if c.noExcl {
			return errUnsupported
		}
		return c.move(oldname, newname, false)
	})
}

func (c *crashFS) Remove(name string) error {
	return c.step("remove", []string{name}, func() error { return c.drop(name) })
}

func (c *crashFS) SyncDir(name string) error {
	return c.step("syncdir", []string{name}, func() error {
		n, err := c.walk(name)
		if err == nil {
			n.disk = maps.Clone(n.current)
		}
		return err
	})
}

func (c *crashFS) Lstat(name string) (fs.FileInfo, error) {
	n, err := c.walk(name)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n}, nil
}

func (c *crashFS) SameFile(name1, name2 string) (bool, error) {
	a, err := c.walk(name1)
	if err != nil {
		return false, err
	}
	b, err := c.walk(name2)
	return a == b, err
}

func (c *crashFS) ReadDir(name string) ([]fs.FileInfo, error) {
	n, err := c.walk(name)
	if err != nil {
		return nil, err
	}
	var infos []fs.FileInfo
	for _, k := range slices.Sorted(maps.Keys(n.current)) {
		infos = append(infos, info{k, n.current[k]})
	}
	return infos, nil
}

// crash returns the files that a restart finds. keep decides for each name and
// each content that is not flushed whether the change reached the disk.
func (c *crashFS) crash(keep func() bool) map[string]string {
	files := map[string]string{}
	var visit func(prefix string, n *node)
	visit = func(prefix string, n *node) {
		if !n.dir {
			files[prefix] = n.survivor(keep)
			return
		}
		all := maps.Clone(n.disk)
		maps.Copy(all, n.current)
		for _, k := range slices.Sorted(maps.Keys(all)) {
			child := n.disk[k]
			if now := n.current[k]; now != child && keep() {
				child = now
			}
			if child != nil {
				visit(path.Join(prefix, k), child)
			}
		}
	}
	visit("", c.root)
	return files
}

func (n *node) survivor(keep func() bool) string {
	if n.flushed && len(n.synced) == len(n.data) {
		return string(n.synced)
	}
	if keep() {
		return string(n.data)
	}
	return string(n.synced) + "<torn>"
}

type openFile struct {
	c    *crashFS
	n    *node
	name string
}

func (f *openFile) Write(p []byte) (int, error) {
	err := f.c.step("write", []string{f.name}, func() error {
		f.n.data = append(f.n.data, p...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *openFile) Sync() error {
	return f.c.step("sync", []string{f.name}, func() error {
		f.n.synced, f.n.flushed = slices.Clone(f.n.data), true
		return nil
	})
}

func (f *openFile) Close() error {
	return f.c.step("close", []string{f.name}, func() error { return nil })
}

type info struct {
	name string
	n    *node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(len(i.n.data)) }
func (i info) ModTime() time.Time { return i.n.born }
func (i info) IsDir() bool        { return i.n.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.n.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

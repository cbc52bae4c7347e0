// SPDX-License-Identifier: Apache-2.0

// Package durabletest has a file system in memory whose power can be cut. It is
// imported by tests only.
package durabletest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/durable"
)

// CrashFS is a file system that remembers what is on stable storage, so that a
// test can cut the power after each operation. Its disk keeps a name only after
// SyncDir of its directory and content only after Sync of the file; what is not
// flushed may or may not survive, name by name.
type CrashFS struct {
	NoLinks  bool             // Link fails as on vfat
	NoExcl   bool             // RenameNoReplace fails as on NFS
	Fail     map[string]error // errors by operation text
	LostLink bool             // Link takes effect and says that the name exists
	Before   func(op string)  // called before an operation takes effect
	After    func(op string)  // called after each operation
	Log      []string         // operations that took place or failed

	root  *node
	names map[string]string // temporary names in the order of their birth
}

type node struct {
	dir           bool
	current, disk map[string]*node // of a directory
	data, synced  []byte           // of a file; synced is nil if never flushed
	flushed       bool
	born          time.Time
}

// New returns an empty file system.
func New() *CrashFS {
	return &CrashFS{root: newDirNode(), names: map[string]string{}}
}

func newDirNode() *node {
	return &node{dir: true, current: map[string]*node{}, disk: map[string]*node{}}
}

// alias replaces the random part of temporary names, so that traces compare.
func (c *CrashFS) alias(name string) string {
	if !durable.IsTemp(name) {
		return name
	}
	base := path.Base(name)
	if c.names[base] == "" {
		c.names[base] = fmt.Sprintf(".tmp-%d", len(c.names))
	}
	return path.Join(path.Dir(name), c.names[base])
}

func (c *CrashFS) step(op string, names []string, effect func() error) error {
	for _, n := range names {
		op += " " + c.alias(n)
	}
	if c.Before != nil {
		c.Before(op)
	}
	err := c.Fail[op]
	if err == nil {
		err = effect()
	}
	if err != nil {
		op += " !"
	}
	c.Log = append(c.Log, op)
	if c.After != nil {
		c.After(op)
	}
	return err
}

func (c *CrashFS) walk(name string) (*node, error) {
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
func (c *CrashFS) add(name string, n *node, replace bool) error {
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

func (c *CrashFS) drop(name string) error {
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

func (c *CrashFS) move(oldname, newname string, replace bool) error {
	n, err := c.walk(oldname)
	if err != nil {
		return err
	}
	if err := c.add(newname, n, replace); err != nil {
		return err
	}
	return c.drop(oldname)
}

// CreateExclusive implements durable.FS.
func (c *CrashFS) CreateExclusive(name string, _ fs.FileMode) (durable.WriteSyncCloser, error) {
	n := &node{born: time.Now()}
	err := c.step("create", []string{name}, func() error { return c.add(name, n, false) })
	if err != nil {
		return nil, err
	}
	return &openFile{c: c, n: n, name: name}, nil
}

// Mkdir implements durable.FS.
func (c *CrashFS) Mkdir(name string, _ fs.FileMode) error {
	return c.step("mkdir", []string{name}, func() error { return c.add(name, newDirNode(), false) })
}

// Link implements durable.FS.
func (c *CrashFS) Link(oldname, newname string) error {
	return c.step("link", []string{oldname, newname}, func() error {
		if c.NoLinks {
			return &fs.PathError{Op: "link", Path: newname, Err: fs.ErrPermission}
		}
		n, err := c.walk(oldname)
		if err != nil {
			return err
		}
		if err := c.add(newname, n, false); err != nil || !c.LostLink {
			return err
		}
		return fs.ErrExist
	})
}

// Rename implements durable.FS.
func (c *CrashFS) Rename(oldname, newname string) error {
	return c.step("rename", []string{oldname, newname}, func() error { return c.move(oldname, newname, true) })
}

// RenameNoReplace implements durable.FS.
func (c *CrashFS) RenameNoReplace(oldname, newname string) error {
	return c.step("rename-excl", []string{oldname, newname}, func() error {
		if c.NoExcl {
			return errors.ErrUnsupported
		}
		return c.move(oldname, newname, false)
	})
}

// Remove implements durable.FS.
func (c *CrashFS) Remove(name string) error {
	return c.step("remove", []string{name}, func() error { return c.drop(name) })
}

// SyncDir implements durable.FS.
func (c *CrashFS) SyncDir(name string) error {
	return c.step("syncdir", []string{name}, func() error {
		n, err := c.walk(name)
		if err == nil {
			n.disk = maps.Clone(n.current)
		}
		return err
	})
}

// Lstat implements durable.FS.
func (c *CrashFS) Lstat(name string) (fs.FileInfo, error) {
	n, err := c.walk(name)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n}, nil
}

// SameFile implements durable.FS.
func (c *CrashFS) SameFile(name1, name2 string) (bool, error) {
	a, err := c.walk(name1)
	if err != nil {
		return false, err
	}
	b, err := c.walk(name2)
	return a == b, err
}

// ReadDir implements durable.FS.
func (c *CrashFS) ReadDir(name string) ([]fs.FileInfo, error) {
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

// Crash returns the files that a restart finds. keep decides for each name and
// each content that is not flushed whether the change reached the disk.
func (c *CrashFS) Crash(keep func() bool) map[string]string {
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

// Plant makes an empty file in the directory itself, behind everybody's back.
func (c *CrashFS) Plant(name string) { c.root.current[name] = &node{} }

// Vanish removes what the directory itself has under the name.
func (c *CrashFS) Vanish(name string) { delete(c.root.current, name) }

// Names returns the names in the directory itself.
func (c *CrashFS) Names() []string { return slices.Sorted(maps.Keys(c.root.current)) }

// ReadFile returns the present content of a file, which must not be modified.
func (c *CrashFS) ReadFile(name string) ([]byte, error) {
	n, err := c.walk(name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return n.data, nil
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
	c    *CrashFS
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

// SPDX-License-Identifier: Apache-2.0

// Package cache keeps copies of stored objects in a local folder, so that they
// need not be fetched again.
//
// The cache is disposable: it may be deleted, in whole or in part, at any time,
// and none of its failures is one of the operation that uses it. It is not
// trusted either. Nothing in it proves what it is: callers keep objects as they
// are in the bucket, sealed, and find out by opening them; what does not open
// they drop. Several processes may use one folder at the same time: files
// appear under their names complete, or not at all.
//
// Only regular files with names of ours are read, counted or removed. Symbolic
// links are not followed, in the folder. What is created is for its owner alone.
package cache

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/zeebo/blake3"
)

// The names of our files: an object, a file that the caller names, and one
// that is being written. The scope of a repository stands in front.
const (
	objectMark = "-o-"
	fileMark   = "-f-"
	tempMark   = "-w-"
)

const (
	// touchEvery is how exact the order of use is. To note every use would cost
	// more than it is worth.
	touchEvery = 10 * time.Minute
	// staleTemp is the age at which an unfinished file is one of a process that
	// died.
	staleTemp = 24 * time.Hour
)

// Cache is a folder with a budget. It is safe for concurrent use. A nil Cache
// is empty and keeps nothing.
type Cache struct {
	root  *os.Root
	scope string // 16 hex digits
	limit int64
	log   hclog.Logger
	once  sync.Once // for the log: one failure is news, a thousand are noise

	mu struct {
		sync.Mutex
		grown  int64           // bytes that we added since the last sweep
		swept  bool            // there was one
		used   int64           // bytes in the folder after it
		pinned map[string]bool // files in use
	}
}

// Open returns a cache of at most limit bytes in the folder, which it creates if
// need be and keeps open until nothing refers to the Cache. Of several
// repositories that share the folder and the budget, scope tells them apart. If
// the folder cannot be used, it logs that and returns nil.
func Open(dir string, scope [16]byte, limit int64, log hclog.Logger) *Cache {
	c := &Cache{scope: hex.EncodeToString(scope[:8]), limit: limit, log: log}
	c.mu.pinned = map[string]bool{}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		c.root, err = os.OpenRoot(dir)
	}
	if err != nil {
		c.failed(err)
		return nil
	}
	return c
}

// failed reports the first failure.
func (c *Cache) failed(err error) {
	c.once.Do(func() { c.log.Warn("the local cache does not work, which costs time only", "error", err) })
}

// objectName returns the name of the file for what key stands for. Keys are of
// any form and length.
func (c *Cache) objectName(key string) string {
	sum := blake3.Sum256([]byte(key))
	return c.scope + objectMark + hex.EncodeToString(sum[:16])
}

// Get returns what was put under key, or nil. It may be anything: the caller
// has to find out what it is.
func (c *Cache) Get(key string, limit int64) []byte {
	if c == nil {
		return nil
	}
	f, size := c.open(c.objectName(key))
	if f == nil {
		return nil
	}
	defer f.Close()
	if size > limit {
		return nil
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil // cut short since
	}
	return data
}

// open opens a regular file of the folder and notes its use; nil if there is
// none.
func (c *Cache) open(name string) (*os.File, int64) {
	before, err := c.root.Lstat(name)
	if err == nil && !before.Mode().IsRegular() {
		return nil, 0
	}
	var f *os.File
	if err == nil {
		f, err = c.root.Open(name)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.failed(err)
		}
		return nil, 0
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(before, info) { // exchanged, maybe for a link
		_ = f.Close()
		return nil, 0
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchEvery {
		if err := c.root.Chtimes(name, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.failed(err)
		}
	}
	return f, info.Size()
}

// Put keeps data under key.
func (c *Cache) Put(key string, data []byte) {
	if c == nil || int64(len(data)) > c.limit/2 {
		return
	}
	err := c.create(c.objectName(key), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		c.failed(err)
	}
}

// Drop removes what is under key, because it is not what it should be.
func (c *Cache) Drop(key string) {
	if c != nil {
		c.remove(c.objectName(key))
	}
}

func (c *Cache) remove(name string) {
	if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.failed(err)
	}
}

// Files returns the names of the files that Create made.
func (c *Cache) Files() []string {
	if c == nil {
		return nil
	}
	var names []string
	for _, f := range c.list() {
		if name, ok := strings.CutPrefix(f.name, c.scope+fileMark); ok {
			names = append(names, name)
		}
	}
	return names
}

// OpenFile opens a file that Create made, and returns its size. As long as the
// Cache is used, it does not remove it to keep to its budget. Another process
// may, which does not matter to who has it open.
func (c *Cache) OpenFile(name string) (*os.File, int64, error) {
	if c == nil {
		return nil, 0, fs.ErrNotExist
	}
	name = c.scope + fileMark + name
	f, size := c.open(name)
	if f == nil {
		return nil, 0, fs.ErrNotExist
	}
	c.mu.Lock()
	c.mu.pinned[name] = true
	c.mu.Unlock()
	return f, size, nil
}

// Create makes the file of this name, 32 hex digits, with what write writes.
// An error is not logged: it is the caller's to do without.
func (c *Cache) Create(name string, write func(io.Writer) error) error {
	if c == nil {
		return errors.ErrUnsupported
	}
	if !isHex(name, 32) {
		return fmt.Errorf("cache: %w: file name %q", fs.ErrInvalid, name)
	}
	return c.create(c.scope+fileMark+name, write)
}

// RemoveFile removes a file that Create made.
func (c *Cache) RemoveFile(name string) {
	if c == nil {
		return
	}
	name = c.scope + fileMark + name
	c.mu.Lock()
	delete(c.mu.pinned, name)
	c.mu.Unlock()
	c.remove(name)
}

// create writes a file under another name and then renames it. It is not
// flushed: what a power failure leaves does not authenticate.
func (c *Cache) create(name string, write func(io.Writer) error) error {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	temp := c.scope + tempMark + hex.EncodeToString(random[:])
	f, err := c.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n := &counter{w: f}
	w := bufio.NewWriterSize(n, 64<<10)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = c.root.Rename(temp, name)
	}
	if err != nil {
		_ = c.root.Remove(temp)
		return err
	}
	c.grow(n.n)
	return nil
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

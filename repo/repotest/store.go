// SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob/driver"
)

// object is immutable once it is in a store, so that clones can share it.
type object struct {
	data  []byte
	attrs driver.Attributes
}

// store is the world behind the buckets of all processes.
type store struct {
	mu struct {
		sync.Mutex
		objects map[string]*object
		sorted  []string // the keys in order, nil if not known
		pending []effect
		writes  int64 // makes tags unique
	}
}

func newStore() *store {
	s := &store{}
	s.mu.objects = map[string]*object{}
	return s
}

func (s *store) clone() *store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newStore()
	c.mu.objects = maps.Clone(s.mu.objects)
	c.mu.pending = slices.Clone(s.mu.pending)
	c.mu.writes = s.mu.writes
	return c
}

func (s *store) later(e effect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.pending = append(s.mu.pending, e)
}

// settle lets late effect number i land, which may be shared with a clone.
func (s *store) settle(i int) bool {
	s.mu.Lock()
	if i < 0 || i >= len(s.mu.pending) {
		s.mu.Unlock()
		return false
	}
	e := s.mu.pending[i]
	s.mu.pending = slices.Concat(s.mu.pending[:i], s.mu.pending[i+1:])
	s.mu.Unlock()
	_ = e(s, Fault{}) // nobody waits for the answer
	return true
}

// put stores o, whose data and maps must not be used by anybody else.
func (s *store) put(key string, o object, once bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	o.attrs.CreateTime = now
	if old := s.mu.objects[key]; old != nil {
		if once {
			return fmt.Errorf("repotest: put once: %w", fs.ErrExist)
		}
		o.attrs.CreateTime = old.attrs.CreateTime
	}
	s.mu.writes++
	o.attrs.ModTime = now
	o.attrs.Size = int64(len(o.data))
	o.attrs.ETag = fmt.Sprintf("\"%d\"", s.mu.writes)
	s.insert(key, &o)
	return nil
}

// insert needs the lock.
func (s *store) insert(key string, o *object) {
	if s.mu.objects[key] == nil {
		s.mu.sorted = nil
	}
	s.mu.objects[key] = o
}

func (s *store) get(key string) (*object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.mu.objects[key]
	if o == nil {
		return nil, fmt.Errorf("repotest: %w", fs.ErrNotExist)
	}
	return o, nil
}

func (s *store) remove(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.objects[key] == nil {
		return fmt.Errorf("repotest: %w", fs.ErrNotExist)
	}
	delete(s.mu.objects, key)
	s.mu.sorted = nil
	return nil
}

func (s *store) set(key string, data []byte) {
	o := object{attrs: driver.Attributes{ContentType: defaultContentType}}
	if old, err := s.get(key); err == nil {
		o.attrs = old.attrs
	}
	o.data = data
	_ = s.put(key, o, false) // without once it can not fail
}

func (s *store) flip(key string, bit int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.mu.objects[key]
	if old == nil || bit < 0 || bit/8 >= int64(len(old.data)) {
		return false
	}
	damaged := *old // rot changes neither times nor tags
	damaged.data = slices.Clone(old.data)
	damaged.data[bit/8] ^= 1 << (bit % 8)
	s.insert(key, &damaged)
	return true
}

// list returns a page of at most size entries after token.
func (s *store) list(opts *driver.ListOptions, size int) *driver.ListPage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.sorted == nil {
		s.mu.sorted = slices.Sorted(maps.Keys(s.mu.objects))
	}
	page := &driver.ListPage{}
	last := string(opts.PageToken)
	first, _ := slices.BinarySearch(s.mu.sorted, max(opts.Prefix, last))
	for _, key := range s.mu.sorted[first:] {
		rest, ok := strings.CutPrefix(key, opts.Prefix)
		if !ok {
			break // the keys with the prefix are together
		}
		o := s.mu.objects[key]
		entry := &driver.ListObject{Key: key, ModTime: o.attrs.ModTime, Size: o.attrs.Size}
		if head, _, found := strings.Cut(rest, opts.Delimiter); opts.Delimiter != "" && found {
			entry = &driver.ListObject{Key: opts.Prefix + head + opts.Delimiter, IsDir: true}
		}
		if entry.Key <= last && last != "" {
			continue
		}
		if len(page.Objects) == size {
			page.NextPageToken = []byte(last)
			break
		}
		page.Objects = append(page.Objects, entry)
		last = entry.Key
	}
	return page
}

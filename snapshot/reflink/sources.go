// SPDX-License-Identifier: Apache-2.0

package reflink

import (
	"io/fs"
	"os"
	"sync"
)

// sources opens the files of volumes, and closes them with care: when a process
// closes any descriptor of a file, POSIX drops all its record locks on that
// file, whichever descriptor took them (fcntl(2), "Advisory record locking").
// If this process also works on a database in the volume, or holds it still for
// the cut, its locks would be gone, and other processes could write. So a file
// that the process has open besides is kept open, and used again for the next
// snapshot, until nobody else here has it.
type sources struct {
	mu   sync.Mutex
	kept map[fileKey]*keptFile
}

// fileKey identifies a file of this machine.
type fileKey struct{ device, inode uint64 }

type keptFile struct {
	f     *os.File
	users int        // clones that read it now
	twins []*os.File // the same file, opened by two clones at once
}

func keyOf(fi fs.FileInfo) fileKey {
	id := identify(fi)
	return fileKey{id.device, id.inode}
}

// begin returns the files that this process has open, and closes those that
// only this sources has.
func (s *sources) begin() map[fileKey]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := openFiles()
	for key, k := range s.kept {
		if k.users == 0 && open[key] <= 1+len(k.twins) {
			for _, f := range append(k.twins, k.f) {
				_ = f.Close() // only read
			}
			delete(s.kept, key)
			delete(open, key)
		}
	}
	return open
}

// reuse returns the file if it is kept open.
func (s *sources) reuse(fi fs.FileInfo) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[keyOf(fi)]
	if k == nil {
		return nil
	}
	k.users++
	return k.f
}

// release ends the use of a file that reuse or the caller opened. open is what
// begin returned.
func (s *sources) release(f *os.File, fi fs.FileInfo, open map[fileKey]int) {
	key := keyOf(fi)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[key]
	switch {
	case k != nil && k.f == f:
		k.users--
	case open[key] == 0 || key == fileKey{}:
		_ = f.Close() // only read
	case k == nil:
		if s.kept == nil {
			s.kept = map[fileKey]*keptFile{}
		}
		s.kept[key] = &keptFile{f: f}
	default:
		k.twins = append(k.twins, f)
	}
}

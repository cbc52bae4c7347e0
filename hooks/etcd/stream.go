// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/stillpoint-go/protect/internal/durable"
)

// sector divides the size of every database. The 32 bytes of the hash that ends
// a stream do not fit: so etcd itself knows whether there is one.
const sector = 512

// stream is a snapshot on its way into a file.
type stream struct {
	dir    string
	root   *os.Root
	file   *durable.File
	from   io.ReadCloser
	newest int64 // the revision of the store when the stream had begun

	ended chan struct{} // closed when all is read, or nothing more will be
	err   error         // then
	sum   *trailer

	published bool
}

// openStream removes what is left of earlier snapshots, and begins a new one. It
// returns when the server has sent something, hence has begun to read. The
// stream lives as long as life.
func openStream(ctx, life context.Context, q *Quiescer) (_ *stream, err error) {
	s := &stream{dir: q.dir, ended: make(chan struct{}), sum: newTrailer()}
	if s.root, err = os.OpenRoot(q.dir); err != nil {
		return nil, fmt.Errorf("open the directory of the snapshot: %w", err)
	}
	dir := durable.NewDir(durable.RootFS(s.root), nil)
	defer func() {
		if err != nil {
			close(s.ended)
			s.discard()
		}
	}()
	if _, err := dir.Sweep(time.Now()); err != nil {
		return nil, err
	}
	if err := s.withdraw(); err != nil {
		return nil, err
	}
	if s.file, err = dir.NewFile(); err != nil {
		return nil, err
	}
	if s.from, err = q.client.Snapshot(life); err != nil {
		return nil, err
	}
	first := make([]byte, 32<<10)
	n, err := s.first(ctx, first)
	if err != nil {
		return nil, fmt.Errorf("the stream of the snapshot: %w", err)
	}
	go s.drain(first[:n])
	return s, nil
}

// first reads the begin of the stream, which does not know ctx.
func (s *stream) first(ctx context.Context, p []byte) (n int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = s.from.Close() })
	for n == 0 && err == nil {
		n, err = s.from.Read(p)
	}
	if !stop() {
		return 0, ctx.Err()
	}
	if n > 0 {
		return n, nil // an error comes again
	}
	return 0, err
}

// drain reads the rest of the stream.
func (s *stream) drain(first []byte) {
	defer close(s.ended)
	to := io.MultiWriter(s.file, s.sum)
	_, err := to.Write(first)
	if err == nil {
		_, err = io.Copy(to, s.from)
	}
	if err == nil {
		err = s.sum.check()
	}
	s.err = err
}

// failed returns why the stream has failed, if it has.
func (s *stream) failed() error {
	select {
	case <-s.ended:
		return s.err
	default:
		return nil
	}
}

// wait waits for the end of the stream.
func (s *stream) wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("the snapshot is not complete: %w", context.Cause(ctx))
	}
}

// publish waits for the end of the stream and gives the file its name, if it is
// what it should be. On error the caller withdraws it.
func (s *stream) publish(ctx context.Context, oldest int64, info *Info) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.published = true
	if err := s.file.Replace(SnapshotFile); err != nil {
		return err
	}
	db, err := s.read()
	if err != nil {
		return err
	}
	if rev := db.revision(); rev < oldest || rev > s.newest {
		return inconsistent("the snapshot is of revision %d, and was taken between %d and %d: it is of another member", rev, oldest, s.newest)
	}
	info.Method, info.Revision, info.LastRevision = MethodSnapshot, db.revision(), db.revision()
	info.Size, info.SHA256 = s.sum.size, hex.EncodeToString(s.sum.tail)
	return nil
}

func (s *stream) read() (db *database, err error) {
	f, err := s.root.Open(SnapshotFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readDatabase(f, s.sum.size-sha256.Size)
}

// withdraw removes the file under its final name.
func (s *stream) withdraw() error {
	return durable.RemoveFile(filepath.Join(s.dir, SnapshotFile))
}

// discard ends the stream, whose context has ended, and removes what is not
// finished.
func (s *stream) discard() {
	if s.from != nil {
		_ = s.from.Close()
	}
	<-s.ended
	if s.file != nil && !s.published {
		s.file.Discard()
	}
	_ = s.root.Close()
}

// trailer checks the hash that ends a stream: that of all before it.
type trailer struct {
	sum  hash.Hash
	tail []byte // what may be the hash
	size int64  // with the hash
}

func newTrailer() *trailer { return &trailer{sum: sha256.New()} }

// Write implements io.Writer.
func (t *trailer) Write(p []byte) (int, error) {
	n := len(p)
	t.size += int64(n)
	if n >= sha256.Size {
		t.sum.Write(t.tail)
		t.sum.Write(p[:n-sha256.Size])
		t.tail = append(t.tail[:0], p[n-sha256.Size:]...)
		return n, nil
	}
	t.tail = append(t.tail, p...)
	if over := len(t.tail) - sha256.Size; over > 0 {
		t.sum.Write(t.tail[:over])
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
	return n, nil
}

func (t *trailer) check() error {
	if t.size%sector != sha256.Size || t.size < 2*sector {
		return inconsistent("the snapshot of %d bytes does not end with a hash: it is cut short, or a copy of a database file", t.size)
	}
	if !bytes.Equal(t.sum.Sum(nil), t.tail) {
		return inconsistent("the snapshot of %d bytes has another SHA-256 than the one it ends with", t.size)
	}
	return nil
}

// checkFile reads a snapshot, and returns its size and its SHA-256.
func checkFile(ctx context.Context, name string) (size int64, sum string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, "", fmt.Errorf("%w: no snapshot: %w", ErrInconsistent, err)
	}
	defer f.Close()
	t := newTrailer()
	if _, err := io.Copy(t, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.Read(p)
	})); err != nil {
		return 0, "", err
	}
	return t.size, hex.EncodeToString(t.tail), t.check()
}

type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stillpoint-go/protect/internal/durable"
)

// Keeper stores the WAL of backups. A copy is worthless without the segments
// from the start to the end of its backup, so that they have to be kept for as
// long as the recovery point.
type Keeper interface {
	// Keep stores one WAL segment under its name and returns when it is safe
	// against a power failure. It must read all of content, which has size
	// bytes, usually 16 MiB. A segment that is there already must have the same
	// content: if not, it is that of another server, or of a restored one that
	// went its own way, and older points need it; Keep must then fail and leave
	// it alone. It is called from Thaw, in the freeze window, for one segment
	// after another.
	Keep(ctx context.Context, name string, size int64, content io.Reader) error
}

// Directory keeps WAL segments as files of one directory, which must exist.
// It is the caller's to protect and to clear: by copying it, or because it is on
// other storage than the server. Staging needs neither. PrepareRestore reads it
// through os.DirFS.
type Directory string

// Keep implements Keeper. Content that differs from that of an existing file is
// an error that matches fs.ErrExist.
func (d Directory) Keep(ctx context.Context, name string, size int64, content io.Reader) (err error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return fmt.Errorf("postgres: open directory for WAL: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	old, err := root.Open(name)
	switch {
	case err == nil:
		err = errors.Join(same(old, content, name), old.Sync(), old.Close())
	case errors.Is(err, fs.ErrNotExist):
		err = create(ctx, root, name, size, content)
	}
	if err != nil {
		return fmt.Errorf("postgres: keep WAL: %w", err)
	}
	return nil
}

// Staging keeps WAL segments as Directory does, in a directory that is itself a
// volume of the application, cut after the thaw (Volume.AfterThaw): so each
// recovery point holds the WAL that it needs. Prepare removes the segments of
// earlier points from it. It belongs to one application, and nothing else is to
// be kept there. PrepareRestore reads the restored volume through os.DirFS.
type Staging string

// Keep implements Keeper, as Directory does.
func (d Staging) Keep(ctx context.Context, name string, size int64, content io.Reader) error {
	return Directory(d).Keep(ctx, name, size, content)
}

// clear removes all segments.
func (d Staging) clear() error {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		if e.Type().IsRegular() && isSegment(e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(string(d), e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("postgres: clear the WAL of earlier points: %w", err)
	}
	return nil
}

// same compares a file with content.
func same(file, content io.Reader, name string) error {
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err1 := io.ReadFull(file, a)
		m, err2 := io.ReadFull(content, b)
		for _, err := range []error{err1, err2} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("segment %s is there with other content, of another server or of another history of this one: %w", name, fs.ErrExist)
		}
		if n < len(a) {
			return nil
		}
	}
}

// create writes a file that nobody sees before it is complete.
func create(ctx context.Context, root *os.Root, name string, size int64, content io.Reader) error {
	f, err := durable.NewDir(durable.RootFS(root), nil).NewFile()
	if err != nil {
		return err
	}
	n, err := io.Copy(f, content)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		f.Discard()
		return err
	}
	return f.Create(name)
}

// Archive is the Keeper for servers that archive their WAL themselves
// (archive_mode is on). Thaw waits until the server says that the archive has
// the WAL of the backup, which takes as long as archive_command or
// archive_library does, within the freeze window. A restore needs
// RestoreOptions.RestoreCommand, or the segments out of the archive.
type Archive struct{}

// Keep implements Keeper and is never called.
func (Archive) Keep(context.Context, string, int64, io.Reader) error {
	return fmt.Errorf("postgres: the server archives by itself: %w", errors.ErrUnsupported)
}

// readChunk is how much of a segment is read with one query.
const readChunk = 4 << 20

// segmentReader reads a file of the server's pg_wal through a session.
type segmentReader struct {
	ctx  context.Context //nolint:containedctx // lives as long as the call of Keep
	s    *session
	info *Info
	name string
	off  int64
	buf  []byte
}

// Read implements io.Reader.
func (r *segmentReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		if r.off >= r.info.SegmentSize {
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, fmt.Errorf("read WAL segment %s: %w", r.name, err)
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// fill reads the next chunk.
func (r *segmentReader) fill() error {
	n := min(readChunk, r.info.SegmentSize-r.off)
	err := r.s.conn.QueryRowContext(r.ctx, "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, false)", walDir+"/"+r.name, r.off, n).Scan(&r.buf)
	if err != nil {
		return err
	}
	if int64(len(r.buf)) != n {
		return fmt.Errorf("%d bytes at %d instead of %d: %w", len(r.buf), r.off, n, io.ErrUnexpectedEOF)
	}
	if r.off == 0 {
		if err := checkSegment(r.buf, r.name, r.info); err != nil {
			return err
		}
	}
	r.off += n
	return nil
}

// keepSegments hands the WAL of a backup to the keeper.
func keepSegments(ctx context.Context, s *session, keep Keeper, info *Info) error {
	for name := range segments(info.Timeline, info.Start, info.Stop, info.SegmentSize) {
		r := &segmentReader{ctx: ctx, s: s, info: info, name: name}
		if err := keep.Keep(ctx, name, info.SegmentSize, r); err != nil {
			return fmt.Errorf("keep WAL segment %s: %w", name, err)
		}
		if r.off < info.SegmentSize || len(r.buf) > 0 {
			return fmt.Errorf("keep WAL segment %s: the keeper did not read all of it: %w", name, io.ErrShortWrite)
		}
	}
	return nil
}

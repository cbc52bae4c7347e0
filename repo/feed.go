// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"io"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// readFile stores the content of f, which had size bytes when it was opened
// and may have less by now.
func (p *pager) readFile(f fileReader, size int64, sparse bool) error {
	seg := segment{0, size}
	if sparse {
		seg = segment{}
	}
	for p.off < size {
		if p.off >= seg.end {
			seg = nextSegment(f, p.off, size)
		}
		v := p.next(min(region, size-p.off))
		if skip := seg.off - p.off; seg.off == size || skip >= region {
			if seg.off < size {
				skip -= skip % region
			}
			if err := p.hole(skip); err != nil {
				return err
			}
			continue
		}
		short, err := p.fill(f, v, &seg, size)
		if err != nil {
			return err
		}
		if len(v.data) > 0 {
			if err := p.region(v); err != nil {
				return err
			}
		}
		if short {
			return nil
		}
	}
	return nil
}

// fileReader is what a file offers. Seek is asked for holes.
type fileReader interface {
	io.ReaderAt
	io.Seeker
}

// fill reads the parts of a region that hold data. It reports whether the file
// is shorter than it was, and then shortens the region.
func (p *pager) fill(f fileReader, v *view, seg *segment, size int64) (short bool, err error) {
	end := v.off + int64(len(v.data))
	if seg.off > v.off || seg.end < end {
		clear(v.data)
		for i := range v.pages() {
			v.state[i] = hole
		}
	}
	for at := v.off; at < end; at = seg.end {
		if at >= seg.end {
			*seg = nextSegment(f, at, size)
		}
		from, to := max(at, seg.off), min(end, seg.end)
		if from >= end {
			break
		}
		n, err := f.ReadAt(v.data[from-v.off:to-v.off], from)
		p.w.bytes.Add(int64(n))
		for i := int(from-v.off) / ondisk.PageSize; i < pagesIn(int(from-v.off)+n); i++ { // within a region
			v.state[i] = changed
		}
		if int64(n) < to-from {
			if err == nil || errors.Is(err, io.EOF) {
				v.data = v.data[:from-v.off+int64(n)]
				return true, nil
			}
			return false, err
		}
	}
	return false, nil
}

// maxEmptyReads in a row mean that a reader is broken, as in package bufio.
const maxEmptyReads = 100

// readStream stores all that r returns.
func (p *pager) readStream(r io.Reader) error {
	for eof := false; !eof; {
		v := p.next(region)
		n, empty := 0, 0
		for n < region && !eof {
			if err := context.Cause(p.ctx); err != nil {
				return err
			}
			k, err := r.Read(v.data[n:])
			n += k
			if empty++; k > 0 {
				empty = 0
			}
			switch {
			case err == io.EOF:
				eof = true
			case err != nil:
				return err
			case empty == maxEmptyReads:
				return io.ErrNoProgress
			}
		}
		p.w.bytes.Add(int64(n))
		if v.data = v.data[:n]; n == 0 {
			return nil
		}
		if err := p.region(v); err != nil {
			return err
		}
	}
	return nil
}

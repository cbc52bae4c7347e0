// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// newestPage returns the newest change that any page of the data files knows,
// and how many pages it has looked at. PostgreSQL writes a page only after the
// WAL up to that change, so that files with a newer page than the WAL has were
// not cut together with it.
func newestPage(ctx context.Context, dir string, blockSize int64) (newest LSN, pages int64, err error) {
	p := &pageScan{ctx: ctx, block: make([]byte, blockSize)}
	roots := []string{filepath.Join(dir, "base"), filepath.Join(dir, "global")}
	spaces, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*", "PG_*"))
	if err != nil {
		return 0, 0, err
	}
	for _, root := range append(roots, spaces...) {
		if err := filepath.WalkDir(root, p.visit); err != nil {
			return 0, 0, err
		}
	}
	return p.newest, p.pages, nil
}

type pageScan struct {
	ctx    context.Context //nolint:containedctx // lives as long as the walk
	block  []byte
	newest LSN
	pages  int64
}

func (p *pageScan) visit(name string, d fs.DirEntry, err error) error {
	if err := errors.Join(err, p.ctx.Err()); err != nil {
		return err
	}
	if !d.Type().IsRegular() || !isRelation(d.Name()) {
		return nil
	}
	// What has an init fork is unlogged: its pages count in another way, and
	// the recovery empties it.
	node, _, _ := strings.Cut(d.Name(), ".")
	if _, err := os.Lstat(filepath.Join(filepath.Dir(name), node+"_init")); err == nil {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.scan(f)
}

// isRelation says whether a file is the main fork of a relation.
func isRelation(name string) bool {
	node, part, _ := strings.Cut(name, ".")
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	return node != "" && digits(node) && digits(part)
}

const (
	pageVersion = 4  // of the layout, since PostgreSQL 8.3
	pageSizeAt  = 18 // size and version of the layout
)

func (p *pageScan) scan(r io.Reader) error {
	for {
		if _, err := io.ReadFull(r, p.block); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // half a page at the end is cut off by the recovery
		} else if err != nil {
			return err
		}
		order := binary.ByteOrder(binary.LittleEndian)
		want := uint16(len(p.block)) | pageVersion
		if order.Uint16(p.block[pageSizeAt:]) != want {
			if order = binary.BigEndian; order.Uint16(p.block[pageSizeAt:]) != want {
				continue // empty, or for others to judge
			}
		}
		p.pages++
		p.newest = max(p.newest, LSN(order.Uint32(p.block))<<32|LSN(order.Uint32(p.block[4:])))
	}
}

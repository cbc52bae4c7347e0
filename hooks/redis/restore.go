// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// RestoreOptions are what PrepareRestore may need to know.
type RestoreOptions struct {
	// Owner is the user that the server runs as. The files become his; that
	// takes root. Nil leaves the owners alone.
	Owner *Owner
}

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// PrepareRestore makes the restored data directory fit to be started: it checks
// that the files which the server will load are there and are those of the
// evidence, as far as their names and sizes tell, and removes what a child of
// the server had not finished. dir is what the setting dir of the server was.
//
// Files that do not fit are an error that matches ErrInconsistent, and are not
// changed. It is idempotent, until the server is started.
func PrepareRestore(ctx context.Context, dir string, evidence hooks.Evidence, opts *RestoreOptions) (*Info, error) {
	info, err := ParseEvidence(evidence)
	if err == nil {
		_, err = checkFiles(dir, info)
	}
	if err == nil {
		err = removeTemporary(ctx, dir)
	}
	if err == nil && opts != nil && opts.Owner != nil {
		err = program.Give(ctx, dir, program.Owner(*opts.Owner))
	}
	if err != nil {
		return nil, fmt.Errorf("redis: prepare restore: %w", err)
	}
	return info, nil
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// files are what a server will load.
type files struct {
	manifest string   // empty if there is none
	rdb      string   // empty with an AOF
	aof      []string // the base first
	bytes    int64
	last     int64 // of them in the last file
}

// checkFiles looks for the files that the server will load.
func checkFiles(dir string, info *Info) (*files, error) {
	found := new(files)
	switch {
	case !info.AppendOnly:
		found.rdb = filepath.Join(dir, info.DBFilename)
		return found, found.add(found.rdb)
	case info.AppendDir == "":
		found.aof = []string{filepath.Join(dir, info.AppendFilename)}
		return found, found.add(found.aof[0])
	}
	place := filepath.Join(dir, info.AppendDir)
	found.manifest = filepath.Join(place, info.AppendFilename+".manifest")
	names, err := readManifest(found.manifest)
	if err != nil {
		return nil, err
	}
	var base int64
	for i, name := range names {
		path := filepath.Join(place, name)
		found.aof = append(found.aof, path)
		if err := found.add(path); err != nil {
			return nil, err
		}
		if i == 0 {
			base = found.bytes
		}
	}
	if got, least, most := found.bytes, info.AOFLeast, info.AOFMost; got < least || most > 0 && got-base > most || least == most && least > 0 && got != least && got-base != least {
		return nil, inconsistent("the AOF has %d bytes, %d of them in its base; the server said between %d and %d", got, base, least, most)
	}
	return found, nil
}

// add counts a file, which must not be a link to somewhere else.
func (f *files) add(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	if !info.Mode().IsRegular() {
		return inconsistent("%q is not a regular file", path)
	}
	f.last = info.Size()
	f.bytes += f.last
	return nil
}

// maxManifest bounds what is read of a manifest, in bytes. It has a line for
// each file, and they are a handful.
const maxManifest = 1 << 20

// readManifest returns the names of the files of an AOF, the base first.
func readManifest(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	var base string
	var incr []string
	last := int64(0)
	for line := range strings.Lines(string(b)) {
		name, seq, kind, err := manifestLine(strings.TrimSuffix(line, "\n"))
		switch {
		case err != nil:
			return nil, err
		case kind == "b" && base == "":
			base = name
		case kind == "i" && seq > last:
			incr, last = append(incr, name), seq
		case kind == "h" || kind == "":
		default:
			return nil, inconsistent("the manifest has files out of order: %.200q", line)
		}
	}
	if base == "" || !strings.HasSuffix(string(b), "\n") {
		return nil, inconsistent("the manifest of %d bytes names no base file, or is cut off", len(b))
	}
	return append([]string{base}, incr...), nil
}

// manifestLine reads "file NAME seq N type T". A comment has no type.
func manifestLine(line string) (name string, seq int64, kind string, err error) {
	if strings.HasPrefix(line, "#") {
		return "", 0, "", nil
	}
	rest, ok := strings.CutPrefix(line, "file ")
	if quoted, unquoted := strconv.QuotedPrefix(rest); unquoted == nil {
		name, err = strconv.Unquote(quoted)
		rest = rest[len(quoted):]
	} else {
		name, _, _ = strings.Cut(rest, " ")
		rest = rest[len(name):]
	}
	n, scanned := fmt.Sscanf(rest, " seq %d type %1s", &seq, &kind)
	if !ok || err != nil || scanned != nil || n != 2 || name == "" || name == "." || name == ".." || name != filepath.Base(name) {
		return "", 0, "", inconsistent("the manifest has a line that makes no sense: %.200q", line)
	}
	return name, seq, kind, nil
}

// removeTemporary removes what children of the server had not finished.
func removeTemporary(ctx context.Context, dir string) error {
	for _, pattern := range []string{"temp-*.rdb", "temp-*.aof", "*/temp-*.manifest", "*/temp-*.aof", "*/temp-*.incr"} {
		names, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := errors.Join(ctx.Err(), os.Remove(filepath.Join(dir, filepath.FromSlash(name)))); err != nil {
				return err
			}
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/internal/innodb"
	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// RestoreOptions are what PrepareRestore may need to know.
type RestoreOptions struct {
	// Dirs say where each of Info.Dirs was restored to, by the same names, as
	// the server will see it. All have to be named, so that a restored server
	// never opens the files of the original by accident.
	Dirs map[string]string
	// Owner is the user that the server runs as. The files become his; that
	// takes root. Nil leaves the owners alone.
	Owner *Owner
}

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// uuidFile has the UUID of a server.
const uuidFile = "auto.cnf"

// PrepareRestore makes the restored data directory fit to be started: it checks
// that the files are those of the server in the evidence, with its binary log,
// removes what belongs to statements that were under way, as far as the server
// does not need it to clean up by itself, and deletes auto.cnf: the restored
// server gets a UUID of its own. The directory gets the mode 0700.
//
// Files that do not fit are an error that matches ErrInconsistent, and are not
// changed. It succeeds once: without auto.cnf nobody can say whose files they are.
func PrepareRestore(ctx context.Context, dir string, evidence hooks.Evidence, opts *RestoreOptions) (*Info, error) {
	r := &restoring{dir: dir}
	if opts != nil {
		r.opts = *opts
	}
	var err error
	if r.info, err = ParseEvidence(evidence); err != nil {
		return nil, err
	}
	r.info.restored = maps.Clone(r.opts.Dirs)
	for _, step := range []func(context.Context) error{r.checkOptions, r.checkIdentity, r.checkFiles, r.own, r.clean} {
		if err := errors.Join(ctx.Err(), step(ctx)); err != nil {
			return nil, fmt.Errorf("mysql: prepare restore: %w", err)
		}
	}
	return r.info, nil
}

// restoring is one restore at work.
type restoring struct {
	dir  string
	info *Info
	opts RestoreOptions
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// checkOptions checks that the caller said what is needed.
func (r *restoring) checkOptions(context.Context) error {
	for name, was := range r.info.Dirs {
		if !filepath.IsAbs(r.opts.Dirs[name]) {
			return fmt.Errorf("RestoreOptions.Dirs has no absolute path for %s, which was at %q", name, was)
		}
	}
	for name := range r.opts.Dirs {
		if _, ok := r.info.Dirs[name]; !ok {
			return fmt.Errorf("RestoreOptions.Dirs has %q, which the server had in its data directory, or not at all", name)
		}
	}
	return nil
}

// in returns where a setting leads to.
func (i *Info) in(dir, setting string) string {
	if p := i.restored[setting]; p != "" {
		return p
	}
	return dir
}

// checkIdentity compares the UUID of the server.
func (r *restoring) checkIdentity(context.Context) error {
	f, err := os.Open(filepath.Join(r.dir, uuidFile))
	if err != nil {
		return fmt.Errorf("%w: this is no data directory, or was prepared already: %w", ErrInconsistent, err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if strings.TrimSpace(name) != "server-uuid" {
			continue
		}
		if value = strings.TrimSpace(value); value != r.info.ServerUUID {
			return inconsistent("the files are of server %.40q, and the evidence of %.40q", value, r.info.ServerUUID)
		}
		return nil
	}
	return inconsistent("%s has no server-uuid", uuidFile)
}

// checkFiles checks what every server has, and the binary log.
func (r *restoring) checkFiles(context.Context) error {
	if err := innodb.Foreign(r.dir); err != nil {
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "mysql.ibd")); err != nil {
		return fmt.Errorf("%w: data dictionary: %w", ErrInconsistent, err)
	}
	if r.info.BinlogFile == "" {
		return nil
	}
	info, err := os.Stat(filepath.Join(r.info.in(r.dir, innodb.LogBin), r.info.BinlogFile))
	if err != nil {
		return fmt.Errorf("%w: binary log: %w", ErrInconsistent, err)
	}
	if info.Size() < r.info.BinlogPos {
		return inconsistent("the binary log %s has %d bytes, and the evidence %d", r.info.BinlogFile, info.Size(), r.info.BinlogPos)
	}
	return nil
}

// own gives the files the owner and the mode that the server wants to see.
func (r *restoring) own(ctx context.Context) error {
	if o := r.opts.Owner; o != nil {
		for _, root := range append(slices.Collect(maps.Values(r.opts.Dirs)), r.dir) {
			if err := program.Give(ctx, root, program.Owner(*o)); err != nil {
				return err
			}
		}
	}
	return os.Chmod(r.dir, 0o700)
}

// clean removes what belongs to the server that was copied. What says whose files
// these are goes last.
func (r *restoring) clean(context.Context) error {
	if err := innodb.RemoveLeftovers(r.dir); err != nil {
		return err
	}
	return os.Remove(filepath.Join(r.dir, uuidFile))
}

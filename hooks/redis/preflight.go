// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// The oldest major versions of Redis: of AOF files that survive a crash of the
// server in any state, and of those that are several files, of counters of
// subcommands and of rules for them.
const (
	oldestAtomic = 6
	oldestPaused = 7
)

// check returns what makes the server unfit at this moment. It is cheap, and
// asked again before and after each cut.
func (c *client) check(srv *server, set settings, oldest int) []error {
	var errs []error
	unsafe := func(why string) { errs = append(errs, fmt.Errorf("%w: %s", ErrUnsafe, why)) }
	if srv.major < oldest {
		errs = append(errs, fmt.Errorf("the server is compatible with Redis %d.%d, the oldest that is supported here is %d: %w", srv.major, srv.minor, oldest, errors.ErrUnsupported))
	}
	if !srv.master {
		errs = append(errs, fmt.Errorf("the server is a replica, protect its primary: %w", errors.ErrUnsupported))
	}
	if srv.loading {
		unsafe("the server is loading its data")
	}
	switch {
	case srv.aof && !srv.writeOK:
		unsafe("the last write of the AOF failed (aof_last_write_status): see the log of the server")
	case srv.aof && !srv.rewriteOK:
		unsafe("the last rewrite of the AOF failed (aof_last_bgrewrite_status): see the log of the server")
	case !srv.aof && set.save == "":
		unsafe("persistence is off (appendonly no, and save is empty): nothing is on disk")
	case !srv.aof && !srv.saveOK:
		unsafe("the last save failed (rdb_last_bgsave_status): see the log of the server")
	}
	return errs
}

// checkVolumes returns an error if the data directory is in no volume.
func (c *client) checkVolumes(set settings) error {
	if len(c.opts.Volumes) == 0 {
		return nil
	}
	dir := path.Clean(set.dir)
	for _, v := range c.opts.Volumes {
		if dir == v || strings.HasPrefix(dir, strings.TrimSuffix(v, "/")+"/") {
			return nil
		}
	}
	return fmt.Errorf("%w: dir %q is in no protected volume", ErrUnsafe, set.dir)
}

// preflight asks for everything that is needed and does not change anything.
func (c *client) preflight(ctx context.Context, oldest int) (*server, []error) {
	srv, err := c.server(ctx)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, []error{err}
	}
	errs := []error{err}
	set, err := c.settings(ctx)
	errs = append(errs, err)
	if errors.Join(errs...) == nil {
		errs = append(errs, c.check(srv, set, oldest)...)
		errs = append(errs, c.checkVolumes(set))
	}
	return srv, errs
}

// allowed tries a command with an argument that it refuses: the server looks at
// the permission first.
func (c *client) allowed(ctx context.Context, args ...any) error {
	if _, err := c.do(ctx, args...); errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// Prepare implements hooks.Preparer: it checks the server, its settings and the
// permissions, and lets a server without AOF save, unless Options.NoSave is set.
// Its error joins everything that is wrong, and matches fs.ErrPermission for
// missing permissions, ErrUnsafe, and errors.ErrUnsupported for a replica or an
// old server.
func (q *Atomic) Prepare(ctx context.Context) error {
	srv, errs := q.preflight(ctx, oldestAtomic)
	if srv != nil && !srv.aof && !q.opts.NoSave {
		errs = append(errs, q.allowed(ctx, "BGSAVE", "?"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("redis: prepare: %w", err)
	}
	if srv.aof || q.opts.NoSave {
		return nil
	}
	if _, err := q.save(ctx); err != nil {
		return fmt.Errorf("redis: prepare: %w", err)
	}
	return nil
}

// Prepare implements hooks.Preparer: it checks the server, its settings and the
// permissions, and waits for a rewrite of the AOF that is running or due. Its
// error joins everything that is wrong, and matches fs.ErrPermission for missing
// permissions, ErrUnsafe, errors.ErrUnsupported for a replica or an old server,
// and hooks.ErrForeignFreeze if somebody has paused writes.
func (q *Paused) Prepare(ctx context.Context) error {
	srv, errs := q.preflight(ctx, oldestPaused)
	errs = append(errs, q.allowed(ctx, "CLIENT", "PAUSE", "1", "?"))
	if srv == nil || !srv.aof {
		errs = append(errs, q.allowed(ctx, "BGSAVE", "?"))
	}
	switch err := q.writable(ctx); {
	case err != nil:
		errs = append(errs, err)
	case !q.live.any():
		// Nobody has paused: this is to know that it is allowed.
		_, err := q.do(ctx, "CLIENT", "UNPAUSE")
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("redis: prepare: %w", err)
	}
	if _, _, err := q.calm(ctx); err != nil {
		return fmt.Errorf("redis: prepare: wait for a rewrite: %w", err)
	}
	return nil
}

// save lets the server save and waits until it has: all writes before the call
// are in the file.
func (c *client) save(ctx context.Context) (*server, error) {
	began, err := c.beginSave(ctx)
	if err != nil {
		return nil, err
	}
	return c.poll(ctx, func(s *server) (bool, error) {
		switch {
		case s.runID != began.runID:
			return false, errors.New("the server was restarted")
		case s.saving:
			return false, nil
		case !s.saveOK:
			return false, fmt.Errorf("%w: BGSAVE failed: see the log of the server", ErrUnsafe)
		}
		return true, nil
	})
}

// beginSave begins a save: one that runs already may have begun before the last
// write.
func (c *client) beginSave(ctx context.Context) (*server, error) {
	for {
		idle, err := c.poll(ctx, func(s *server) (bool, error) { return !s.busy(), nil })
		if err != nil {
			return nil, err
		}
		_, refused := c.do(ctx, "BGSAVE")
		if refused == nil {
			return idle, nil
		}
		// The server may have begun a save of its own in between.
		if now, err := c.server(ctx); err != nil || !now.busy() {
			return nil, errors.Join(refused, err)
		}
	}
}

const (
	// channel is what is published to. Nobody listens.
	channel = "protect:probe"
	// patience is how long a message may take before writes are thought to be
	// paused.
	patience = time.Second
)

// writable returns nil if writes are not paused. A message is no write, but is
// held back like one; if it is refused, the error is that of the server.
func (c *client) writable(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.do(short, "PUBLISH", channel, "")
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w: writes are paused: %w", hooks.ErrForeignFreeze, err)
	}
	return err
}

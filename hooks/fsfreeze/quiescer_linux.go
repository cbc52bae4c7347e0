// SPDX-License-Identifier: Apache-2.0

package fsfreeze

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/internal/watchdog"
)

// patience is how long Prepare waits for another freeze of the file system, by
// somebody who uses this package, to end.
const patience = 10 * time.Second

// goodbye is how long a quiesce that failed waits for the watchdog to thaw.
// In the kernel a freeze under way cannot be interrupted.
const goodbye = 2 * time.Second

// Quiescer freezes one file system. It is safe for concurrent use.
type Quiescer struct {
	path string
	opts Options

	mu   sync.Mutex
	live *hold // the newest freeze of this process, until it has ended
}

// New returns a quiescer for the file system that is mounted at mountpoint. It
// looks at nothing yet: Prepare and Quiesce do, each time.
func New(mountpoint string, opts *Options) (*Quiescer, error) {
	o, err := opts.check()
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(mountpoint) {
		return nil, fmt.Errorf("fsfreeze: mount point %q is not an absolute path", mountpoint)
	}
	o.Logger = o.Logger.Named("fsfreeze").With("mountpoint", mountpoint)
	return &Quiescer{path: filepath.Clean(mountpoint), opts: o}, nil
}

// Traits implements hooks.Quiescer: a persistent freeze of a file system.
func (q *Quiescer) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Persistent, Scope: hooks.Filesystem}
}

// Describe says what the quiescer runs and touches, for package hooks/lint.
func (q *Quiescer) Describe() hooks.Description {
	return hooks.Description{Filesystem: q.path, Helper: slices.Clone(q.opts.Helper)}
}

// Prepare implements hooks.Preparer: it checks that the file system may and
// can be frozen, and writes its dirty data to the device, so that the freeze
// has little left to do. Missing privileges wrap fs.ErrPermission. It waits up
// to ten seconds for another freeze under way, and then fails with an error
// that wraps hooks.ErrForeignFreeze.
func (q *Quiescer) Prepare(ctx context.Context) error {
	dir, _, err := q.open()
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := watchdog.Lock(ctx, dir); err != nil {
		return fmt.Errorf("fsfreeze: lock %q: %w", q.path, translate(err))
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("fsfreeze: syncfs %q: %w", q.path, err)
	}
	return nil
}

// open opens the mount point and checks it.
func (q *Quiescer) open() (*os.File, uint64, error) {
	dir, err := os.Open(q.path)
	if err != nil {
		return nil, 0, fmt.Errorf("fsfreeze: %w", err)
	}
	device, err := q.check(dir)
	if err != nil {
		return nil, 0, errors.Join(err, dir.Close())
	}
	return dir, device, nil
}

// check refuses what must not or cannot be frozen.
func (q *Quiescer) check(dir *os.File) (device uint64, err error) {
	m, err := mountOf(dir)
	if err != nil {
		return 0, err
	}
	real, err := filepath.EvalSymlinks(q.path)
	if err != nil {
		return 0, fmt.Errorf("fsfreeze: %w", err)
	}
	if m.point != real {
		return 0, fmt.Errorf("fsfreeze: %q is no mount point, it lies on %q: %w", q.path, m.point, errors.ErrUnsupported)
	}
	if reason, ok := unfreezable[m.kind]; ok {
		return 0, fmt.Errorf("fsfreeze: %q is %s, %s: %w", q.path, m.kind, reason, errors.ErrUnsupported)
	}
	if m.root != "/" {
		// The freeze would hit the rest of it too, be it the disk of the host,
		// and the lock would be another one than that of who freezes the whole.
		return 0, fmt.Errorf("fsfreeze: %q shows only %q of its file system, use the place where all of it is mounted: %w", q.path, m.root, errors.ErrUnsupported)
	}
	root, err := mountOfPath("/")
	if err != nil {
		return 0, err
	}
	if m.device == root.device {
		return 0, fmt.Errorf("fsfreeze: %q is the root file system: %w", q.path, errors.ErrUnsupported)
	}
	for _, path := range q.opts.Outside {
		other, err := mountOfPath(path)
		if err != nil {
			return 0, err
		}
		if m.device == other.device {
			return 0, fmt.Errorf("fsfreeze: %q lies on %q, which is to be frozen: %w", path, q.path, errors.ErrUnsupported)
		}
	}
	if err := mayFreeze(); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("fsfreeze: stat %q: %w", q.path, err)
	}
	return st.Dev, nil
}

// Quiesce implements hooks.Quiescer. A freeze of somebody else is an error
// that wraps hooks.ErrForeignFreeze; one that was made through this package is
// waited for until ctx ends. When ctx ends while the kernel freezes,
// Quiesce waits up to two seconds for the watchdog to undo that; the watchdog
// does it also later.
func (q *Quiescer) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("fsfreeze: %w", err)
	}
	// Open before the freeze, for the case that the watchdog dies.
	dir, device, err := q.open()
	if err != nil {
		return nil, err
	}
	client, err := watchdog.Arm(ctx, q.opts.Helper, q.opts.Env, watchdog.Spec{
		Window: req.Window, Path: q.path, Device: device,
	}, dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fsfreeze: %w", translate(err)), dir.Close())
	}
	if err := client.Freeze(ctx); err != nil {
		client.Close()
		return nil, errors.Join(q.failed(ctx, client, dir, err), dir.Close())
	}
	h := &hold{q: q, epoch: req.Epoch, device: device, dir: dir, client: client, ended: make(chan struct{})}
	q.mu.Lock()
	q.live = h
	q.mu.Unlock()
	// Not ctx: the hold outlives it.
	go h.guard(context.WithoutCancel(ctx))
	return h, nil
}

// failed undoes a freeze that may come yet, and explains it.
func (q *Quiescer) failed(ctx context.Context, client *watchdog.Client, dir *os.File, err error) error {
	timer := time.NewTimer(goodbye)
	defer timer.Stop()
	select {
	case <-client.Gone():
	case <-timer.C:
		return fmt.Errorf("fsfreeze: freeze %q: %w; the watchdog still waits for the kernel and will thaw", q.path, err)
	}
	if errors.Is(err, watchdog.ErrDead) || errors.Is(client.LastWord(context.WithoutCancel(ctx)), watchdog.ErrDead) {
		// It may have died after the freeze and before its reply.
		err = errors.Join(err, thawOwn(dir))
	}
	return fmt.Errorf("fsfreeze: freeze %q: %w", q.path, translate(err))
}

// thawOwn thaws a file system whose watchdog is dead. That somebody else has
// the lock says that it had thawed: it gives the lock up only then.
func thawOwn(dir *os.File) error {
	if ours, err := watchdog.TryLock(dir); !ours {
		return err
	}
	if err := watchdog.ThawFS(dir); err != nil && !errors.Is(err, watchdog.ErrNotFrozen) {
		return err
	}
	return nil
}

// translate maps the errors of the watchdog to the public ones.
func translate(err error) error {
	for _, pair := range [][2]error{
		{watchdog.ErrBusy, hooks.ErrForeignFreeze},
		{watchdog.ErrLocked, hooks.ErrForeignFreeze},
		{watchdog.ErrLost, hooks.ErrHoldLost},
		{watchdog.ErrDead, hooks.ErrHoldLost},
		{watchdog.ErrUnsupported, errors.ErrUnsupported},
		{watchdog.ErrDenied, fs.ErrPermission},
	} {
		if errors.Is(err, pair[0]) {
			return fmt.Errorf("%w: %w", pair[1], err)
		}
	}
	return err
}

// ended notes that a freeze is over.
func (q *Quiescer) ended(h *hold) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.live == h {
		q.live = nil
	}
}

// Recover implements hooks.Recoverer: it thaws the file system, unless a newer
// freeze of this quiescer is in force. It does not look at Options.Outside, so
// that it works when Prepare would not.
//
// It waits for a watchdog that has not ended, half of the time that ctx leaves.
// If that one does not end, because it is stopped or because another process
// holds a freeze, Recover thaws all the same and returns an error: whoever
// comes late must have gone before the next freeze.
func (q *Quiescer) Recover(ctx context.Context, epoch hooks.Epoch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("fsfreeze: %w", err)
	}
	q.mu.Lock()
	h := q.live
	q.mu.Unlock()
	if h != nil && h.epoch > epoch {
		return nil
	}
	if h != nil {
		// Its watchdog must end too, or it would thaw the next freeze.
		if err := h.revoke(ctx); err != nil {
			return err
		}
	}
	dir, err := os.Open(q.path)
	if err != nil {
		return fmt.Errorf("fsfreeze: %w", err)
	}
	defer dir.Close()
	half, cancel := watchdog.Half(ctx)
	defer cancel()
	locked := watchdog.Lock(half, dir)
	if err := watchdog.ThawFS(dir); err != nil && !errors.Is(err, watchdog.ErrNotFrozen) {
		return fmt.Errorf("fsfreeze: thaw %q: %w", q.path, translate(err))
	}
	if locked != nil {
		return fmt.Errorf("fsfreeze: recover %q: %w", q.path, locked)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/stillpoint-go/protect/repo"
)

// failuresListed bounds Report.Failed.
const failuresListed = 1000

// failures are what a partial restore leaves out.
type failures struct {
	sync.Mutex
	list  []Failure
	total int64
	first error
}

func (f *failures) add(failure Failure, err error) {
	f.Lock()
	defer f.Unlock()
	if f.total++; len(f.list) < failuresListed {
		f.list = append(f.list, failure)
	}
	if f.first == nil {
		f.first = err
	}
}

// error returns nil if there are none.
func (f *failures) error() error {
	f.Lock()
	defer f.Unlock()
	if f.total == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d failures, the first: %q: %w", ErrPartial, f.total, f.list[0].Path, f.first)
}

// forgives reports whether the restore goes on after an error: with
// Options.Partial, after damage.
func (t *tree) forgives(ctx context.Context, err error) bool {
	return t.opts.Partial && errors.Is(err, repo.ErrCorrupt) && ctx.Err() == nil
}

// unlisted notes that a part of the volume cannot be listed.
func (t *tree) unlisted(err error) {
	t.gaps = true
	t.failed.add(Failure{Volume: t.claim.Name, Path: t.last, Unlisted: true, Reason: err.Error()}, err)
}

// giveUp leaves an entry out that cannot be restored, and nothing of it behind;
// or it returns the error.
func (t *tree) giveUp(ctx context.Context, j *job, err error) error {
	if !t.forgives(ctx, err) {
		return err
	}
	if j.done != nil { // a file, which is ours: another one would have been no damage
		if rerr := j.dir.root.Remove(j.name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return errors.Join(err, rerr)
		}
		t.settle(j)
	}
	t.failed.add(Failure{Volume: j.volume, Path: j.path, Reason: err.Error()}, err)
	return nil
}

// bridge makes the directories in which an entry is and that were in a part of
// the volume that cannot be listed. Nothing is known of them but their names.
func (t *tree) bridge(ctx context.Context, p string) error {
	if !t.gaps || p == t.path {
		return nil
	}
	if len(t.stack) == 0 {
		if err := t.bridgeBase(ctx); err != nil {
			return err
		}
	}
	var missing []string
	for dir := path.Dir(p); dir != t.stack[len(t.stack)-1].path; dir = path.Dir(dir) {
		if _, below := inside(t.stack[len(t.stack)-1].path, dir); !below {
			return corrupt("is not below %q, where the restore starts", t.path)
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		name := path.Base(dir)
		if err := checkName(name); err != nil {
			return err
		}
		if err := t.mkdir(ctx, t.stack[len(t.stack)-1], name, item{volume: t.claim.Name, path: dir}); err != nil {
			return err
		}
	}
	return nil
}

// bridgeBase stands for the entry where the restore starts.
func (t *tree) bridgeBase(ctx context.Context) error {
	it := item{volume: t.claim.Name, path: t.path}
	if t.name != "" {
		return t.mkdir(ctx, t.top, t.name, it)
	}
	t.top.item = it
	t.enter(t.top)
	return nil
}

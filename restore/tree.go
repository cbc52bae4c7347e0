// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stillpoint-go/protect/repo"
)

// waiting bounds the entries between the walk and the workers.
const waiting = 1024

// tree restores what is selected of one volume. A walk checks the entries and
// makes the directories, in order; workers make everything else.
type tree struct {
	*run
	selection
	left  budget // of the volume's record
	base  *dir   // the directory at selection.path, if it is one
	stack []*dir // from base to where the walk is
	last  string // path of the previous entry
	jobs  chan *job
	// outside maps the first names of files outside of the selection to the
	// names under which they are restored.
	outside map[string]string
	ahead   readahead
	gaps    bool // parts of the volume cannot be listed

	mu struct {
		sync.Mutex
		open  map[*dir]struct{}        // directories whose handle is open
		files map[string]chan struct{} // closed when the file at the path is complete
	}
}

// job is an entry that is not a directory.
type job struct {
	item
	dir   *dir
	name  string
	first string // of a hard link: the path of the file
	done  chan struct{}
}

// restore restores what is selected. It returns when nothing of it runs any
// more and, but for the staging directory, nothing of it is open.
func (r *run) restore(ctx context.Context, s selection) error {
	t := &tree{
		run: r, selection: s, left: budget{entries: s.claim.Files + s.claim.Dirs, bytes: s.claim.Bytes},
		jobs: make(chan *job, waiting), outside: map[string]string{},
	}
	t.mu.open, t.mu.files = map[*dir]struct{}{}, map[string]chan struct{}{}
	defer t.closeAll()
	g, ctx := errgroup.WithContext(ctx)
	t.ahead = newReadahead(g, s.src)
	g.Go(func() error {
		defer close(t.jobs)
		return t.walk(ctx)
	})
	for range r.opts.Concurrency {
		g.Go(func() error { return t.work(ctx) })
	}
	err := g.Wait()
	if err != nil && s.name != "" && s.path == "." {
		return fmt.Errorf("volume %q: %w", s.claim.Name, err)
	}
	return err
}

// closeAll closes the directories that a failed restore did not complete.
func (t *tree) closeAll() {
	for d := range t.mu.open {
		_ = d.root.Close()
		<-t.run.open
	}
}

func (t *tree) walk(ctx context.Context) error {
	for e, err := range t.src.Entries(ctx, t.path) {
		if t.forgives(ctx, err) {
			t.unlisted(err)
			continue
		}
		if err != nil {
			return err
		}
		if err := t.leave(e.Path); err != nil {
			return err
		}
		if err := t.entry(ctx, e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
	}
	if t.last == "" && !t.gaps {
		return corrupt("the volume has no entries")
	}
	if err := t.leave("."); err != nil {
		return err
	}
	if t.path == "." && t.left != (budget{}) && !t.gaps {
		return corrupt("the volume has %d entries and %d bytes less than its record says", t.left.entries, t.left.bytes)
	}
	return nil
}

// entry checks an entry and restores it, or passes it on to the workers.
func (t *tree) entry(ctx context.Context, e *repo.Entry) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := t.admit(e); err != nil {
		return err
	}
	if err := t.bridge(ctx, e.Path); err != nil {
		return err
	}
	it := item{volume: t.claim.Name, path: e.Path, Entry: e}
	d, name, err := t.place(e)
	switch {
	case err != nil:
		return err
	case name == "" && e.Type != repo.Dir:
		return corrupt("is no directory any more")
	case name == "":
		t.top.item = it
		t.enter(t.top)
		return nil
	}
	if err := checkName(name); err != nil {
		return err
	}
	if e.Type == repo.Dir {
		return t.mkdir(ctx, d, name, it)
	}
	j := &job{item: it, dir: d, name: name}
	if e.Type == repo.Link {
		if err := t.link(ctx, j); err != nil {
			return err
		}
	}
	return t.send(ctx, j)
}

// admit checks the entry itself, its order and the budgets.
func (t *tree) admit(e *repo.Entry) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	switch {
	case t.last == "" && e.Path != t.path && !t.gaps:
		return corrupt("comes before %q, where the restore starts", t.path)
	case t.last != "" && !before(t.last, e.Path):
		return corrupt("comes after %q", t.last)
	}
	t.last = e.Path
	return t.spend(e.Size)
}

// spend takes an entry and its size from the budgets.
func (t *tree) spend(size int64) error {
	if !t.left.take(size) {
		return corrupt("the volume has more entries or bytes than its record says")
	}
	if !t.run.left.take(size) {
		return ErrBudget
	}
	return nil
}

// place returns where the entry goes.
func (t *tree) place(e *repo.Entry) (*dir, string, error) {
	if e.Path == t.path {
		return t.top, t.name, nil
	}
	if len(t.stack) > 0 {
		d := t.stack[len(t.stack)-1]
		if name, ok := inside(d.path, e.Path); ok && !strings.ContainsRune(name, '/') {
			return d, name, nil
		}
	}
	return nil, "", corrupt("is not in a directory that comes before it")
}

func (t *tree) mkdir(ctx context.Context, parent *dir, name string, it item) error {
	select {
	case t.run.open <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	root, err := makeDir(parent.root, name)
	if err != nil {
		<-t.run.open
		return collision(err)
	}
	d := &dir{item: it, root: root, parent: parent}
	t.mu.Lock()
	t.mu.open[d] = struct{}{}
	t.mu.Unlock()
	parent.refs.Add(1)
	t.enter(d)
	return nil
}

// makeDir makes a directory and opens it, and nothing else under its name.
func makeDir(parent *os.Root, name string) (*os.Root, error) {
	if err := parent.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	return openDir(parent, name)
}

// openDir opens the directory of that name. It does not follow a link.
func openDir(parent *os.Root, name string) (*os.Root, error) {
	info, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errExchanged(name)
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	now, err := root.Stat(".")
	if err == nil && !os.SameFile(info, now) {
		err = errExchanged(name)
	}
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	return root, nil
}

func errExchanged(name string) error {
	return fmt.Errorf("%w: %q was exchanged for something else", fs.ErrInvalid, name)
}

// collision explains why a name exists in a new directory.
func collision(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the file system takes its name for that of another entry: %w", err)
	}
	return err
}

func (t *tree) enter(d *dir) {
	if t.base == nil {
		t.base = d
	}
	d.refs.Add(1)
	t.stack = append(t.stack, d)
	t.dirs.Add(1)
}

// leave ends the walk's stay in the directories that the path is not in.
func (t *tree) leave(path string) error {
	for len(t.stack) > 0 {
		d := t.stack[len(t.stack)-1]
		if _, ok := inside(d.path, path); ok {
			break
		}
		t.stack = t.stack[:len(t.stack)-1]
		if err := t.release(d); err != nil {
			return err
		}
	}
	return nil
}

// release takes a reference from a directory. One that nothing changes any
// more gets its metadata, before its parent does.
func (t *tree) release(d *dir) error {
	for ; d.refs.Add(-1) == 0; d = d.parent {
		if err := t.finish(d); err != nil {
			return fmt.Errorf("%q: %w", d.path, err)
		}
		t.mu.Lock()
		delete(t.mu.open, d)
		t.mu.Unlock()
		err := d.root.Close()
		<-t.run.open
		if err != nil {
			return fmt.Errorf("%q: %w", d.path, err)
		}
	}
	return nil
}

func (t *tree) finish(d *dir) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if d.Entry != nil { // see bridge
		if err := t.applyMeta(d.item, d.root, ".", f); err != nil {
			return err
		}
	}
	return t.syncEach(f)
}

// link prepares a hard link: to a file of this restore, or else as a file.
func (t *tree) link(ctx context.Context, j *job) error {
	j.first = j.Target
	if _, ok := inside(t.path, j.first); ok {
		return nil
	}
	if name, ok := t.outside[j.first]; ok {
		j.first = name
		return nil
	}
	e, err := t.src.Entry(ctx, j.first)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (e.Type != repo.File || e.Path != j.first || checkEntry(e) != nil) {
		return corrupt("hard link to %q, which is not a file", j.first)
	}
	if err != nil {
		return err
	}
	if t.path == "." {
		return corrupt("hard link to %q, the volume's root", j.first)
	}
	t.run.left.entries++ // the link is counted already
	t.left.entries++
	if err := t.spend(e.Size); err != nil {
		return err
	}
	t.outside[j.first] = j.path
	j.Entry, j.first = e, ""
	return nil
}

// send passes a job on to the workers.
func (t *tree) send(ctx context.Context, j *job) error {
	j.dir.refs.Add(1)
	if j.Type == repo.File {
		j.done = make(chan struct{})
		t.mu.Lock()
		t.mu.files[j.path] = j.done
		t.mu.Unlock()
		t.ahead.file(ctx, j.Entry)
	}
	select {
	case t.jobs <- j:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package restore brings the volumes of a recovery point back as directories.
//
// [Volume] restores one volume, or a part of it, so that its content lies
// directly in the target directory. [Point] restores several volumes, each
// under its name. Both return when everything is there, or nothing; of a damaged
// repository, they restore what can be read if Options.Partial says so.
//
// # Target
//
// The target is a path that does not exist yet, in a directory that does, or an
// empty directory. The tree is built in a staging directory beside it, mode
// 0700, and becomes the target in one rename; an empty directory is replaced
// by it. That somebody creates the target meanwhile is an error, and what they
// created stays (unless it is an empty directory).
//
// An empty directory that cannot be replaced, because something is mounted
// there or its parent is not writable, is filled instead: the tree is built in
// a staging directory inside it, and its entries are then renamed into the
// target one by one, without overwriting. Should that fail they are moved back,
// but a crash at this moment leaves some of them in the target. A lost+found
// directory does not count against such a target's emptiness.
//
// An error or the end of the context leaves the target as it was and removes
// the staging directory, which takes up to ten minutes. What a killed process
// left is a directory with a name that [IsStaging] recognizes; [Sweep] removes
// those whose process is dead.
//
// # What is restored
//
// Files with their content and holes, directories, symbolic links, hard links
// within what is restored, permissions, modification times and user.*
// attributes. A file whose first name lies outside of Options.Path is restored
// from its content. Owners and the setuid, setgid and sticky bits are restored
// if [Options] say so; other attributes, ACLs and capabilities never.
// Report.Skipped lists what the target cannot hold.
//
// Modification times of symbolic links are restored on Linux only. On Windows,
// modes are reduced to the read-only bit, and attributes are not restored.
//
// # Trust
//
// Names, links and modes in a volume were chosen by whoever could write to it.
// Nothing is ever created outside of the staging directory, no symbolic link is
// followed, and nothing is overwritten: names that this platform cannot hold
// and names that its file system takes for the same are errors, and a tree that
// contradicts itself or yields more than its recovery point says is one that
// matches [repo.ErrCorrupt]. Symbolic links are restored as they are and may
// point anywhere. The directory that holds the target must not be writable for
// somebody who is not trusted.
//
// # Durability
//
// A restore that succeeded survives a power cut, as far as the file system
// keeps its promises: on Linux its file system is flushed once (syncfs(2)),
// elsewhere every file is. Only if the very last flush of the target's name
// fails does an error leave a complete target.
//
// # Resources
//
// Memory hardly depends on the number of files: the cache of the repository, up
// to 2*Concurrency+8 chunks of at most 8 MiB while they are being read, and
// about a thousand entries. (Two exceptions are small: the names directly in a
// target that is filled, and those of hard links out of Options.Path.) Up to
// Concurrency+400 files are open.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/repo"
)

// ErrBudget reports that a restore would exceed Options.MaxBytes or
// Options.MaxEntries.
var ErrBudget = errors.New("restore exceeds its budget")

// ErrPartial reports that a restore with Options.Partial is done, and that
// something is missing: Report.Failed says what. It comes with the cause of the
// first failure.
var ErrPartial = errors.New("not everything could be restored")

// Options say what to restore and how. The zero value is usable.
type Options struct {
	// Path selects an entry of the volume and everything below it, with
	// slashes. Empty or "." is all. The content of a directory lands in the
	// target; anything else lands there under its own name. For Volume only.
	Path string
	// Volumes selects volumes by name. Empty means all. For Point only.
	Volumes []string

	// Owners restores the recorded numeric owners and groups, which takes the
	// privilege to do so. Without it everything belongs to the process.
	Owners bool
	// MapOwner, if set, translates them. It may be called concurrently.
	MapOwner func(uid, gid uint32) (newUID, newGID uint32)
	// SpecialModes restores the setuid, setgid and sticky bits. Together with
	// Owners it can create programs that run with the rights of any user.
	SpecialModes bool

	// MaxBytes bounds the size of all files, holes included, and MaxEntries the
	// number of files and directories; 0 means what the recovery point's record
	// says, which holds in any case. A restore that would exceed them fails with
	// ErrBudget, if possible before it starts.
	MaxBytes   int64
	MaxEntries int64

	// Partial restores what can be restored of a damaged volume. Files whose
	// content cannot be read are left out, as a whole, and so are entries that
	// cannot be listed. Directories that cannot be listed, but hold something
	// that can, are of mode 0700. Whatever is missing is in Report.Failed, and
	// the error matches ErrPartial. Other errors end the restore as without it.
	Partial bool

	// Concurrency is how many files, and pieces of large files, are worked on
	// at once. 0 means 16.
	Concurrency int
	// NoSync leaves it to the operating system when data reaches the disk, for
	// a rehearsal whose result is thrown away.
	NoSync bool
	// Progress, if set, is called from one goroutine at a time, at most twice a
	// second and once at the end. It must not block.
	Progress func(Progress)
	// Logger is told what was skipped or could not be cleaned up. Nil is silent.
	Logger hclog.Logger
}

const defaultConcurrency = 16

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Concurrency <= 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	c.Logger = c.Logger.Named("restore")
	c.Path = path.Clean(c.Path)
	return c
}

// Progress is how far a restore has come, in cumulative counts.
type Progress struct {
	Files   int64 // entries other than directories that are complete
	Dirs    int64 // directories created
	Bytes   int64 // of file content, holes included
	Written int64 // bytes written
	// FilesTotal and BytesTotal are what the recovery point's record says: exact,
	// but for a restore with Options.Path, where they are the whole volume's.
	FilesTotal, BytesTotal int64
}

// Report says what a restore did.
type Report struct {
	Files   int64         `json:"files"` // entries other than directories
	Dirs    int64         `json:"dirs"`
	Bytes   int64         `json:"bytes"`   // size of all files, holes included
	Written int64         `json:"written"` // bytes written, without holes
	Elapsed time.Duration `json:"elapsed_ns"`
	// Skipped lists the first hundred properties of entries that were not
	// restored, and SkippedTotal counts them all.
	Skipped      []Skip `json:"skipped,omitempty"`
	SkippedTotal int64  `json:"skipped_total,omitempty"`
	// Failed lists the first thousand failures of a restore with
	// Options.Partial, and FailedTotal counts them all.
	Failed      []Failure `json:"failed,omitempty"`
	FailedTotal int64     `json:"failed_total,omitempty"`
}

// Failure is something that a restore with Options.Partial left out.
type Failure struct {
	Volume string `json:"volume"`
	// Path is that of the entry, or if Unlisted is set, of the last one before a
	// part of the volume that cannot be listed; empty if there is none.
	Path     string `json:"path"`
	Unlisted bool   `json:"unlisted,omitempty"`
	Reason   string `json:"reason"`
}

// Skip is a property of an entry that was not restored.
type Skip struct {
	Volume string `json:"volume"`
	Path   string `json:"path"`
	What   string `json:"what"` // such as "setuid bit" or "attribute user.comment"
}

// Volume restores one volume of a recovery point: the content of its root
// directory, or of the one at Options.Path, becomes the content of the target
// directory, which also gets its permissions, time and attributes. If the
// volume or the entry at Options.Path is a single file, it lands in the target
// directory under the name of the volume or its own; a new target directory
// is then of mode 0700.
//
// The error matches fs.ErrNotExist if there is no such volume or path,
// fs.ErrExist if the target is something else than an empty directory or two
// names are the same for its file system, fs.ErrInvalid if the platform cannot
// hold a name, errors.ErrUnsupported for Options.Owners on Windows, ErrBudget,
// ErrPartial, with which there is a report,
// repo.ErrCorrupt if the repository is damaged or a tree contradicts itself, and
// otherwise those of the operating system and of the context. Concurrent calls
// with different targets are fine; of two with the same, one fails.
func Volume(ctx context.Context, r *repo.Repository, p *repo.Point, volume, target string, opts *Options) (*Report, error) {
	o := opts.withDefaults()
	report, err := restore(ctx, target, o, func(ctx context.Context) ([]selection, error) {
		if len(o.Volumes) > 0 {
			return nil, fmt.Errorf("%w: Options.Volumes is for Point", fs.ErrInvalid)
		}
		s, err := open(ctx, r, p, volume)
		if err != nil {
			return nil, err
		}
		s.path = o.Path
		e, err := s.src.Entry(ctx, o.Path)
		if o.Partial && errors.Is(err, repo.ErrCorrupt) {
			return []selection{s}, nil // it may be a directory with entries that can be read
		}
		if err != nil {
			return nil, err
		}
		if e.Type != repo.Dir {
			if s.name = path.Base(o.Path); s.name == "." {
				s.name = volume
			}
		}
		return []selection{s}, nil
	})
	if err != nil {
		return report, fmt.Errorf("restore: volume %q: %w", volume, err)
	}
	return report, nil
}

// Point restores all volumes of a recovery point, or those that Options.Volumes
// names: each becomes an entry of the target directory, under its own name. A
// new target directory is of mode 0700. Errors are those of Volume.
func Point(ctx context.Context, r *repo.Repository, p *repo.Point, target string, opts *Options) (*Report, error) {
	o := opts.withDefaults()
	report, err := restore(ctx, target, o, func(ctx context.Context) ([]selection, error) {
		if o.Path != "." {
			return nil, fmt.Errorf("%w: Options.Path is for Volume", fs.ErrInvalid)
		}
		var all []selection
		for _, name := range pick(p, o.Volumes) {
			s, err := open(ctx, r, p, name)
			if err != nil {
				return nil, err
			}
			s.path, s.name = ".", name
			all = append(all, s)
		}
		return all, nil
	})
	if err != nil {
		return report, fmt.Errorf("restore: point %q: %w", p.ID, err)
	}
	return report, nil
}

// pick returns the names of the selected volumes, each once.
func pick(p *repo.Point, names []string) []string {
	if len(names) > 0 {
		return slices.Compact(slices.Sorted(slices.Values(names)))
	}
	for _, v := range p.Volumes {
		names = append(names, v.Name)
	}
	return names
}

// selection is what to restore of a volume, and where.
type selection struct {
	src   source
	claim repo.Volume // what the record says that the volume holds
	path  string      // the entry to restore
	// name is that of the entry in the staging directory. If it is empty, the
	// entry is a directory and becomes the staging directory itself.
	name string
}

func open(ctx context.Context, r *repo.Repository, p *repo.Point, volume string) (selection, error) {
	t, err := r.Tree(ctx, p, volume)
	if err != nil {
		return selection{}, err
	}
	i := slices.IndexFunc(p.Volumes, func(v repo.Volume) bool { return v.Name == volume })
	return selection{src: t, claim: p.Volumes[i]}, nil
}

// restore runs a restore of what sel returns. It returns when nothing of it
// runs any more, and nothing of a failed one is left.
func restore(ctx context.Context, target string, o Options, sel func(context.Context) ([]selection, error)) (_ *Report, err error) {
	start := time.Now()
	if o.Owners && !canChown {
		return nil, fmt.Errorf("owners: %w", errors.ErrUnsupported)
	}
	if !ondisk.ValidPath(o.Path) {
		return nil, fmt.Errorf("%w: path %q", fs.ErrInvalid, o.Path)
	}
	all, err := sel(ctx)
	if err != nil {
		return nil, err
	}
	r, err := newRun(o, all)
	if err != nil {
		return nil, err
	}
	st, err := openStaging(ctx, target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := st.close(ctx); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	stop := r.reportProgress()
	defer stop()
	r.top = &dir{root: st.root}
	r.top.refs.Store(1) // ours
	for _, s := range all {
		if err := r.restore(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := r.commit(ctx, st); err != nil {
		return nil, err
	}
	return r.report(start), r.failed.error()
}

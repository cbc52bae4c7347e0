// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/internal/durable"
)

// DirJournal is a Journal in a local directory: one file for an intent,
// created once and synced before Begin returns. Any number of processes may
// use one directory at the same time. It must not lie on a file system that
// one of the members freezes.
//
// Files that are not named like an intent are ignored. An intent that cannot
// be read is an error of Pending that names the file; it keeps groups from
// freezing until somebody has looked at it and removed it.
type DirJournal struct {
	dir string
}

var _ Journal = (*DirJournal)(nil)

const (
	intentPrefix = "intent-" // followed by the epoch: pending
	markPrefix   = "mark-"   // followed by the epoch: ended
	epochDigits  = 20

	// keptMarks is how many marks of ended epochs stay. One would do for the
	// order of epochs; the others make a listing that races with End see at
	// least one of them.
	keptMarks = 16
)

// OpenDirJournal returns the journal in dir, which it creates with mode 0700
// if it is missing; its parent must exist.
func OpenDirJournal(dir string) (*DirJournal, error) {
	if dir == "" {
		return nil, errors.New("hooks: journal directory is empty")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("hooks: open journal: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("hooks: open journal: %w", err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("hooks: open journal: %w", err)
	}
	return &DirJournal{dir: dir}, nil
}

// Dir returns the absolute path of the directory.
func (j *DirJournal) Dir() string { return j.dir }

// Begin implements Journal.
func (j *DirJournal) Begin(ctx context.Context, in Intent) (Epoch, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		intents, marks, err := j.list()
		if err != nil {
			return 0, err
		}
		last := max(newest(intents), newest(marks))
		if last >= math.MaxInt64 {
			return 0, fmt.Errorf("hooks: journal %q has run out of epochs", j.dir)
		}
		in.Epoch = last + 1
		data, err := encodeIntent(in)
		if err != nil {
			return 0, err
		}
		err = durable.CreateFile(j.path(intentPrefix, in.Epoch), data)
		if errors.Is(err, fs.ErrExist) {
			continue // another process was faster
		}
		if err != nil {
			return 0, fmt.Errorf("hooks: journal intent %d: %w", in.Epoch, err)
		}
		// Between our listing and our file others may have begun and ended
		// this very epoch. They leave a mark before the file goes.
		if _, marks, err = j.list(); err != nil {
			return 0, err
		}
		if newest(marks) < in.Epoch {
			return in.Epoch, nil
		}
		if err := durable.RemoveFile(j.path(intentPrefix, in.Epoch)); err != nil {
			return 0, fmt.Errorf("hooks: drop used intent %d: %w", in.Epoch, err)
		}
	}
}

// End implements Journal.
func (j *DirJournal) End(ctx context.Context, epoch Epoch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	intent := j.path(intentPrefix, epoch)
	if _, err := os.Lstat(intent); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("hooks: end intent %d: %w", epoch, err)
	}
	// The mark comes first, so that the epoch is never without a trace.
	if err := durable.CreateFile(j.path(markPrefix, epoch), nil); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("hooks: mark epoch %d: %w", epoch, err)
	}
	if err := durable.RemoveFile(intent); err != nil {
		return fmt.Errorf("hooks: end intent %d: %w", epoch, err)
	}
	_, marks, err := j.list()
	if err != nil {
		return err
	}
	for len(marks) > keptMarks {
		if err := durable.RemoveFile(j.path(markPrefix, marks[0])); err != nil {
			return fmt.Errorf("hooks: drop mark %d: %w", marks[0], err)
		}
		marks = marks[1:]
	}
	return nil
}

// Pending implements Journal. The intents are in the order of their epochs.
func (j *DirJournal) Pending(ctx context.Context) ([]Intent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	epochs, _, err := j.list()
	if err != nil {
		return nil, err
	}
	var intents []Intent
	var errs []error
	for _, epoch := range epochs {
		in, err := j.read(epoch)
		switch {
		case errors.Is(err, fs.ErrNotExist): // ended since it was listed
		case err != nil:
			errs = append(errs, err)
		default:
			intents = append(intents, in)
		}
	}
	return intents, errors.Join(errs...)
}

func (j *DirJournal) read(epoch Epoch) (Intent, error) {
	path := j.path(intentPrefix, epoch)
	f, err := os.Open(path)
	if err != nil {
		return Intent{}, fmt.Errorf("hooks: read intent: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIntent+1))
	if err != nil {
		return Intent{}, fmt.Errorf("hooks: read intent: %w", err)
	}
	in, err := decodeIntent(data)
	if err == nil && in.Epoch != epoch {
		err = fmt.Errorf("hooks: intent says epoch %d", in.Epoch)
	}
	if err != nil {
		return Intent{}, fmt.Errorf("hooks: read intent %q: %w", path, err)
	}
	return in, nil
}

// list returns the epochs of the pending intents and of the marks, sorted.
func (j *DirJournal) list() (intents, marks []Epoch, err error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("hooks: list journal: %w", err)
	}
	for _, e := range entries {
		if epoch, ok := parseEpoch(e.Name(), intentPrefix); ok {
			intents = append(intents, epoch)
		} else if epoch, ok := parseEpoch(e.Name(), markPrefix); ok {
			marks = append(marks, epoch)
		}
	}
	slices.Sort(intents)
	slices.Sort(marks)
	return intents, marks, nil
}

func (j *DirJournal) path(prefix string, epoch Epoch) string {
	return filepath.Join(j.dir, fmt.Sprintf("%s%0*d", prefix, epochDigits, uint64(epoch)))
}

func parseEpoch(name, prefix string) (Epoch, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok || len(digits) != epochDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return Epoch(n), err == nil && n > 0
}

func newest(sorted []Epoch) Epoch {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)-1]
}

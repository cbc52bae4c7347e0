// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/stillpoint-go/protect/internal/durable"
)

// PastFreeze is a freeze that is over.
type PastFreeze struct {
	// Epoch identifies it in its journal.
	Epoch Epoch
	// Application is the name of the group.
	Application string
	// Ended is when the last member thawed, by the clock of who froze, and
	// Frozen how long the freeze was. Of one that nobody saw the end of, as its
	// process died, they are the end of its window and the whole window.
	Ended  time.Time
	Frozen time.Duration
}

// History is implemented by journals that remember past freezes, which
// GroupOptions.MinGap and GroupOptions.Budget need. MemJournal and DirJournal
// do.
type History interface {
	// Remember stores a freeze for at least 24 hours after it ended. Another
	// call with its epoch changes nothing.
	Remember(ctx context.Context, past PastFreeze) error
	// Past returns what is remembered of an application, in any order.
	Past(ctx context.Context, application string) ([]PastFreeze, error)
}

// maxGap is the longest GroupOptions.MinGap, and how long a History remembers.
const maxGap = 24 * time.Hour

var (
	_ History = (*MemJournal)(nil)
	_ History = (*DirJournal)(nil)
)

// check bounds a past freeze, which may come from another process or version.
func (p PastFreeze) check() error {
	if p.Epoch == 0 || p.Frozen < 0 {
		return errors.New("hooks: malformed past freeze")
	}
	return checkText("application", p.Application, maxApplication)
}

// forgotten says whether a past freeze is of no use any more.
func (p PastFreeze) forgotten(now time.Time) bool { return now.Sub(p.Ended) > maxGap }

// Remember implements History.
func (j *MemJournal) Remember(ctx context.Context, past PastFreeze) error {
	if err := errors.Join(ctx.Err(), past.check()); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	j.past = slices.DeleteFunc(j.past, func(p PastFreeze) bool { return p.forgotten(now) })
	if !slices.ContainsFunc(j.past, func(p PastFreeze) bool { return p.Epoch == past.Epoch }) {
		j.past = append(j.past, past)
	}
	return nil
}

// Past implements History.
func (j *MemJournal) Past(ctx context.Context, application string) ([]PastFreeze, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.past), func(p PastFreeze) bool { return p.Application != application }), nil
}

const (
	pastPrefix  = "past-" // followed by the epoch
	pastVersion = 1
)

// pastFile is the stored form of a PastFreeze.
type pastFile struct {
	Version     int       `json:"version"`
	Application string    `json:"application"`
	Ended       time.Time `json:"ended"`
	Frozen      string    `json:"frozen"` // time.Duration text
}

// Remember implements History, with a file for each freeze.
func (j *DirJournal) Remember(ctx context.Context, past PastFreeze) error {
	if err := errors.Join(ctx.Err(), past.check()); err != nil {
		return err
	}
	data, err := json.Marshal(pastFile{
		Version: pastVersion, Application: past.Application, Ended: past.Ended.UTC(), Frozen: past.Frozen.String(),
	})
	if err != nil {
		return fmt.Errorf("hooks: encode past freeze: %w", err)
	}
	err = durable.CreateFile(j.path(pastPrefix, past.Epoch), append(data, '\n'))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("hooks: remember freeze %d: %w", past.Epoch, err)
	}
	all, err := j.past()
	if err != nil {
		return err
	}
	for _, p := range all {
		if !p.forgotten(time.Now()) {
			continue
		}
		if err := durable.RemoveFile(j.path(pastPrefix, p.Epoch)); err != nil {
			return fmt.Errorf("hooks: forget freeze %d: %w", p.Epoch, err)
		}
	}
	return nil
}

// Past implements History. A file that cannot be read is an error.
func (j *DirJournal) Past(ctx context.Context, application string) ([]PastFreeze, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := j.past()
	return slices.DeleteFunc(all, func(p PastFreeze) bool { return p.Application != application }), err
}

// past returns all past freezes.
func (j *DirJournal) past() ([]PastFreeze, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("hooks: list journal: %w", err)
	}
	var all []PastFreeze
	for _, e := range entries {
		epoch, ok := parseEpoch(e.Name(), pastPrefix)
		if !ok {
			continue
		}
		data, err := os.ReadFile(j.path(pastPrefix, epoch))
		if errors.Is(err, fs.ErrNotExist) {
			continue // forgotten since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("hooks: read past freeze: %w", err)
		}
		past, err := decodePast(epoch, data)
		if err != nil {
			return nil, fmt.Errorf("hooks: read past freeze %q: %w", j.path(pastPrefix, epoch), err)
		}
		all = append(all, past)
	}
	return all, nil
}

// decodePast reads a stored past freeze.
func decodePast(epoch Epoch, data []byte) (PastFreeze, error) {
	var f pastFile
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return PastFreeze{}, fmt.Errorf("hooks: malformed past freeze: %w", err)
	}
	if f.Version != pastVersion {
		return PastFreeze{}, fmt.Errorf("hooks: past freeze has version %d, this program knows %d", f.Version, pastVersion)
	}
	frozen, err := time.ParseDuration(f.Frozen)
	if err != nil {
		return PastFreeze{}, errors.New("hooks: malformed past freeze: bad duration")
	}
	past := PastFreeze{Epoch: epoch, Application: f.Application, Ended: f.Ended, Frozen: frozen}
	return past, past.check()
}

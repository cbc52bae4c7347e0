// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/repo"
)

// pointResult is a recovery point as the commands print it.
type pointResult struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	// Committed is when the store saw it, by the store's clock, and Origin the
	// repository that it was first committed to if it is a copy.
	Committed time.Time `json:"committed,omitzero"`
	Origin    string    `json:"origin"`
	Files     int64     `json:"files"` // entries other than directories
	Dirs      int64     `json:"dirs"`
	Bytes     int64     `json:"bytes"` // size of all files
	// BytesNew is the content that the repository did not have before, and
	// BytesStored what was written to the bucket for it.
	BytesNew    int64 `json:"bytes_new"`
	BytesStored int64 `json:"bytes_stored"`
}

func newPointResult(p *repo.Point) pointResult {
	return pointResult{
		ID: p.ID, Name: p.Name, Time: p.Time, Level: p.Level, Committed: p.Committed, Origin: p.Origin,
		Files: p.Stats.Files, Dirs: p.Stats.Dirs, Bytes: p.Stats.Bytes,
		BytesNew: p.Stats.New, BytesStored: p.Stats.Stored,
	}
}

// newID returns an identifier for a recovery point: the time, so that they
// sort, and a random part, so that no two are the same.
func newID(now time.Time) string {
	return now.UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:8])
}

// latest is the POINT that stands for the newest one, of all or, with a colon
// and a name, of that name.
const latest = "latest"

// checkID refuses identifiers that could not be told from other ways to name a
// point.
func checkID(id string) error {
	if id == latest || strings.HasPrefix(id, latest+":") {
		return fmt.Errorf("--id %q: the word %q stands for the newest point", id, latest)
	}
	return nil
}

// findPoint returns the recovery point that arg names.
func findPoint(ctx context.Context, r *repo.Repository, arg string) (*repo.Point, error) {
	if checkID(arg) != nil {
		return latestPoint(ctx, r, arg)
	}
	if p, err := r.Point(ctx, arg); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return p, err
	}
	// With a damaged record nobody knows whether the prefix is unique, but the
	// caller sees which point was taken.
	all, err := r.Points(ctx)
	var found []*repo.Point
	for _, p := range all {
		if strings.HasPrefix(p.ID, arg) {
			found = append(found, p)
		}
	}
	switch {
	case arg != "" && len(found) == 1:
		return found[0], nil
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("point %q: %w", arg, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("point %q is ambiguous: %d points begin so", arg, len(found))
	}
}

// latestPoint returns the newest point, or the newest of a name.
func latestPoint(ctx context.Context, r *repo.Repository, arg string) (*repo.Point, error) {
	_, name, named := strings.Cut(arg, ":")
	all, err := r.Points(ctx)
	if err != nil {
		// A damaged record may be that of the newest one.
		return nil, fmt.Errorf("%s is not known, name the point by its id: %w", arg, err)
	}
	for _, p := range all {
		if !named || p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("point %q: %w", arg, fs.ErrNotExist)
}

// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// Usage says what a repository holds and what it takes.
type Usage struct {
	Points int `json:"points"`
	// Bytes is the size of all files of all points: what the repository could
	// restore.
	Bytes   int64 `json:"bytes"`
	Objects int64 `json:"objects"`
	Packs   int64 `json:"packs"`
	// Sessions counts those on record: at work, or died and not collected yet.
	Sessions int64 `json:"sessions"`
	Chunks   int64 `json:"chunks"`
	Stored   int64 `json:"bytes_stored"` // size of all objects
}

// Usage counts the points and objects. It reads metadata only. If records are
// damaged, it returns what the others say together with an error that matches
// ErrCorrupt.
func (r *Repository) Usage(ctx context.Context) (*Usage, error) {
	all, damage := r.readRoots(ctx, "")
	if damage != nil && !errors.Is(damage, ErrCorrupt) {
		return nil, fmt.Errorf("repo: usage: %w", damage)
	}
	u := &Usage{}
	for _, p := range all.live() {
		u.Points++
		u.Bytes += p.Stats.Bytes
		u.Chunks += p.Stats.Chunks
	}
	for o, err := range r.store.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("repo: usage: %w", err)
		}
		u.Objects++
		u.Stored += o.Size
		switch {
		case strings.HasPrefix(o.Key, ondisk.PackPrefix):
			u.Packs++
		case strings.HasPrefix(o.Key, ondisk.SessionPrefix):
			u.Sessions++
		}
	}
	if damage != nil {
		return u, fmt.Errorf("repo: usage: %w", damage)
	}
	return u, nil
}

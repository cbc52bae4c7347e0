// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/repo"
)

// showResult is what show prints.
type showResult struct {
	pointResult
	ChunksNew int64             `json:"chunks_new"`
	Packs     int64             `json:"packs"`
	Doubts    []string          `json:"doubts"`
	FrozenMS  float64           `json:"frozen_ms"`
	SkewMS    float64           `json:"skew_ms"` // between the cuts of the volumes
	Volumes   []volumeResult    `json:"volumes"`
	Labels    map[string]string `json:"labels"`
	// Evidence names what the frozen targets returned, by target.
	Evidence map[string][]string `json:"evidence"`
}

type volumeResult struct {
	Name    string `json:"name"`
	Files   int64  `json:"files"`
	Dirs    int64  `json:"dirs"`
	Bytes   int64  `json:"bytes"`
	Skipped int64  `json:"skipped"`
}

func (c *cli) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show POINT",
		Short: "Show all that is known of a recovery point",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.show(ctx, r, args[0])
			})
		},
	}
}

func (c *cli) show(ctx context.Context, r *repo.Repository, arg string) error {
	p, err := findPoint(ctx, r, arg)
	if err != nil {
		return err
	}
	res := showResult{
		pointResult: newPointResult(p), ChunksNew: p.Stats.Chunks, Packs: p.Stats.Packs,
		Doubts: []string{}, Volumes: []volumeResult{}, Labels: map[string]string{}, Evidence: map[string][]string{},
	}
	maps.Copy(res.Labels, p.Labels)
	for _, v := range p.Volumes {
		res.Volumes = append(res.Volumes, volumeResult{v.Name, v.Files, v.Dirs, v.Bytes, v.Skipped})
	}
	for target, items := range p.Evidence {
		res.Evidence[target] = slices.Sorted(maps.Keys(items))
	}
	proof := protect.NewRecoveryPoint(p) // what the cut proved
	res.Doubts = append(res.Doubts, proof.Doubts...)
	res.FrozenMS, res.SkewMS = millis(proof.Frozen), millis(proof.Skew)
	return c.print(res, res.write)
}

// write writes the result for people.
func (s *showResult) write(w io.Writer) {
	fmt.Fprintf(w, "id\t%s\n", text(s.ID))
	fmt.Fprintf(w, "name\t%s\n", text(s.Name))
	fmt.Fprintf(w, "time\t%s\n", s.Time.Local().Format(time.RFC3339))
	fmt.Fprintf(w, "committed\t%s\n", s.Committed.Local().Format(time.RFC3339))
	if s.Origin != "" {
		fmt.Fprintf(w, "origin\trepository %s\n", text(s.Origin))
	}
	fmt.Fprintf(w, "level\t%s\n", text(s.Level))
	for _, d := range s.Doubts {
		fmt.Fprintf(w, "doubt\t%s\n", text(d))
	}
	fmt.Fprintf(w, "frozen\t%.1f ms\n", s.FrozenMS)
	fmt.Fprintf(w, "skew\t%.1f ms\n", s.SkewMS)
	fmt.Fprintf(w, "size\t%s in %d files and %d directories\n", size(s.Bytes), s.Files, s.Dirs)
	fmt.Fprintf(w, "new\t%s in %d chunks, stored as %s in %d packs\n", size(s.BytesNew), s.ChunksNew, size(s.BytesStored), s.Packs)
	for _, v := range s.Volumes {
		fmt.Fprintf(w, "volume\t%s: %s in %d files and %d directories, %d skipped\n", text(v.Name), size(v.Bytes), v.Files, v.Dirs, v.Skipped)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		fmt.Fprintf(w, "label\t%s=%s\n", text(k), text(s.Labels[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Evidence)) {
		fmt.Fprintf(w, "evidence\t%s: %s\n", text(k), texts(s.Evidence[k]))
	}
}

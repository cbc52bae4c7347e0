// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// diffResult is what diff prints.
type diffResult struct {
	From     string         `json:"from"`
	To       string         `json:"to"`
	Added    int64          `json:"added"`
	Removed  int64          `json:"removed"`
	Modified int64          `json:"modified"` // content
	Metadata int64          `json:"metadata"` // nothing but it
	Changes  []changeResult `json:"changes"`
}

// changeResult is one entry that is different.
type changeResult struct {
	Volume    string `json:"volume"`
	Path      string `json:"path"`                  // in the volume; "." is its root
	PathBytes string `json:"path_base64,omitempty"` // see entryResult
	Change    string `json:"change"`                // added, removed, modified or metadata
	Type      string `json:"type"`                  // of what is there now, or was
	SizeFrom  int64  `json:"size_from"`
	SizeTo    int64  `json:"size_to"`
}

// The kinds of changes.
const (
	changeAdded    = "added"
	changeRemoved  = "removed"
	changeModified = "modified"
	changeMetadata = "metadata"
)

func (c *cli) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff POINT POINT",
		Short: "Show what is different in the second of two recovery points",
		Long: `Show what is different in the second of two recovery points. What they share is not
read. A volume that only one of them has is one change. The exit status is 0
whether there are differences or not.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				return c.diff(ctx, r, args[0], args[1])
			})
		},
	}
}

func (c *cli) diff(ctx context.Context, r *repo.Repository, from, to string) error {
	a, err := findPoint(ctx, r, from)
	if err != nil {
		return err
	}
	b, err := findPoint(ctx, r, to)
	if err != nil {
		return err
	}
	res := diffResult{From: a.ID, To: b.ID, Changes: []changeResult{}}
	for _, name := range volumeNames(a, b) {
		if err := res.volume(ctx, r, a, b, name); err != nil {
			return err
		}
	}
	return c.print(res, res.write)
}

// volumeNames returns the names of the volumes that the points have, in order.
func volumeNames(points ...*repo.Point) []string {
	var names []string
	for _, p := range points {
		for _, v := range p.Volumes {
			names = append(names, v.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// volume adds what is different in a volume.
func (d *diffResult) volume(ctx context.Context, r *repo.Repository, a, b *repo.Point, name string) error {
	has := func(p *repo.Point) bool {
		return slices.ContainsFunc(p.Volumes, func(v repo.Volume) bool { return v.Name == name })
	}
	root := func(p *repo.Point) (*repo.Tree, *repo.Entry, error) {
		if !has(p) {
			return nil, nil, nil // no volume, no error
		}
		t, err := r.Tree(ctx, p, name)
		if err != nil {
			return nil, nil, err
		}
		e, err := t.Entry(ctx, ".")
		return t, e, err
	}
	ta, ea, err := root(a)
	if err != nil {
		return err
	}
	tb, eb, err := root(b)
	if err != nil {
		return err
	}
	if ta == nil || tb == nil {
		d.add(name, repo.Change{Path: ".", Old: ea, New: eb, Content: true})
		return nil
	}
	for ch, err := range ta.Diff(ctx, tb) {
		if err != nil {
			return err
		}
		d.add(name, ch)
	}
	return nil
}

func (d *diffResult) add(volume string, ch repo.Change) {
	out := changeResult{Volume: volume, Path: ch.Path, PathBytes: rawPath(ch.Path)}
	if ch.Old != nil {
		out.Type, out.SizeFrom = ch.Old.Type.String(), ch.Old.Size
	}
	if ch.New != nil {
		out.Type, out.SizeTo = ch.New.Type.String(), ch.New.Size
	}
	switch {
	case ch.Old == nil:
		out.Change = changeAdded
		d.Added++
	case ch.New == nil:
		out.Change = changeRemoved
		d.Removed++
	case ch.Content || ch.Old.Target != ch.New.Target:
		out.Change = changeModified
		d.Modified++
	default:
		out.Change = changeMetadata
		d.Metadata++
	}
	d.Changes = append(d.Changes, out)
}

// write writes the result for people.
func (d *diffResult) write(w io.Writer) {
	marks := map[string]string{changeAdded: "+", changeRemoved: "-", changeModified: "M", changeMetadata: "m"}
	for _, ch := range d.Changes {
		name := text(path.Join(ch.Volume, ch.Path))
		if ch.Type == repo.Dir.String() && !strings.HasSuffix(name, `"`) {
			name += "/"
		}
		switch {
		case ch.Type == repo.File.String() && ch.Change == changeModified:
			fmt.Fprintf(w, "%s %s\t%s, was %s\n", marks[ch.Change], name, size(ch.SizeTo), size(ch.SizeFrom))
		case ch.Type == repo.File.String() && ch.Change != changeMetadata:
			fmt.Fprintf(w, "%s %s\t%s\n", marks[ch.Change], name, size(max(ch.SizeTo, ch.SizeFrom)))
		default:
			fmt.Fprintf(w, "%s %s\n", marks[ch.Change], name)
		}
	}
	fmt.Fprintf(w, "%d added, %d removed, %d modified, %d with other metadata\n", d.Added, d.Removed, d.Modified, d.Metadata)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// entryResult is an entry of a volume as ls prints it.
type entryResult struct {
	Volume string `json:"volume"`
	Path   string `json:"path"` // in the volume; "." is its root
	// PathBytes is the path in base64 if it is not UTF-8, which JSON cannot hold.
	PathBytes string    `json:"path_base64,omitempty"`
	Type      string    `json:"type"` // dir, file, symlink or link
	Mode      string    `json:"mode"` // octal, with setuid, setgid and sticky
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	Size      int64     `json:"size"`
	ModTime   time.Time `json:"mtime"`
	Target    string    `json:"target,omitempty"` // of a symlink; of a link, the path of the file's first name
	// TargetBytes is the target likewise.
	TargetBytes string `json:"target_base64,omitempty"`

	mode fs.FileMode
}

func newEntryResult(volume string, e *repo.Entry) entryResult {
	octal := uint32(e.Mode.Perm())
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&m != 0 {
			octal |= bit
		}
	}
	res := entryResult{
		Volume: volume, Path: e.Path, PathBytes: rawPath(e.Path), Type: e.Type.String(), Mode: fmt.Sprintf("%04o", octal),
		UID: e.UID, GID: e.GID, Size: e.Size, ModTime: e.ModTime, Target: e.Target, TargetBytes: rawPath(e.Target), mode: e.Mode,
	}
	switch e.Type {
	case repo.Dir:
		res.mode |= fs.ModeDir
	case repo.Symlink:
		res.mode |= fs.ModeSymlink
	default: // a file, under one name or several
	}
	return res
}

// rawPath returns a path, or what a symlink says, in base64 if JSON cannot hold it.
func rawPath(p string) string {
	if utf8.ValidString(p) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(p))
}

func (c *cli) lsCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "ls POINT [PATH]",
		Short: "List what a recovery point contains",
		Long: `List what is in a directory of a recovery point, or a single file. PATH is VOLUME/path,
or a path in the only volume; without it, ls lists the only volume, or the
volumes if there are several.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRepository(cmd.Context(), func(ctx context.Context, r *repo.Repository) error {
				sub := ""
				if len(args) == 2 {
					sub = args[1]
				}
				return c.ls(ctx, r, args[0], sub, recursive)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list everything below, too")
	return cmd
}

func (c *cli) ls(ctx context.Context, r *repo.Repository, arg, sub string, recursive bool) error {
	p, err := findPoint(ctx, r, arg)
	if err != nil {
		return err
	}
	res := []entryResult{}
	if sub == "" && len(p.Volumes) != 1 {
		for _, v := range p.Volumes {
			if res, err = list(ctx, r, p, v.Name, ".", recursive, true, res); err != nil {
				return err
			}
		}
	} else {
		volume, within, err := selectPath(ctx, r, p, sub)
		if err != nil {
			return err
		}
		if res, err = list(ctx, r, p, volume, within, recursive, false, res); err != nil {
			return err
		}
	}
	return c.print(res, func(w io.Writer) {
		for _, e := range res {
			e.write(w, len(p.Volumes) > 1)
		}
	})
}

// list appends what ls says of a path: what is in a directory, or the entry
// itself if it is something else or if self asks for it.
func list(ctx context.Context, r *repo.Repository, p *repo.Point, volume, within string, recursive, self bool, res []entryResult) ([]entryResult, error) {
	t, err := r.Tree(ctx, p, volume)
	if err != nil {
		return nil, err
	}
	root, err := t.Entry(ctx, within)
	if err != nil {
		return nil, err
	}
	if self || root.Type != repo.Dir {
		res = append(res, newEntryResult(volume, root))
	}
	var below iter.Seq2[*repo.Entry, error]
	switch {
	case root.Type != repo.Dir || self && !recursive:
		return res, nil
	case recursive:
		below = t.Entries(ctx, within)
	default:
		below = t.Children(ctx, within)
	}
	for e, err := range below {
		if err != nil {
			return nil, err
		}
		if e.Path != within {
			res = append(res, newEntryResult(volume, e))
		}
	}
	return res, nil
}

// write writes the entry for people.
func (e *entryResult) write(w io.Writer, named bool) {
	name := e.Path
	if named {
		name = path.Join(e.Volume, e.Path)
	}
	name = text(name)
	switch e.Type {
	case repo.Symlink.String():
		name += " -> " + text(e.Target)
	case repo.Link.String():
		name += " = " + text(e.Target)
	}
	fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", e.mode, e.UID, e.GID, e.Size, e.ModTime.Local().Format(time.DateTime), name)
}

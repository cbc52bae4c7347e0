// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Owner is a user and a group of the operating system, by number.
type Owner struct{ UID, GID int }

// Give makes everything below root the owner's, and never what a link leads to.
func Give(ctx context.Context, root string, o Owner) error {
	return filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		return os.Lchown(name, o.UID, o.GID)
	})
}

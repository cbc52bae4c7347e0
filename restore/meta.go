// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

const specialModes = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// applyMeta gives an open file or directory, which has the name in root, what
// the entry says about it. The time comes last, since the rest may change it,
// and attributes come first, since the owner and the mode may forbid them.
func (r *run) applyMeta(it item, root *os.Root, name string, f *os.File) error {
	if err := r.applyXattrs(it, f); err != nil {
		return err
	}
	if r.opts.Owners {
		uid, gid := r.owner(it)
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	mode := it.Mode.Perm()
	if special := it.Mode & specialModes; special != 0 {
		if r.opts.SpecialModes {
			mode |= special
		} else {
			r.skip(it, "setuid, setgid or sticky bit")
		}
	}
	if err := setMode(f, mode); err != nil {
		return err
	}
	return setTime(root, name, f, it.ModTime)
}

func (r *run) applyXattrs(it item, f *os.File) error {
	for _, x := range it.Xattrs {
		// Other namespaces carry rights and labels of the system that the file
		// was on.
		err := errors.ErrUnsupported
		if strings.HasPrefix(x.Name, "user.") {
			err = setXattr(f, x.Name, x.Value)
		}
		if errors.Is(err, errors.ErrUnsupported) {
			r.skip(it, "attribute "+x.Name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) owner(it item) (uid, gid int) {
	u, g := it.UID, it.GID
	if r.opts.MapOwner != nil {
		u, g = r.opts.MapOwner(u, g)
	}
	return int(u), int(g)
}

// syncEach flushes a complete file or directory where syncAll does not.
func (r *run) syncEach(f *os.File) error {
	if syncsAll || r.opts.NoSync {
		return nil
	}
	return syncOne(f)
}

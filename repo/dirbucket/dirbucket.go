// SPDX-License-Identifier: Apache-2.0

// Package dirbucket is a durable gocloud.dev/blob driver for a directory of the
// local machine: a [blob.Bucket] whose acknowledged writes survive a power cut
// and whose create-once writes have exactly one winner, between goroutines and
// between processes. The file driver of gocloud.dev promises neither.
//
//	bucket, err := dirbucket.OpenBucket("/srv/backup", &dirbucket.Options{CreateDir: true})
//
// or, after [Register], with a URL:
//
//	dirbucket.Register(blob.DefaultURLMux())
//	bucket, err := blob.OpenBucket(ctx, "dir:///srv/backup?create_dir=true")
//
// # Guarantees
//
// A write becomes visible at once and complete when Close returns nil: content
// is flushed to the disk before it gets its name, the directory afterwards. A
// write whose context is done before Close, or whose process dies, leaves
// nothing visible. With blob.WriterOptions.IfNotExist the name is given by
// link(2): exactly one writer wins, the others get the code
// gcerrors.FailedPrecondition (and fs.ErrExist); by then the winner's object is
// durable too. Delete returns when the removal is durable. List flushes the
// directories that it reads, so that what it shows does not vanish in a power
// cut. A read by name gives no such promise about an object whose writer has
// not been acknowledged yet. An error of Close after the name was given (the
// last flush failed) is ambiguous: the object may exist. A full disk has the
// code gcerrors.ResourceExhausted.
//
// Reads and lists are strongly consistent. A reader that is open while the
// object is replaced or deleted goes on with the old content.
//
// # File systems
//
// Local file systems and NFS are served with hard links. Where these do not
// exist (vfat, exFAT), an exclusive rename takes their place on Linux and macOS;
// elsewhere create-once writes fail with gcerrors.Unimplemented instead of
// pretending. On Windows and on mounts that refuse to flush directories the
// latest names may be lost in a power cut, though never part of an object.
//
// # Layout
//
// An object is one file. The elements of its key are directories, with a "+"
// at the end so that both "a" and "a/b" can be objects: key "packs/0a/pack-1" is
// the file packs+/0a+/pack-1. Names consist of a-z, 0-9, "-", "_" and inner ".";
// all other bytes are escaped as %xx, also capitals and what is reserved on some
// system, so that a tree can be copied between Linux, macOS and Windows, and no
// key, however hostile, leaves the directory. Every key of valid length works: an
// element may have 254 bytes after escaping.
//
// A file holds exactly the bytes of its object, unless the object has attributes
// (a content type other than application/octet-stream, metadata, …) that do not
// fit there: these follow the content in the same file, as a trailer. Note that
// blob.Writer guesses a content type unless DisableContentTypeDetection is set.
// MD5 sums are not kept; creation times are not known.
//
// Files with other names are ignored. Unfinished writes are in the directory
// .tmp; what dead processes left there is removed by [OpenBucket] after
// [Options.TempAge].
package dirbucket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/internal/durable"
)

const tempDir = ".tmp"

// Options are the settings of a bucket. Nil and zero values mean the defaults.
type Options struct {
	// CreateDir makes the directory, durably and with its parents, if it does
	// not exist. Without it a missing directory is an error (fs.ErrNotExist).
	CreateDir bool
	// FileMode and DirMode are the permissions of new files and directories,
	// before the umask. The defaults are 0600 and 0700.
	FileMode, DirMode fs.FileMode
	// TempAge is the time since its last write after which an unfinished file
	// counts as left by a dead process and is removed when a bucket is opened.
	// The default is 24 hours; negative means never. A living writer that
	// pauses longer than this fails when it goes on.
	TempAge time.Duration
	// Logger gets a warning if such files can not be removed. Nil is silent.
	Logger hclog.Logger
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.FileMode == 0 {
		c.FileMode = 0o600
	}
	if c.DirMode == 0 {
		c.DirMode = 0o700
	}
	if c.TempAge == 0 {
		c.TempAge = 24 * time.Hour
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return c
}

// OpenBucket opens the directory dir as a bucket. It may be open any number of
// times, in any number of processes. The caller closes the bucket; writers that
// are still open then can not finish.
func OpenBucket(dir string, opts *Options) (*blob.Bucket, error) {
	b, err := openBucket(dir, opts)
	if err != nil {
		return nil, err
	}
	return blob.NewBucket(b), nil
}

func openBucket(dir string, opts *Options) (*bucket, error) {
	o := opts.withDefaults()
	if bad := (o.FileMode | o.DirMode) &^ fs.ModePerm; bad != 0 {
		return nil, fmt.Errorf("dirbucket: permissions %v are not supported: %w", bad, fs.ErrInvalid)
	}
	if o.CreateDir {
		if err := durable.MkdirAll(dir, o.DirMode); err != nil {
			return nil, fmt.Errorf("dirbucket: create: %w", err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("dirbucket: open: %w", err)
	}
	b := &bucket{root: root, files: durable.NewDir(durable.RootFS(root), &durable.Options{
		TempDir:  tempDir,
		FileMode: o.FileMode,
		DirMode:  o.DirMode,
	})}
	if o.TempAge > 0 {
		// A bucket that may only be read is opened all the same.
		if _, err := b.files.Sweep(time.Now().Add(-o.TempAge)); err != nil && !errors.Is(err, fs.ErrPermission) {
			o.Logger.Warn("unfinished files stay", "dir", dir, "error", err)
		}
	}
	return b, nil
}

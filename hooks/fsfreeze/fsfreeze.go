// SPDX-License-Identifier: Apache-2.0

// Package fsfreeze quiesces a mounted Linux file system with the FIFREEZE
// ioctl: writers block, dirty data is on the device, and a snapshot taken
// below the file system is clean.
//
// # Safety
//
// A frozen file system has no owner and survives whoever froze it; its writers
// cannot even be killed. Therefore a watchdog process freezes in our place
// (package hooks/watchdog, which the program must offer). It is armed before
// the freeze, and thaws when it is asked to, when this process dies, or when
// the window ends. If the watchdog is killed this process thaws at once. The
// intent in the group's journal covers the death of both.
//
// Whoever may yet freeze or thaw the file system has a lock on its root
// directory (flock, which writes nothing): the process that freezes, and its
// watchdog until it has thawed. The kernel releases it when both are gone. A
// freeze waits for it, so that a watchdog that was stalled never thaws the
// freeze of somebody who came after it.
//
// # What a proof means
//
// The kernel has one freeze for each file system and no name for it: a second
// freeze is refused with EBUSY, and anybody's thaw ends it. A file system that
// somebody else has frozen is hooks.ErrForeignFreeze and is left alone. While
// holding, the watchdog asks the kernel to freeze again and takes the refusal
// as the proof; if nobody refuses, the freeze was lost, and it thaws. A thaw
// that finds nothing frozen is hooks.ErrHoldLost. A stranger that thaws and
// freezes again between two of these questions goes unnoticed.
//
// The path must lead to the frozen file system when the proof is asked for:
// another one that was mounted there meanwhile is hooks.ErrHoldLost. What is
// frozen stays known by its open directory, and is thawed wherever it is.
//
// Recover thaws the file system because the journal says that we may have
// frozen it. If a stranger has frozen it since, that freeze ends.
//
// # Limits
//
// The process and the watchdog need CAP_SYS_ADMIN in the user namespace that
// mounted the file system. File systems without freezing (overlay, NFS, FUSE,
// tmpfs) are refused with an error that wraps errors.ErrUnsupported, and so is
// the root file system, whose freeze stops the machine. So is a mount that shows
// only a part of a file system (a bind mount of a directory, a btrfs
// subvolume): the freeze would stop all of it, and its lock would be another
// one. Name the place where the whole is mounted. A snapshot that is
// made inside the frozen file system (btrfs subvolume, reflink) blocks for
// ever: freeze only what is cut from below. Freeze what lies on top first: a
// file system in a loop file before the one that holds the file.
package fsfreeze

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/hooks"
)

// Options are the optional settings of a quiescer.
type Options struct {
	// Helper is the program, with leading arguments, that runs
	// watchdog.Main when its next argument is watchdog.Arg. It is required,
	// as an absolute path: this package never guesses what to execute. It
	// must lie outside the file system to freeze.
	Helper []string
	// Env is the whole environment of the helper. Nil is an empty one.
	Env []string
	// Outside lists paths that must not lie on the file system to freeze,
	// such as the directory of the journal and of log files. Prepare and
	// Quiesce refuse if one of them does. Helper need not be repeated.
	Outside []string
	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
}

// check validates the options and fills in defaults.
func (o *Options) check() (Options, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	if len(opts.Helper) == 0 {
		return Options{}, errors.New("fsfreeze: Options.Helper is required")
	}
	if !filepath.IsAbs(opts.Helper[0]) {
		return Options{}, fmt.Errorf("fsfreeze: helper %q is not an absolute path", opts.Helper[0])
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	opts.Helper = slices.Clone(opts.Helper)
	opts.Outside = append(slices.Clone(opts.Outside), opts.Helper[0])
	return opts, nil
}

var (
	_ hooks.Preparer  = (*Quiescer)(nil)
	_ hooks.Recoverer = (*Quiescer)(nil)
)

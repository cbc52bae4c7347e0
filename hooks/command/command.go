// SPDX-License-Identifier: Apache-2.0

// Package command quiesces with programs: a database client, a script, an
// administration tool. There are two kinds.
//
// # A held program
//
// [New] runs one program for the length of the freeze. It fits whatever a
// session holds, since a lock that a program takes is gone when that program
// ends. The program
//
//  1. freezes its target,
//  2. writes the line READY to its standard output, after at most 64 KiB of
//     other lines,
//  3. waits for the end of its standard input,
//  4. thaws, and ends with status 0.
//
// What it writes to its standard output after READY is evidence, under the
// name "stdout"; more than hooks.MaxEvidence makes the freeze fail. Its target
// must thaw when the program is killed.
//
// # A pair of programs
//
// [NewPair] runs one program that freezes and one that thaws, for targets that
// stay frozen in between: a maintenance mode, an administration interface. A
// watchdog process (package hooks/watchdog, which the calling program must
// offer) runs both: it is armed before the freeze, and runs the thaw program
// when it is asked to, when this process dies, or when the window ends. From
// the start of the freeze program on, the target counts as maybe frozen: the
// thaw program runs also if the freeze program fails or takes too long. It
// must therefore succeed, and do nothing, if nothing is frozen. What the two
// programs write to their standard output is evidence, under the names
// "freeze" and "thaw".
//
// A target that knows no epochs is safe from programs that come late: who runs
// them, and each of them, holds a lock (Options.Lock) that the next freeze waits
// for. A program that leaves others behind, or acts on another machine, has to
// see to those itself, by PROTECT_EPOCH.
//
// What a pair freezes can be thawed by others, or restarted. So a third program
// (Options.Held) asks the target whether it is still frozen. Without it a hold
// is never proven: that the thaw program has not run says nothing of the target.
//
// # Environment
//
// Programs are started from an argument list, never through a shell, in a
// process group of their own, with the root directory as their working
// directory. They inherit no environment: they get Options.Env and
//
//	PROTECT_EPOCH           number of the freeze
//	PROTECT_WINDOW          what is left of the window, like 9.5s
//	PROTECT_WINDOW_SECONDS  the same in seconds, rounded up
//
// so that a program can limit itself (wait_timeout, idle_session_timeout,
// timeout(1)). A program that also runs elsewhere, like the client of a
// server, must do so: that its own death reaches the target is all that this
// package can see to. Standard error is for people: its end is quoted in
// errors. On systems without process groups only the program itself is killed.
package command

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect/hooks"
)

const (
	defaultGrace       = 5 * time.Second
	defaultThawTimeout = 10 * time.Second
)

// Options are the optional settings of New and NewPair.
type Options struct {
	// FilesystemOnly says that the programs stop writes without asking the
	// application, so that a proven hold is worth hooks.Filesystem. Otherwise
	// it is worth hooks.Application.
	FilesystemOnly bool
	// Env is the environment of the programs, as KEY=value. Nil is the usual
	// PATH of a Unix system and nothing else, so that no secret of this
	// process reaches them by accident.
	Env []string
	// Grace is how long a held program may take to end after its input has,
	// and again after SIGTERM, before it is killed. Zero means 5 s.
	Grace time.Duration

	// Helper is required by NewPair: the program, with leading arguments, that
	// runs watchdog.Main when its next argument is watchdog.Arg, as an
	// absolute path.
	Helper []string
	// Lock is required by NewPair: the absolute path of a file or directory
	// that stands for the target, such as its data directory. It is locked
	// (flock, which writes nothing) by whoever may yet run one of the programs,
	// and by the programs themselves, and a freeze waits for it: nothing that a
	// dead process left behind meets a newer freeze. So all who freeze the same
	// target have to name the same file, and those of other targets another
	// one. It must be local. A file that is missing is created, empty. On
	// systems without flock, like Windows, it protects from nothing.
	Lock string
	// Held is the program of a pair, and its arguments, that asks the target
	// for the proof: it ends with status 0 only if the target has been frozen
	// without a gap since the freeze program of the freeze PROTECT_EPOCH ended.
	// That it is frozen is enough if nobody else freezes it. The program has no
	// lock and must change nothing. Without it, no hold is proven.
	Held []string
	// ThawTimeout bounds one run of the thaw program of a pair. Zero means
	// 10 s. Runs that fail are repeated for a minute.
	ThawTimeout time.Duration

	// Logger receives what an operator would act on. Nil is silent.
	Logger hclog.Logger
}

// check validates the options and fills in defaults.
func (o *Options) check() (Options, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Grace < 0 || opts.ThawTimeout < 0 {
		return Options{}, errors.New("command: a duration in Options is negative")
	}
	for _, entry := range opts.Env {
		// The entry itself may be a secret.
		if key, _, ok := strings.Cut(entry, "="); !ok || key == "" || strings.ContainsRune(entry, 0) {
			return Options{}, fmt.Errorf("command: environment entry with key %q is not KEY=value", key)
		}
	}
	if opts.Env == nil && runtime.GOOS != "windows" {
		opts.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if opts.Grace == 0 {
		opts.Grace = defaultGrace
	}
	if opts.ThawTimeout == 0 {
		opts.ThawTimeout = defaultThawTimeout
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	opts.Logger = opts.Logger.Named("command")
	opts.Env = slices.Clone(opts.Env)
	return opts, nil
}

// scope returns what a hold is worth.
func (o *Options) scope() hooks.Scope {
	if o.FilesystemOnly {
		return hooks.Filesystem
	}
	return hooks.Application
}

// environ is the environment of the programs of one freeze.
func (o *Options) environ(req hooks.FreezeRequest) []string {
	seconds := (req.Window + time.Second - 1) / time.Second
	return append(slices.Clone(o.Env),
		"PROTECT_EPOCH="+strconv.FormatUint(uint64(req.Epoch), 10),
		"PROTECT_WINDOW="+req.Window.String(),
		"PROTECT_WINDOW_SECONDS="+strconv.FormatInt(int64(seconds), 10),
	)
}

// resolve checks an argument list and makes its program an absolute path, so
// that a typing error shows before the first freeze.
func resolve(what string, argv []string) ([]string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, fmt.Errorf("command: no %s program given", what)
	}
	path, err := exec.LookPath(argv[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("command: %s program: %w", what, err)
	}
	return append([]string{path}, argv[1:]...), nil
}

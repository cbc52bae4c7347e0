// SPDX-License-Identifier: Apache-2.0

// Command protectctl takes and restores recovery points. It is the reference
// program of the library: every command is a file here that reads its flags,
// calls the library and prints what came of it.
//
//	protectctl --repo URL [--password-file F] [--cache DIR] [--head HEAD] [--json] COMMAND
//
//	init                      make a repository
//	backup PATH…              take a recovery point of folders, files, or "-" (stdin)
//	list                      all recovery points, the newest first
//	show POINT                all that is known of one
//	ls POINT [PATH]           what it contains
//	diff POINT POINT          what is different in the second
//	dump POINT PATH           one file, to stdout
//	restore POINT TARGET      write one to a directory
//	verify [--level L]        check that everything is complete and authentic
//	repair                    repair what can be repaired
//	forget POINT… | --keep-…  forget points: these, or what a policy does not keep
//	hold add|remove|list      keep a point from being forgotten
//	gc                        free what no point needs any more
//	copy --to URL [POINT…]    copy points to another repository
//	key add|remove|list|rotate  the passwords that open the repository
//	head                      what tells later that nothing was put back
//	stats                     what the repository holds and takes
//
// The URL is that of any bucket: dir:///srv/backup for a local directory,
// s3://…, gs://…, azblob://…. The password is read from the file, or from the
// variable PROTECT_PASSWORD. A POINT is its id, a unique beginning of that,
// "latest" or "latest:NAME".
//
// # Exit status
//
// 0 is full success, 1 a failure, and 3 says that damage was found in the
// repository, or that it was put back to an earlier state. With --json the result
// is on stdout, and nothing else is: one object, or an array for list, ls and key
// list. Errors go to stderr, as text.
//
// # Freezes
//
// Without more, backup reads the volumes as they are: consistency "none". With
// --hold, or --freeze and --thaw, it freezes the application, cuts the volumes
// into a staging directory, thaws, and reads from there. The thaw does not
// depend on this program: its own end, by whatever signal, thaws too.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/stillpoint-go/protect/hooks/watchdog"
)

func main() {
	// The helper that thaws when we cannot is this very program.
	if len(os.Args) > 1 && os.Args[1] == watchdog.Arg {
		os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
	}
	// The handler stays until the end, so that a second, impatient signal does
	// not keep the first one from thawing and cleaning up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/stillpoint-go/protect/repo"
)

// The exit statuses.
const (
	exitOK      = 0
	exitFailure = 1
	exitDamage  = 3
)

// cli is what the commands have in common.
type cli struct {
	repository   string // its URL, which may hold secrets
	other        string // that of a second repository, likewise
	passwordFile string
	cache        string
	head         string
	json         bool
	noProgress   bool
	verbose      bool

	password       string // of the environment
	stdin          io.Reader
	stdout, stderr io.Writer
	log            hclog.Logger
}

// run is the program without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr, password: os.Getenv(passwordVariable)}
	// The programs that we start to freeze something have no use for it.
	_ = os.Unsetenv(passwordVariable)
	root := c.command() //nolint:contextcheck // cobra hands ctx to the commands
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "protectctl:", c.redact(err.Error()))
	switch {
	case errors.Is(err, errDamage) || errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrRollback):
		return exitDamage
	case errors.Is(err, repo.ErrFull):
		fmt.Fprintln(stderr, "protectctl: forget points and run gc, or give the store more room; both need a few kilobytes of it")
	}
	return exitFailure
}

func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "protectctl",
		Short:         "Take application-consistent recovery points, and bring them back",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("there is no command, see protectctl --help")
		},
		PersistentPreRun: func(*cobra.Command, []string) { c.newLog(c.verbose) },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&c.repository, "repo", "", "URL of the repository's bucket, such as dir:///srv/backup (required)")
	f.StringVar(&c.passwordFile, "password-file", "", "file with the password; default: $"+passwordVariable)
	f.StringVar(&c.cache, "cache", "", "directory for copies of the repository's metadata, which is made if it is missing")
	f.StringVar(&c.head, "head", "", "what the command head printed earlier, or @ and a file that holds it: fail if the repository has been put back since")
	f.BoolVar(&c.json, "json", false, "print the result as JSON")
	f.BoolVarP(&c.noProgress, "quiet", "q", false, "show no progress")
	f.BoolVar(&c.noProgress, "no-progress", false, "same as --quiet")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "log what happens to stderr")
	root.AddCommand(
		c.initCommand(), c.backupCommand(), c.listCommand(), c.showCommand(),
		c.lsCommand(), c.diffCommand(), c.dumpCommand(),
		c.restoreCommand(), c.verifyCommand(), c.repairCommand(), c.statsCommand(),
		c.forgetCommand(), c.holdCommand(), c.gcCommand(), c.copyCommand(), c.keyCommand(), c.headCommand(),
	)
	return root
}

// newLog makes the log, which may quote the errors of drivers.
func (c *cli) newLog(verbose bool) {
	level := hclog.Warn
	if verbose {
		level = hclog.Debug
	}
	c.log = hclog.New(&hclog.LoggerOptions{Output: redacting{c}, Level: level})
}

// redacting is stderr, without secrets.
type redacting struct{ c *cli }

func (r redacting) Write(line []byte) (int, error) {
	_, err := io.WriteString(r.c.stderr, r.c.redact(string(line)))
	return len(line), err
}

// withRepository opens the repository for fn.
func (c *cli) withRepository(ctx context.Context, fn func(context.Context, *repo.Repository) error) (err error) {
	head, err := c.expectedHead()
	if err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	return c.open(ctx, c.repository, key, &repo.Options{Logger: c.log, CacheDir: c.cache, Head: head}, fn)
}

// open opens the repository at the URL for fn.
func (c *cli) open(ctx context.Context, url string, key repo.Key, opts *repo.Options, fn func(context.Context, *repo.Repository) error) (err error) {
	bucket, err := openBucket(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	r, err := repo.Open(ctx, bucket, key, opts)
	if err != nil {
		return err
	}
	return fn(ctx, r)
}

// withOther opens a second repository for fn. Without a password file of its
// own it has the password of the first.
func (c *cli) withOther(ctx context.Context, url, passwordFile string, fn func(context.Context, *repo.Repository) error) error {
	c.other = url // secrets in it are not shown
	key, err := c.keyFrom(passwordFile)
	if err != nil {
		return err
	}
	return c.open(ctx, url, key, &repo.Options{Logger: c.log}, fn)
}

// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// Launch says how to start a private server.
type Launch struct {
	// Bin has the programs, or is the bin directory of an installation with
	// the server in sbin or libexec beside it.
	Bin string
	// Server, Client and Check are the names of the programs.
	Server, Client, Check string
	// Dir is the data directory.
	Dir string
	// Settings are long options of the server, without dashes.
	Settings map[string]string
	// Timeout bounds the recovery.
	Timeout time.Duration
}

// Instance is a private server: without network and grants, on a socket in a
// directory that only its user can enter.
type Instance struct {
	Socket  string
	l       *Launch
	private string
	owner   program.Owner
	cmd     *exec.Cmd
	log     *serverLog
	ended   chan struct{} // closed when the server has
	err     error         // why it has, then
}

const (
	stopTimeout = 5 * time.Minute
	pollStart   = 50 * time.Millisecond
)

// ErrBroken reports a server that does not start on the files, or that finds
// fault with them.
var ErrBroken = errors.New("the server finds fault with its files")

// Start starts a server and returns when it has recovered.
func (l *Launch) Start(ctx context.Context) (_ *Instance, err error) {
	at := &Instance{l: l, log: new(serverLog), ended: make(chan struct{})}
	if at.owner, err = program.OwnerOf(l.Dir); err != nil {
		return nil, err
	}
	// A short path: the name of a socket has about a hundred bytes.
	if at.private, err = os.MkdirTemp("", "protect-my-"); err != nil {
		return nil, err
	}
	at.Socket = filepath.Join(at.private, "socket")
	defer func() {
		if err != nil {
			err = errors.Join(err, at.Remove())
		}
	}()
	if os.Geteuid() == 0 {
		if err := os.Chown(at.private, at.owner.UID, at.owner.GID); err != nil {
			return nil, err
		}
	}
	args := []string{
		"--no-defaults", "--datadir=" + l.Dir, "--socket=" + at.Socket, "--pid-file=" + filepath.Join(at.private, "pid"), "--tmpdir=" + at.private,
		"--skip-networking", "--skip-grant-tables", "--lc-messages=en_US",
	}
	for name, value := range l.Settings {
		args = append(args, "--"+name+"="+value)
	}
	// Its life is not that of ctx: Stop sees to it.
	if at.cmd, err = at.command(context.WithoutCancel(ctx), l.Server, args...); err != nil {
		return nil, err
	}
	at.cmd.Stdout, at.cmd.Stderr = at.log, at.log
	if err := at.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(at.ended)
		at.err = at.cmd.Wait()
	}()
	if err := at.waitRecovered(ctx); err != nil {
		return nil, errors.Join(err, at.Stop(ctx))
	}
	return at, nil
}

// waitRecovered returns when the server answers.
func (at *Instance) waitRecovered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, at.l.Timeout)
	defer cancel()
	for {
		if _, err := os.Lstat(at.Socket); err == nil {
			if _, err := at.Query(ctx, "SELECT 1"); err == nil {
				return at.Fine()
			}
		}
		timer := time.NewTimer(pollStart)
		select {
		case <-at.ended:
			timer.Stop()
			return fmt.Errorf("%w: it does not start: %w: %s", ErrBroken, at.err, at.log.String())
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the server has not recovered: %w: %s", ctx.Err(), at.log.String())
		case <-timer.C:
		}
	}
}

// Fine returns an error if the server has logged any: InnoDB goes on after many
// a fault that it finds.
func (at *Instance) Fine() error {
	if found := at.log.found(); found != "" {
		return fmt.Errorf("%w: %s", ErrBroken, found)
	}
	return nil
}

// End returns where the redo log ended that the server found.
func (at *Instance) End() uint64 { return at.log.ended() }

// Stop ends the server, in order if it can, and returns when it has ended.
func (at *Instance) Stop(ctx context.Context) error {
	select {
	case <-at.ended:
		return nil // said by who has waited for it
	default:
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	_ = program.Stop(at.cmd)
	select {
	case <-at.ended:
		return at.Fine()
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = at.cmd.Process.Kill()
	<-at.ended
	return errors.New("the server did not shut down in time")
}

// Remove removes what was private to the instance.
func (at *Instance) Remove() error { return os.RemoveAll(at.private) }

// find returns the path of a program.
func (at *Instance) find(name string) (string, error) {
	for _, dir := range []string{at.l.Bin, filepath.Join(at.l.Bin, "..", "sbin"), filepath.Join(at.l.Bin, "..", "libexec")} {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in %q: %w", name, at.l.Bin, exec.ErrNotFound)
}

// command is a program that runs as the owner of the files.
func (at *Instance) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	p, err := at.find(name)
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, p, args...)
	c.Dir = at.private
	// Nothing is inherited that the programs would listen to.
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + at.private}
	return c, program.As(c, at.owner)
}

// run runs a client program to its end.
func (at *Instance) run(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error {
	c, err := at.command(ctx, name, append([]string{"--no-defaults", "--protocol=socket", "--socket=" + at.Socket, "--user=root"}, args...)...)
	if err != nil {
		return err
	}
	c.Stdout, c.Stderr = stdout, stderr
	return c.Run()
}

// Query returns the answer to a query, its columns separated by tabs.
func (at *Instance) Query(ctx context.Context, query string) (string, error) {
	var out bytes.Buffer
	var failed program.Tail
	if err := at.run(ctx, &out, &failed, at.l.Client, "--batch", "--skip-column-names", "--execute="+query); err != nil {
		return "", fmt.Errorf("%s: %w: %s", brief(query), err, failed.String())
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

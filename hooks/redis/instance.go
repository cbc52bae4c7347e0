// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/hooks/internal/program"
)

// instance is a private server.
type instance struct {
	Instance
	prefix  string // of the programs: /usr/bin/redis
	private string // the directory of the socket
	owner   program.Owner
	cmd     *exec.Cmd
	log     *program.Tail
	ended   chan struct{} // closed when the server has
	err     error         // why it has, then
}

const (
	stopTimeout = 5 * time.Minute
	startPoll   = 20 * time.Millisecond
	askTimeout  = 10 * time.Second
	maxReply    = 16 << 20 // bytes of INFO
)

// newInstance finds the programs and makes the directory that nobody else can
// enter.
func newInstance(v *verifying) (*instance, error) {
	at := &instance{prefix: filepath.Join(v.bin, "redis"), log: new(program.Tail), ended: make(chan struct{})}
	if _, err := os.Stat(at.prefix + "-server"); err != nil || v.info.Product == "valkey" {
		at.prefix = filepath.Join(v.bin, "valkey")
	}
	file := v.found.rdb
	if file == "" {
		file = v.found.aof[0]
	}
	var err error
	if at.owner, err = program.OwnerOf(file); err != nil {
		return nil, err
	}
	// A short path: the name of a socket has about a hundred bytes.
	if at.private, err = os.MkdirTemp("", "protect-redis-"); err != nil {
		return nil, err
	}
	at.Socket = filepath.Join(at.private, "socket")
	if os.Geteuid() == 0 {
		if err := os.Chown(at.private, at.owner.UID, at.owner.GID); err != nil {
			return nil, errors.Join(err, at.remove())
		}
	}
	return at, nil
}

// remove removes what was private to the instance.
func (at *instance) remove() error { return os.RemoveAll(at.private) }

// start starts the server on the files and returns when it has loaded them.
func (at *instance) start(ctx context.Context, v *verifying) error {
	// Nothing of the configuration of the original takes part.
	args := []string{
		"--port", "0", "--unixsocket", at.Socket, "--unixsocketperm", "700", "--daemonize", "no", "--pidfile", "", "--logfile", "",
		"--dir", v.dir, "--dbfilename", v.info.DBFilename, "--save", "", "--databases", strconv.Itoa(maxDatabases),
		"--appendonly", "no", "--auto-aof-rewrite-percentage", "0", "--cluster-enabled", "no", "--maxmemory", "0",
	}
	if v.info.AppendOnly {
		truncated := "yes"
		if v.info.Method == MethodPaused {
			truncated = "no" // all of it has to be there
		}
		args = append(args, "--appendonly", "yes", "--appendfilename", v.info.AppendFilename, "--aof-load-truncated", truncated)
		if v.info.AppendDir != "" {
			args = append(args, "--appenddirname", v.info.AppendDir)
		}
	}
	var err error
	// Its life is not that of ctx: stop sees to it.
	at.cmd, err = at.command(context.WithoutCancel(ctx), "server", append(args, v.opts.Args...)...)
	if err != nil {
		return err
	}
	at.cmd.Stdout, at.cmd.Stderr = at.log, at.log
	if err := at.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(at.ended)
		at.err = at.cmd.Wait()
	}()
	if err := at.waitLoaded(ctx, v.opts.StartTimeout); err != nil {
		return errors.Join(err, at.stop(ctx))
	}
	return nil
}

// maxDatabases is more than any server has: those that are not used cost little.
const maxDatabases = 10_000

// waitLoaded returns when the server has loaded its files.
func (at *instance) waitLoaded(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	timer := time.NewTimer(startPoll)
	defer timer.Stop()
	for {
		select {
		case <-at.ended:
			return fmt.Errorf("%w: the server does not start: %w: %s", ErrInconsistent, at.err, at.log.String())
		case <-ctx.Done():
			return fmt.Errorf("the server has not loaded its files: %w: %s", ctx.Err(), at.log.String())
		case <-timer.C:
		}
		if srv, err := at.info(ctx); err == nil && !srv.loading {
			return nil
		}
		timer.Reset(startPoll)
	}
}

// info asks the server for its state, over a connection of its own.
func (at *instance) info(ctx context.Context) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", at.Socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "INFO all\r\n"); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxReply))
	head, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil || n < 0 || n > maxReply {
		return nil, fmt.Errorf("INFO: %.200q", head)
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(r, reply); err != nil {
		return nil, err
	}
	return parseInfo(string(reply))
}

// stop ends the server, cleanly if it can, and returns when it has ended.
func (at *instance) stop(ctx context.Context) error {
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
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = at.cmd.Process.Kill() // nothing of it is needed any more
	<-at.ended
	return errors.New("the server did not shut down in time")
}

// command is a program of the server's version that runs as the owner of the
// files.
func (at *instance) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, at.prefix+"-"+name, args...)
	c.Dir = at.private
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + at.private}
	return c, program.As(c, at.owner)
}

// run runs a program to its end and returns the end of what it says.
func (at *instance) run(ctx context.Context, name string, args ...string) (string, error) {
	c, err := at.command(ctx, name, args...)
	if err != nil {
		return "", err
	}
	var out program.Tail
	c.Stdout, c.Stderr = &out, &out
	err = c.Run()
	return out.String(), err
}

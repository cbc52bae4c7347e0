// SPDX-License-Identifier: Apache-2.0

// Package holder runs a child process that holds something for as long as its
// standard input is open.
//
// The child gets a process group or session of its own, so that a signal to
// the parent's group does not reach it, and its pipes are close-on-exec, so
// that its input ends when the parent dies and at no other time.
package holder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

const (
	// drain is how long the output of a child may outlast it, in the hands of
	// its own children.
	drain = time.Second
	// maxStderr is how much of the end of stderr is kept, in bytes.
	maxStderr = 1 << 10
)

// Spec says what to run.
type Spec struct {
	Argv []string // never through a shell
	Env  []string // all of it: nothing is inherited
	// Session starts a session of its own instead of a process group, so that
	// not even the end of the terminal reaches the child.
	Session bool
	// MaxOutput is how much unread output is kept, in bytes; what comes on
	// top is dropped, and Output says so.
	MaxOutput int
	// Inherit is a file that the child gets as descriptor 3. Nil is nothing.
	// Not every system can.
	Inherit *os.File
}

// Process is a running child. It is safe for concurrent use.
type Process struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	stdout *buffer
	stderr *buffer
	exited chan struct{} // closed when the child is gone
	done   chan struct{} // closed when its output has ended as well
	err    error         // of Wait; after exited

	closeInput sync.Once
}

// Start starts the child. It belongs to the caller, who must Stop it or close
// its input.
func Start(spec Spec) (*Process, error) {
	if len(spec.Argv) == 0 {
		return nil, errors.New("no program given")
	}
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...) //nolint:noctx // Stop ends it, in an order of its own
	cmd.Env = append([]string{}, spec.Env...)
	cmd.Dir = rootDir // the child must not pin the caller's directory
	detach(cmd, spec.Session)
	p := &Process{
		cmd:    cmd,
		stdout: newBuffer(spec.MaxOutput, false),
		stderr: newBuffer(maxStderr, true),
		exited: make(chan struct{}),
		done:   make(chan struct{}),
	}
	var err error
	if p.input, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, p.input.Close())
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, p.input.Close(), outR.Close(), outW.Close())
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	if spec.Inherit != nil {
		cmd.ExtraFiles = []*os.File{spec.Inherit}
	}
	err = start(cmd, outR, errR)
	_, _ = outW.Close(), errW.Close()
	if err != nil {
		_, _ = outR.Close(), errR.Close()
		return nil, err
	}
	go p.wait(outR, errR)
	return p, nil
}

// start starts the child, which also gets the reading ends of its output.
func start(cmd *exec.Cmd, outputs ...*os.File) error {
	for _, r := range outputs {
		f, err := spare(r)
		if err != nil {
			return err
		}
		if f != nil {
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
	}
	return cmd.Start()
}

// wait ends with the child, or when its output has been drained.
func (p *Process) wait(stdout, stderr *os.File) {
	var readers sync.WaitGroup
	readers.Go(func() { p.stdout.fill(stdout) })
	readers.Go(func() { p.stderr.fill(stderr) })
	p.err = p.cmd.Wait()
	close(p.exited)

	drained := make(chan struct{})
	go func() { readers.Wait(); close(drained) }()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	_, _ = stdout.Close(), stderr.Close() // ends a reader that still waits
	<-drained
	close(p.done)
}

// ReadLine returns the next line of stdout without its end. It returns io.EOF
// after the last one; what follows it without an end remains for Output.
func (p *Process) ReadLine(ctx context.Context) (string, error) { return p.stdout.readLine(ctx) }

// OutputEnded says whether the child has closed its stdout.
func (p *Process) OutputEnded() bool {
	p.stdout.mu.Lock()
	defer p.stdout.mu.Unlock()
	return p.stdout.eof
}

// Output returns the unread output, and whether some was dropped.
func (p *Process) Output() (data []byte, dropped bool) {
	p.stdout.mu.Lock()
	defer p.stdout.mu.Unlock()
	return bytes.Clone(p.stdout.data), p.stdout.dropped
}

// Send writes to the child's input. The text must be short enough for the
// buffer of a pipe, since nothing else bounds the wait.
func (p *Process) Send(text []byte) error {
	_, err := p.input.Write(text)
	return err
}

// CloseInput tells the child to let go.
func (p *Process) CloseInput() { p.closeInput.Do(func() { _ = p.input.Close() }) }

// Exited is closed when the child is gone.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Done is closed when the child is gone and all of its output is there.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err describes the end of the child, with the end of its stderr: nil for exit
// status 0. It must not be called before Exited is closed.
func (p *Process) Err() error {
	if p.err == nil {
		return nil
	}
	if tail := p.Stderr(); len(tail) > 0 {
		return fmt.Errorf("%w, stderr %q", p.err, tail)
	}
	return p.err
}

// Stderr returns the end of what the child wrote to stderr.
func (p *Process) Stderr() []byte {
	p.stderr.mu.Lock()
	defer p.stderr.mu.Unlock()
	return bytes.TrimSpace(bytes.Clone(p.stderr.data))
}

// Stop ends the child: it closes the input, after grace, or when ctx ends
// before, it asks the process group to terminate, and after another grace it
// kills it. It returns once the child is gone and says whether it went without
// a signal. A child that cannot even be killed is an error.
func (p *Process) Stop(ctx context.Context, grace time.Duration) (willingly bool, err error) {
	p.CloseInput()
	if p.waitFor(ctx, grace) {
		return true, nil
	}
	p.signal(false)
	if p.waitFor(context.WithoutCancel(ctx), grace) {
		return false, nil
	}
	p.signal(true)
	if p.waitFor(context.WithoutCancel(ctx), drain) {
		return false, nil
	}
	return false, errors.New("the process cannot be killed")
}

// waitFor waits for the end of the child and of its output.
func (p *Process) waitFor(ctx context.Context, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
		<-p.done // comes within drain
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// signal ends the process group of a child that still runs.
func (p *Process) signal(kill bool) {
	select {
	case <-p.exited: // its number may belong to somebody else by now
	default:
		signalGroup(p.cmd.Process, kill)
	}
}

// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
)

const childEnv = "PROTECT_CAMPAIGN_JOB"

// job is what a child process does to a repository in a directory.
type job struct {
	Dir, Pantry string
	Plan        []step
	// KillAt is the number of the store call, from 1, at which the process kills
	// itself: before it, or After it. 0 means never.
	KillAt int
	After  bool
	// Attempts bounds the tries of each store call.
	Attempts int
}

// step is an event in the form of a job.
type step struct{ Verb, ID, Recipe string }

// line is what a child says, as JSON, one line each.
type line struct {
	Step       int
	Begin, End bool
	Err, Got   string
	Ambiguous  bool // the error says that the point may be there
	Calls      int
}

// TestMain lets the test binary be the processes that are killed.
func TestMain(m *testing.M) {
	text := os.Getenv(childEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run is the life of a child process.
func (j *job) run(ctx context.Context) error {
	p, err := newPantry(j.Pantry)
	if err != nil {
		return err
	}
	b, err := dirbucket.OpenBucket(j.Dir, &dirbucket.Options{CreateDir: true})
	if err != nil {
		return err
	}
	defer b.Close()
	calls := newSuicide(j.KillAt, j.After)
	b = hook(b, calls.before, calls.after)
	var r *repo.Repository
	for i, s := range j.Plan {
		j.say(line{Step: i, Begin: true})
		if r == nil && verb(s.Verb) != doInit {
			if r, err = repo.Open(ctx, b, key(), &repo.Options{Attempts: j.Attempts}); err != nil {
				return err
			}
		}
		e := event{verb: verb(s.Verb), id: s.ID, recipe: s.Recipe}
		switch e.verb {
		case doInit:
			r, err = repo.Init(ctx, b, key(), nil)
		case doVerify:
			err = j.verify(ctx, r)
		default:
			err = p.change(ctx, r, &e)
		}
		l := line{Step: i, End: true, Got: e.got, Calls: calls.count(), Ambiguous: errors.Is(err, repo.ErrAmbiguous)}
		if err != nil {
			l.Err = err.Error()
		}
		j.say(l)
	}
	return nil
}

// verify reads everything, and fails if anything is damaged.
func (j *job) verify(ctx context.Context, r *repo.Repository) error {
	rep, err := r.Verify(ctx, &repo.VerifyOptions{Level: repo.VerifyFull})
	if err == nil && len(rep.Damage)+len(rep.Unknown) > 0 {
		err = fmt.Errorf("verify finds %+v", *rep)
	}
	return err
}

// say writes a line to the parent.
func (j *job) say(l line) {
	text, err := json.Marshal(l)
	if err == nil {
		_, err = fmt.Printf("%s\n", text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// suicide kills its own process at a call.
type suicide struct {
	at         int
	afterwards bool

	mu    sync.Mutex
	calls int
	fatal bool
}

func newSuicide(at int, after bool) *suicide { return &suicide{at: at, afterwards: after} }

func (s *suicide) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *suicide) before(string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.calls == s.at {
		s.fatal = true
		if !s.afterwards {
			die()
		}
	}
}

// after ends the process with the first call that ends now: with the one that
// counts, or one beside it.
func (s *suicide) after(string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fatal {
		die()
	}
}

// die does not return, and nothing deferred runs.
func die() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	fmt.Fprintln(os.Stderr, "still alive:", err)
	select {}
}

// child is a process that runs a job.
type child struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	stderr strings.Builder
}

// start starts a process for the job.
func start(tb testing.TB, j job) *child {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(j)
	if err != nil {
		tb.Fatal(err)
	}
	c := &child{cmd: exec.CommandContext(tb.Context(), exe)}
	// Built with the race detector it would sleep for a second at its end.
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	return c
}

// next returns the next line of the child, false at its end.
func (c *child) next(tb testing.TB) (line, bool) {
	tb.Helper()
	var l line
	if !c.out.Scan() {
		return l, false
	}
	if err := json.Unmarshal(c.out.Bytes(), &l); err != nil {
		tb.Fatalf("child said %q: %v", c.out.Text(), err)
	}
	return l, true
}

// wait returns whether the process was killed. Any other failure is one of the
// test.
func (c *child) wait(tb testing.TB) (killed bool) {
	tb.Helper()
	err := c.cmd.Wait()
	killed = !c.cmd.ProcessState.Exited()
	if err != nil && !killed {
		tb.Errorf("child: %v: %s", err, &c.stderr)
	}
	return killed
}

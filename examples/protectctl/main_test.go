// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks/watchdog"
)

// The tests run this test binary as protectctl, in processes of their own.
const testMain = "PROTECTCTL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(testMain) == "1" || len(os.Args) > 1 && os.Args[1] == watchdog.Arg {
		main()
	}
	if os.Getenv(testStore) != "" {
		err := serveStore()
		fmt.Fprintln(os.Stderr, "S3 server:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const password = "correct horse battery staple"

// world is a repository and a place for data.
type world struct {
	t    *testing.T
	dir  string
	repo string // URL
	env  []string
}

// newWorld returns a world without a repository.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	return &world{
		t: t, dir: dir, repo: "dir://" + filepath.Join(dir, "repository"),
		env: append(os.Environ(), testMain+"=1", passwordVariable+"="+password, "XDG_CACHE_HOME="+filepath.Join(dir, "cache")),
	}
}

// newRepository returns a world with one.
func newRepository(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.ok(nil, "init", "--kdf", "fast")
	return w
}

// path returns a path below the world's directory.
func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// write makes a file, and its directory.
func (w *world) write(name, content string) string {
	w.t.Helper()
	p := w.path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// script makes a shell script and returns its path.
func (w *world) script(name, text string) string {
	w.t.Helper()
	p := w.write(name, "#!/bin/sh\n"+text)
	if err := os.Chmod(p, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// outcome is how a process ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// process is a running protectctl.
type process struct {
	*exec.Cmd
	t              *testing.T
	stdout, stderr bytes.Buffer
}

// start starts protectctl. It is killed with the test.
func (w *world) start(stdin io.Reader, args ...string) *process {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{t: w.t, Cmd: exec.CommandContext(w.t.Context(), self, append([]string{"--repo", w.repo}, args...)...)}
	p.Env, p.Stdin, p.Cmd.Stdout, p.Cmd.Stderr = w.env, stdin, &p.stdout, &p.stderr
	p.WaitDelay = 10 * time.Second
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// wait returns how the process ended, -1 if by a signal.
func (p *process) wait() outcome {
	p.t.Helper()
	err := p.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		p.t.Fatalf("protectctl: %v", err)
	}
	o := outcome{p.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}
	for _, secret := range []string{password, storeSecret} {
		if strings.Contains(o.stdout+o.stderr, secret) {
			p.t.Errorf("protectctl %q shows a secret:\n%s%s", p.Args, o.stdout, o.stderr)
		}
	}
	return o
}

// run runs protectctl to its end.
func (w *world) run(stdin io.Reader, args ...string) outcome {
	w.t.Helper()
	return w.start(stdin, args...).wait()
}

// ok runs protectctl, which must succeed, and returns its stdout.
func (w *world) ok(stdin io.Reader, args ...string) string {
	w.t.Helper()
	o := w.run(stdin, args...)
	if o.code != exitOK {
		w.t.Fatalf("protectctl %q: exit status %d\n%s", args, o.code, o.stderr)
	}
	return o.stdout
}

// fails runs protectctl, which must end with this status, say why and print
// nothing. It returns the reason.
func (w *world) fails(code int, args ...string) string {
	w.t.Helper()
	o := w.run(nil, args...)
	if o.code != code || !strings.HasPrefix(o.stderr, "protectctl: ") && !strings.Contains(o.stderr, "\nprotectctl: ") {
		w.t.Errorf("protectctl %q: exit status %d, want %d\nstderr: %s", args, o.code, code, o.stderr)
	}
	if code == exitFailure && o.stdout != "" {
		w.t.Errorf("protectctl %q failed and printed %q", args, o.stdout)
	}
	return o.stderr
}

// object is a JSON object.
type object = map[string]any

// json runs protectctl with --json and decodes its stdout.
func (w *world) json(v any, args ...string) {
	w.t.Helper()
	out := w.ok(nil, append([]string{"--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		w.t.Fatalf("protectctl %q: %v\n%s", args, err, out)
	}
}

// points returns the identifiers of the points that list shows.
func (w *world) points() []string {
	w.t.Helper()
	var list []struct{ ID string }
	w.json(&list, "list")
	var ids []string
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return ids
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 30 s: %s", what)
		}
	}
}

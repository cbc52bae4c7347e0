// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/internal/realtest"
)

// account is who the servers of the tests run as.
type account struct{ UID, GID int }

func serverAccount(t testing.TB) account {
	t.Helper()
	realtest.Require(t, os.Geteuid() == 0, "starting servers as another user needs root")
	u, err := user.Lookup("nobody")
	realtest.Require(t, err == nil, "there is no user nobody")
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return account{UID: uid, GID: gid}
}

// serverDir is a directory of the test that others can pass through, and that
// servers may write to. Its path is short enough for sockets.
func serverDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "protect-") //nolint:usetesting // below t.TempDir only its owner can pass, and its path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return own(t, dir)
}

// own makes sure that there is a directory, and gives it to the servers.
func own(t testing.TB, dir string) string {
	t.Helper()
	o := serverAccount(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, o.UID, o.GID); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serverCommand makes a program ready to run as servers do.
func serverCommand(ctx context.Context, t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	o := serverAccount(t)
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Env = "/", []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)},
		Pdeathsig:  syscall.SIGQUIT, // even if the test is killed
	}
	return c
}

// daemon is a server that runs until the test is over.
type daemon struct {
	cmd   *exec.Cmd
	log   string // name of the file with what it says
	crash syscall.Signal
}

// startDaemon starts a server; crash is the signal that ends it without any
// order.
func startDaemon(t testing.TB, command func(context.Context) *exec.Cmd, crash syscall.Signal) *daemon {
	t.Helper()
	// It must outlive the context of the test: Cleanup ends it.
	d := &daemon{cmd: command(context.WithoutCancel(t.Context())), log: filepath.Join(serverDir(t), "log"), crash: crash}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", d.said())
		}
	})
	return d
}

// said returns the end of the log.
func (d *daemon) said() []byte {
	text, _ := os.ReadFile(d.log)
	return text[max(0, len(text)-4000):]
}

// await waits until the server answers.
func (d *daemon) await(t testing.TB, ping func(context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		err := ping(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not start: %v\n%s", err, d.said())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// stop ends the server as a crash would; again is fine.
func (d *daemon) stop() { d.end(d.crash) }

func (d *daemon) end(sig syscall.Signal) {
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Signal(sig)
	timer := time.AfterFunc(30*time.Second, func() { _ = d.cmd.Process.Kill() })
	_ = d.cmd.Wait()
	timer.Stop()
}

// mountFS makes a small file system on a loop device, until the test is over,
// that servers may write to.
func mountFS(t testing.TB, kind string) string {
	t.Helper()
	dir := serverDir(t)
	return mountImage(t, kind, filepath.Join(dir, "image"), filepath.Join(dir, "mount"), imageSize)
}

const imageSize = 2 << 30

// mountImage makes a file system in a sparse file, and mounts it until the test
// is over.
func mountImage(t testing.TB, kind, image, mount string, size int64) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	realtest.Require(t, err == nil, "mkfs."+kind+" is missing")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	system(t, mkfs, "-q", image)
	system(t, "mount", "-o", "loop", image, mount)
	t.Cleanup(func() { unmount(t, mount) })
	return mount
}

// unmount unmounts a file system, which processes that were killed may use for a
// moment.
func unmount(t testing.TB, mount string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(100 * time.Millisecond) {
		out, err := exec.CommandContext(ctx, "umount", mount).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("umount: %v: %s", err, out)
			_ = exec.CommandContext(ctx, "umount", "-l", mount).Run() // better invisible than left over
			return
		}
	}
}

// system runs a program that must succeed.
func system(t testing.TB, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// SPDX-License-Identifier: Apache-2.0

package reflink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// runAs runs one test of this binary in a process of the user uid.
func runAs(t *testing.T, uid uint32, test string) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "reflink-as") //nolint:usetesting // it has to be on that file system
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(tmp)) })
	must(t, os.Chmod(tmp, 0o777))
	// The binary is in a folder that only root may enter.
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	bin := filepath.Join(tmp, "test")
	must(t, os.WriteFile(bin, self, 0o755))
	cmd := exec.CommandContext(t.Context(), bin, "-test.run=^"+test+"$", "-test.v")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+test)) {
		t.Errorf("as user %d: %v\n%s", uid, err, out)
	}
}

// TestHostileVolume clones a volume whose entries turn into links to a secret,
// FIFOs, directories and back all the time. A clone may fail, but it must not
// hang or contain the secret.
func TestHostileVolume(t *testing.T) {
	base := t.TempDir()
	vol, dir, secret := base+"/volume", base+"/snapshots", base+"/secret"
	must(t, os.Mkdir(dir, 0o700))
	write(t, secret+"/x", "the secret")
	for i := range 20 {
		write(t, fmt.Sprintf("%s/d%d/x", vol, i), "mine")
		write(t, fmt.Sprintf("%s/f%d", vol, i), "mine")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() { attack(vol, secret, w, stop) })
	}
	p, err := reflink.New(dir, nil)
	must(t, err)
	cloned := 0
	for i := range 150 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s, err := p.Create(ctx, driver.VolumeID(vol), fmt.Sprintf("h%d", i))
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Create hangs: %v", err)
		}
		if err == nil {
			cloned++
			refuse(t, dirOf(t, s), "the secret")
			must(t, s.Delete(t.Context()))
		}
		cancel()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of 150 clones succeeded", cloned)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left of failed clones: %v, %v", left, err)
	}
}

// attack replaces entries of vol until stop is closed.
func attack(vol, secret string, worker int, stop chan struct{}) {
	tmp := fmt.Sprintf("%s/tmp%d", vol, worker)
	for n := worker; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		// Errors are part of the game: the other worker is at it too.
		file := fmt.Sprintf("%s/f%d", vol, n%20)
		switch n % 5 {
		case 0:
			_ = os.Symlink(secret+"/x", tmp)
		case 1:
			_ = unix.Mkfifo(tmp, 0o600)
		case 2:
			_ = os.Symlink("../secret/x", tmp)
		default:
			_ = os.WriteFile(tmp, []byte("mine"), 0o600)
		}
		_ = os.Rename(tmp, file)
		sub := fmt.Sprintf("%s/d%d", vol, n%20)
		_ = os.Rename(sub, sub+"-away")
		_ = os.Symlink(secret, sub)
		_ = os.Remove(sub)
		_ = os.Rename(sub+"-away", sub)
	}
}

// refuse fails the test if a file below dir contains text.
func refuse(t *testing.T, dir, text string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), text) {
			t.Errorf("%q contains %q", path, text)
		}
		return err
	}))
}

// TestGrowingFile: a file that grows faster than it is copied ends where it
// ended when it was opened.
func TestGrowingFile(t *testing.T) {
	vol, dir := t.TempDir(), t.TempDir()
	f, err := os.Create(vol + "/log")
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for size := int64(8 << 20); ctx.Err() == nil; size += 1 << 20 {
			if err := f.Truncate(size); err != nil {
				t.Error(err)
				return
			}
		}
	})
	_, path := take(t, dir, vol, &reflink.Options{CopyOnly: true})
	cancel()
	wg.Wait()
	from, err := os.Stat(vol + "/log")
	must(t, err)
	to, err := os.Stat(path + "/log")
	must(t, err)
	if to.Size() < 8<<20 || to.Size() > from.Size() {
		t.Errorf("the snapshot has %d bytes of %d", to.Size(), from.Size())
	}
}

// TestDeep: what is nested too deep is refused, and what was made of it until
// then is removed.
func TestDeep(t *testing.T) {
	vol, dir := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(vol)
	must(t, err)
	defer root.Close()
	must(t, root.MkdirAll(strings.Repeat("d/", 600), 0o755))
	p, err := reflink.New(dir, nil)
	must(t, err)
	if _, err = p.Create(t.Context(), driver.VolumeID(vol), "deep"); err == nil {
		t.Error("Create clones 600 levels")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestPartial: what a kill leaves is listed, taken, never ready, and removable.
func TestPartial(t *testing.T) {
	vol, dir := t.TempDir(), t.TempDir()
	write(t, vol+"/a", "a")
	p, err := reflink.New(dir, nil)
	must(t, err)
	s, path := take(t, dir, vol, nil)
	// What a process killed while it cloned leaves behind.
	claim := filepath.Dir(path)
	must(t, os.Rename(claim+"/meta.json", claim+"/meta-123"))
	list, err := p.List(t.Context(), "")
	must(t, err)
	if len(list) != 1 || list[0].Info().ID != s.Info().ID || list[0].Info().Volume != driver.VolumeID(vol) {
		t.Fatalf("List shows %v", list)
	}
	if _, err := list[0].Ready(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Ready of a partial snapshot: %v", err)
	}
	if _, err := p.Create(t.Context(), driver.VolumeID(vol), s.Info().ID); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a partial snapshot: %v", err)
	}
	must(t, list[0].Delete(t.Context()))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// BenchmarkCreate clones 5000 files of 4 KiB.
func BenchmarkCreate(b *testing.B) {
	vol, dir := b.TempDir(), b.TempDir()
	for i := range 5000 {
		write(b, fmt.Sprintf("%s/%d/%d", vol, i%50, i), strings.Repeat("x", 4096))
	}
	p, err := reflink.New(dir, nil)
	must(b, err)
	for n := 0; b.Loop(); n++ {
		s, err := p.Create(b.Context(), driver.VolumeID(vol), fmt.Sprintf("b%d", n))
		must(b, err)
		b.StopTimer()
		must(b, s.Delete(b.Context()))
		b.StartTimer()
	}
}

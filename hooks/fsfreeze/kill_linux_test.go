// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
)

var (
	kills    = flag.Int("kills", 40, "how often the kill test kills")
	killSeed = flag.Uint64("kill-seed", 0, "seed of the kill test; 0 is a random one")
)

const victimArg = "fsfreeze-victim"

// victim freezes a mount point again and again until it is killed, or once if
// told so. Its arguments are the mount point, the directory of the journal,
// the window, and how long a cut takes.
func victim(args []string) int {
	ctx := context.Background()
	window, err1 := time.ParseDuration(args[2])
	cut, err2 := time.ParseDuration(args[3])
	exe, err3 := os.Executable()
	journal, err4 := hooks.OpenDirJournal(args[1])
	q, err5 := fsfreeze.New(args[0], &fsfreeze.Options{Helper: []string{exe}, Env: []string{"GORACE=atexit_sleep_ms=0"}, Outside: []string{args[1]}})
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: q}}, &hooks.GroupOptions{Journal: journal, Window: window})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	for {
		report, err := g.Do(ctx, "victim", func(context.Context) error {
			fmt.Println("frozen")
			<-time.After(cut)
			return nil
		})
		if err != nil {
			fmt.Println("error", err)
			return 1
		}
		fmt.Println("thawed", report.Proven())
	}
}

// startVictim starts the process and waits for its first line.
func startVictim(t *testing.T, l *lab, journal, window, cut string) (*os.Process, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(executable(t), victimArg, l.point, journal, window, cut)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the victim says %q", lines.Text())
	}
	return cmd.Process, lines
}

// TestKillParent kills the freezing process with SIGKILL at random moments
// around the freeze: before, in the middle of the ioctl, while it holds, while
// it thaws. The file system must be writable within a second, each time.
func TestKillParent(t *testing.T) {
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("%d kills, -kill-seed %d", *kills, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var worst time.Duration
	for i, kind := range []string{"ext4", "xfs"} {
		l := mountLab(t, kind)
		l.writer(t)
		journal := filepath.Join(t.TempDir(), "journal")
		recovering, err := hooks.OpenDirJournal(journal)
		if err != nil {
			t.Fatal(err)
		}
		pending := 0
		for range (*kills + i) / 2 {
			p, _ := startVictim(t, l, journal, "10s", "10ms")
			<-time.After(time.Duration(rng.Int64N(int64(80 * time.Millisecond))))
			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, l.thawedWithin(t, time.Second))
			left, err := recovering.Pending(t.Context())
			if err != nil {
				t.Error(err)
			}
			pending += len(left)
		}
		if pending == 0 && *kills >= 40 {
			t.Errorf("%s: no kill hit a freeze", kind)
		}
		g, err := hooks.NewGroup("app", []hooks.Member{{Name: "fs", Quiescer: quiescer(t, l)}}, &hooks.GroupOptions{Journal: recovering})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		if left, err := recovering.Pending(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("pending after Recover: %v, error %v", left, err)
		}
		t.Logf("%s: %d of the kills left an intent", kind, pending)
	}
	t.Logf("writable at most %v after the kill", worst)
}

// TestStopParent stops the freezing process without killing it: the window
// ends all the same, and the process is told when it wakes up.
func TestStopParent(t *testing.T) {
	l := mountLab(t, "ext4")
	p, lines := startVictim(t, l, filepath.Join(t.TempDir(), "journal"), "1s", "100ms")
	for lines.Scan() && lines.Text() != "frozen" {
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if frozen, err := l.frozen(t.Context()); err != nil || !frozen {
		t.Fatalf("frozen: %t, error %v", frozen, err)
	}
	l.thawedWithin(t, 2*time.Second)
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("thawed after %v, long before the window of 1 s ended", took)
	} else {
		t.Logf("thawed %v after the stop, the window is 1 s", took)
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() && lines.Text() == "frozen" {
	}
	// Either the cut or the end of the window comes first when it wakes up.
	if text := lines.Text(); text != "thawed false" && !strings.HasPrefix(text, "error ") {
		t.Errorf("after it woke up the process says %q, want that nothing is proven", text)
	}
}

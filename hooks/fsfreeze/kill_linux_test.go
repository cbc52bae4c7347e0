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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
)

var (
	kills      = flag.Int("kills", 40, "how often the kill test kills, both file systems together")
	stops      = flag.Int("stops", 16, "how often the stop test stops, both file systems together")
	killSeed   = flag.Uint64("kill-seed", 0, "seed of the kill and the stop test; 0 is a random one")
	killStrict = flag.Bool("kill-strict", false, "99 of 100 kills while a freeze is in force must be thawed within 100 ms, all within 1 s; a busy machine cannot")
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
			fmt.Println("cut")
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

// killRand returns the random source of a test.
func killRand(t *testing.T, what string, n int) *rand.Rand {
	t.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("%d %s, -kill-seed %d", n, what, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// latencies are what a series of kills or stops took.
type latencies []time.Duration

func (l latencies) String() string {
	if len(l) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(l))
	at := func(permille int) time.Duration { return s[(len(s)-1)*permille/1000].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d: p50 %v, p90 %v, p99 %v, max %v", len(s), at(500), at(900), at(990), at(1000))
}

// series are latencies by what the signal hit.
type series map[string]latencies

const (
	held     = "the freeze was in force"
	freezing = "the kernel was freezing, or about to"
	idle     = "nothing was frozen"
)

func (s series) add(what string, d time.Duration) { s[what] = append(s[what], d) }

func (s series) log(t *testing.T, kind string) {
	t.Helper()
	for _, what := range []string{held, freezing, idle} {
		t.Logf("%s: writable after the signal, while %s: %v", kind, what, s[what])
	}
}

// slow counts those beyond a limit.
func (l latencies) slow(limit time.Duration) int {
	n := 0
	for _, d := range l {
		if d > limit {
			n++
		}
	}
	return n
}

const (
	// quick is how soon the file system is thawed after a kill while the freeze
	// was in force. The rest of the machine can take the processor away for
	// longer, from the watchdog and from whoever measures, so that without
	// -kill-strict half of them may be slower.
	quick    = 100 * time.Millisecond
	patience = time.Second
	// uninterruptible is what the kernel may take for a freeze that was under
	// way: it writes what is dirty, on a disk that others use as well.
	uninterruptible = 11 * time.Second
)

// TestKillParent kills the freezing process with SIGKILL at random moments
// around the freeze: before, in the middle of the ioctl, while it holds, while
// it thaws. The file system must be writable soon, each time.
func TestKillParent(t *testing.T) {
	rng := killRand(t, "kills", *kills)
	for i, kind := range []string{"ext4", "xfs"} {
		l := mountLab(t, kind)
		l.writer(t)
		journal := filepath.Join(t.TempDir(), "journal")
		recovering, err := hooks.OpenDirJournal(journal)
		if err != nil {
			t.Fatal(err)
		}
		took := make(series)
		for n := range (*kills + i) / 2 {
			d, last := killOnce(t, l, journal, n%2 == 0, rng)
			left, err := recovering.Pending(t.Context())
			if err != nil {
				t.Error(err)
			}
			switch {
			case last == "frozen" || last == "cut":
				took.add(held, d)
			case len(left) > 0: // the next one recovers it
				took.add(freezing, d)
			default:
				took.add(idle, d)
			}
		}
		if len(took[held]) == 0 && *kills >= 40 {
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
		took.log(t, kind)
		slow, n, limit := took[held].slow(quick), len(took[held]), 1/2.
		if *killStrict {
			limit = 1 / 100.
		}
		if float64(slow) > limit*float64(n) || *killStrict && took[held].slow(patience) > 0 {
			t.Errorf("%s: %d of %d kills took more than %v", kind, slow, n, quick)
		}
	}
}

// killOnce kills a process that freezes again and again, at any time or about
// when its freeze is in force. It returns how long it took until the file
// system was writable, and the last that the process said.
func killOnce(t *testing.T, l *lab, journal string, aim bool, rng *rand.Rand) (took time.Duration, last string) {
	t.Helper()
	p, lines := startVictim(t, l, journal, "10s", "10ms")
	after := time.Duration(rng.Int64N(int64(80 * time.Millisecond)))
	if aim {
		for last != "frozen" && lines.Scan() {
			last = lines.Text()
		}
		after = time.Duration(rng.Int64N(int64(12 * time.Millisecond)))
	}
	<-time.After(after)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took = l.thawedWithin(t, uninterruptible)
	for lines.Scan() {
		last = lines.Text()
	}
	return took, last
}

// TestStopParent stops the freezing process without killing it, at random
// moments: the window ends all the same, and the process knows when it wakes
// up.
func TestStopParent(t *testing.T) {
	rng := killRand(t, "stops", *stops)
	for i, kind := range []string{"ext4", "xfs"} {
		l := mountLab(t, kind)
		l.writer(t)
		journal := filepath.Join(t.TempDir(), "journal")
		took := make(series)
		for range (*stops + i) / 2 {
			stopOnce(t, l, journal, time.Duration(rng.Int64N(int64(150*time.Millisecond))), took)
		}
		if len(took[held]) == 0 && *stops >= 16 {
			t.Errorf("%s: no stop hit a freeze", kind)
		}
		took.log(t, fmt.Sprintf("window %v, %s", stopWindow, kind))
	}
}

const stopWindow = 500 * time.Millisecond

// stopOnce stops a process that freezes again and again, waits for the thaw,
// wakes it up, and hears what it says of the freeze that was hit, if one was.
func stopOnce(t *testing.T, l *lab, journal string, after time.Duration, took series) {
	t.Helper()
	p, lines := startVictim(t, l, journal, stopWindow.String(), "50ms")
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		for lines.Scan() {
			said <- lines.Text()
		}
	}()
	<-time.After(after)
	began := time.Now()
	stop(t, p.Pid)
	<-time.After(20 * time.Millisecond) // a freeze that was asked for has begun
	asked := time.Now()
	hit, err := l.frozen(t.Context()) // waits for one that is under way
	if err != nil {
		t.Fatal(err)
	}
	what, limit := idle, uninterruptible
	if hit && time.Since(asked) < quick {
		what, limit = held, stopWindow+patience-time.Since(began)
	} else if hit {
		what = freezing
	}
	l.thawedWithin(t, limit)
	took.add(what, time.Since(began))
	last := ""
	for len(said) > 0 {
		last = <-said
	}
	signal(t, p.Pid, syscall.SIGCONT)
	verdict := ""
	for text := range said {
		if !hit || text != "frozen" && text != "cut" {
			verdict = text
			break
		}
	}
	// After the cut it may have had its proof, and asked for the thaw.
	if hit && last != "cut" && verdict != "thawed false" && !strings.HasPrefix(verdict, "error ") {
		t.Errorf("a freeze was thawed while its process was stopped, and that says %q", verdict)
	}
	signal(t, p.Pid, syscall.SIGKILL)
	for range said {
	}
	_, _ = p.Wait()
	l.thawedWithin(t, uninterruptible)
}

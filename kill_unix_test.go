// SPDX-License-Identifier: Apache-2.0

//go:build unix

package protect_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/watchdog"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// The test binary is also the watchdog, the client of the application under
// test, and the process that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case watchdog.Arg:
			os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
		case "ask":
			os.Exit(ask(os.Args[2], os.Args[3]))
		case "victim":
			os.Exit(victim(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

// generations is an application: it writes the same ever growing number to
// both of its volumes, and freezes and thaws when a client asks, whoever that
// is: it knows no epochs, and nobody may come late.
type generations struct {
	dirs []string

	mu     sync.Mutex
	frozen time.Time // since when; zero: not frozen
	worst  time.Duration
}

func (g *generations) write(ctx context.Context) error {
	for n := 0; ctx.Err() == nil; n++ {
		g.mu.Lock()
		if g.frozen.IsZero() {
			for _, dir := range g.dirs {
				if err := os.WriteFile(filepath.Join(dir, "generation"), fmt.Append(nil, n), 0o600); err != nil {
					g.mu.Unlock()
					return err
				}
			}
		}
		g.mu.Unlock()
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func (g *generations) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if g.obey(bufio.NewReader(c)) {
			_, _ = fmt.Fprintln(c, "done")
		}
		_ = c.Close()
	}
}

// obey does what a client asks.
func (g *generations) obey(r io.Reader) bool {
	var verb string
	if _, err := fmt.Fscan(r, &verb); err != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case verb == "freeze" && g.frozen.IsZero():
		g.frozen = time.Now()
	case verb == "held":
		return !g.frozen.IsZero()
	case verb == "thaw" && !g.frozen.IsZero():
		g.worst = max(g.worst, time.Since(g.frozen))
		g.frozen = time.Time{}
	}
	return true
}

func (g *generations) isFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.frozen.IsZero()
}

// awaitThaw fails if the application is not thawed within the window.
func (g *generations) awaitThaw(t *testing.T, id string) {
	t.Helper()
	for begin := time.Now(); g.isFrozen(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > killWindow+time.Second {
			t.Fatalf("%s: still frozen after %v", id, time.Since(begin))
		}
	}
}

// ask is the client.
func ask(verb, socket string) int {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 1
	}
	_, _ = fmt.Fprintln(c, verb)
	if answer, err := bufio.NewReader(c).ReadString('\n'); err != nil || answer != "done\n" {
		return 1
	}
	return 0
}

const killWindow = 5 * time.Second

// quick is for processes that are built with the race detector, which otherwise
// sleeps for a second when they end.
var quick = []string{"GORACE=atexit_sleep_ms=0"}

// open returns a Protector and the application below base, as each process
// sets them up.
func open(ctx context.Context, base string) (*protect.Protector, *repo.Repository, protect.Application, error) {
	var app protect.Application
	bucket, err := dirbucket.OpenBucket(filepath.Join(base, "repo"), &dirbucket.Options{CreateDir: true})
	if err != nil {
		return nil, nil, app, err
	}
	r, err := repo.Open(ctx, bucket, key, nil)
	if errors.Is(err, fs.ErrNotExist) {
		r, err = repo.Init(ctx, bucket, key, nil)
	}
	if err != nil {
		return nil, nil, app, err
	}
	clones, err := reflink.New(filepath.Join(base, "snapshots"), nil)
	if err != nil {
		return nil, nil, app, err
	}
	journal, err := hooks.OpenDirJournal(filepath.Join(base, "journal"))
	if err != nil {
		return nil, nil, app, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, app, err
	}
	socket := filepath.Join(base, "app.sock")
	pair, err := command.NewPair([]string{exe, "ask", "freeze", socket}, []string{exe, "ask", "thaw", socket},
		&command.Options{Helper: []string{exe}, Env: quick, Lock: base, Held: []string{exe, "ask", "held", socket}})
	if err != nil {
		return nil, nil, app, err
	}
	app = protect.Application{
		Name: "generations", Window: killWindow, Require: protect.ApplicationConsistent,
		Volumes: []protect.Volume{
			{Name: "a", ID: snapshot.VolumeID(filepath.Join(base, "a"))},
			{Name: "b", ID: snapshot.VolumeID(filepath.Join(base, "b"))},
		},
		Members: []protect.Member{{Name: "app", Quiescer: pair}},
	}
	p, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(clones, nil), Journal: journal})
	return p, r, app, err
}

// victim takes a recovery point, if it lives long enough.
func victim(base, id string) int {
	ctx := context.Background()
	p, _, app, err := open(ctx, base)
	if err == nil {
		fmt.Println("begin")
		_, err = p.Run(ctx, app, id)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKill kills a real process with SIGKILL at random moments of a Run on real
// files, and finishes the point in another.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := 200
	if testing.Short() {
		kills = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	base := t.TempDir()
	for _, dir := range []string{"a", "b", "snapshots"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 { // something to clone and to upload
		data := make([]byte, 100<<10)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		if err := os.WriteFile(filepath.Join(base, "a", fmt.Sprint(i)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &generations{dirs: []string{filepath.Join(base, "a"), filepath.Join(base, "b")}}
	l, err := net.Listen("unix", filepath.Join(base, "app.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { g.serve(l) })
	wg.Go(func() {
		if err := g.write(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer l.Close()
	defer stop()
	p, r, app, err := open(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	killed, frozen := 0, 0
	for i := range kills {
		id := fmt.Sprint("point-", i)
		dead, wasFrozen := killRun(t, base, id, time.Duration(rng.Int64N(int64(120*time.Millisecond))), g)
		if dead {
			killed++
		}
		if wasFrozen {
			frozen++
		}
		if err := p.Recover(t.Context(), app); err != nil {
			t.Fatalf("%s: recover: %v", id, err)
		}
		if g.isFrozen() {
			t.Fatalf("%s: frozen after Recover", id)
		}
		if _, err := p.Run(t.Context(), app, id); err != nil {
			t.Fatalf("%s: rerun: %v", id, err)
		}
		checkGeneration(t, r, id)
		if left, err := os.ReadDir(filepath.Join(base, "snapshots")); err != nil || len(left) > 0 {
			t.Fatalf("%s: snapshots are left: %v, %v", id, left, err)
		}
	}
	checkGeneration(t, r, "point-0")
	if rep, err := r.Verify(t.Context(), &repo.VerifyOptions{Level: repo.VerifyFull}); err != nil || len(rep.Damage) > 0 || rep.Points != kills {
		t.Errorf("verify: %+v, %v", rep, err)
	}
	t.Logf("%d processes, %d killed before they were done, %d of these while the application was frozen; longest freeze %v", kills, killed, frozen, g.worst)
	if frozen == 0 && !testing.Short() {
		t.Error("no kill hit a freeze")
	}
	if g.worst > killWindow+time.Second {
		t.Errorf("frozen for %v", g.worst)
	}
}

// killRun starts a process that takes the point and kills it. It reports
// whether it died of that, and whether the application was frozen then.
func killRun(t *testing.T, base, id string, after time.Duration, g *generations) (dead, frozen bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe, "victim", base, id)
	c.Env = append(os.Environ(), quick...)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: the process did not begin: %v %s", id, err, &stderr)
	}
	time.Sleep(after)
	_ = c.Process.Kill()
	frozen = g.isFrozen()
	err = c.Wait()
	dead = !c.ProcessState.Exited()
	if err != nil && !dead {
		t.Fatalf("%s: %v: %s", id, err, &stderr)
	}
	// The watchdog thaws soon, without help.
	g.awaitThaw(t, id)
	return dead, dead && frozen
}

// checkGeneration checks that both volumes of a point have the same number.
func checkGeneration(t *testing.T, r *repo.Repository, id string) {
	t.Helper()
	p, err := r.Point(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range p.Volumes {
		tree, err := r.Tree(t.Context(), p, v.Name)
		if err != nil {
			t.Fatal(err)
		}
		e, err := tree.Entry(t.Context(), "generation")
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if _, err := tree.WriteTo(t.Context(), &b, e); err != nil {
			t.Fatal(err)
		}
		got = append(got, b.String())
	}
	if len(got) != 2 || got[0] != got[1] || got[0] == "" {
		t.Fatalf("%s: generations %q", id, got)
	}
}

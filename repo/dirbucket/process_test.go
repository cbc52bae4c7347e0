// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

const childEnv = "DIRBUCKET_TEST_CHILD"

// TestMain lets the test binary be the processes that compete and are killed.
func TestMain(m *testing.M) {
	args := strings.Split(os.Getenv(childEnv), ",")
	if len(args) != 4 {
		os.Exit(m.Run())
	}
	n, err := strconv.Atoi(args[3])
	if err == nil {
		switch args[0] {
		case "race":
			err = raceChild(args[1], args[2], n)
		case "kill":
			err = killChild(args[1], uint64(n))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Scanner
}

// startChild starts this binary as a process that begins when stdin is closed.
func startChild(t *testing.T, args ...any) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+strings.TrimSuffix(strings.ReplaceAll(fmt.Sprintln(args...), " ", ","), "\n"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, stdin: stdin, out: bufio.NewScanner(stdout)}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return c
}

// scratch returns a directory for tests in which the speed of fsync decides
// nothing: in memory where there is such a file system.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "dirbucket") //nolint:usetesting // it has to be on that file system
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func raceKey(i int) string { return fmt.Sprintf("snap/%02d/%d", i%7, i) }

// TestRace has 16 processes with 2 goroutines each create thousands of keys:
// each key has exactly one winner, and its content is the winner's.
func TestRace(t *testing.T) {
	const processes = 16
	keys := 2000
	if testing.Short() {
		keys = 200
	}
	for name, dir := range map[string]string{"memory": scratch(t), "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			n := keys
			if name == "disk" {
				n = keys / 20
			}
			race(t, dir, processes, n)
		})
	}
}

func race(t *testing.T, dir string, processes, keys int) {
	var children []*child
	for i := range processes {
		children = append(children, startChild(t, "race", dir, i, keys))
	}
	for _, c := range children {
		if !c.out.Scan() { // it is ready
			t.Fatalf("child: %v", c.out.Err())
		}
	}
	for _, c := range children {
		if err := c.stdin.Close(); err != nil {
			t.Fatal(err)
		}
	}
	winners := map[string][]string{}
	for _, c := range children {
		for c.out.Scan() {
			key, token, _ := strings.Cut(c.out.Text(), " ")
			winners[key] = append(winners[key], token)
		}
		if err := c.cmd.Wait(); err != nil {
			t.Fatalf("child: %v", err)
		}
	}
	b := open(t, dir, nil)
	by := map[string]int{}
	for i := range keys {
		key := raceKey(i)
		if len(winners[key]) != 1 {
			t.Errorf("%s has the winners %q, want one", key, winners[key])
			continue
		}
		got, err := b.ReadAll(t.Context(), key)
		if err != nil || string(got) != raceContent(winners[key][0]) {
			t.Errorf("%s has %d bytes of another writer than %s, %v", key, len(got), winners[key][0], err)
		}
		process, _, _ := strings.Cut(winners[key][0], "-")
		by[process]++
	}
	t.Logf("%d keys, %d writers each, keys won by process: %v", keys, 2*processes, by)
	if len(by) < 2 {
		t.Error("one process won all keys: there was no race")
	}
	if left := files(t, dir+"/.tmp"); len(left) != 0 {
		t.Errorf("%d unfinished files are left", len(left))
	}
}

func raceContent(token string) string { return strings.Repeat(token+"\n", 100) }

func raceChild(dir, id string, keys int) error {
	b, err := dirbucket.OpenBucket(dir, nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // the starting shot
		return err
	}
	var mu sync.Mutex
	var failed error
	var wins bytes.Buffer
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			token := fmt.Sprintf("%s-%d", id, g)
			// In blocks of random order, so that the lead changes all the time.
			order := rand.Perm(keys)
			slices.SortStableFunc(order, func(a, b int) int { return a/50 - b/50 })
			for _, i := range order {
				won, err := raceOnce(b, raceKey(i), token)
				mu.Lock()
				if err != nil {
					failed = err
				}
				if won {
					fmt.Fprintln(&wins, raceKey(i), token)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if _, err := os.Stdout.Write(wins.Bytes()); err != nil {
		return err
	}
	return failed
}

func raceOnce(b *blob.Bucket, key, token string) (won bool, err error) {
	ctx := context.Background()
	opts := &blob.WriterOptions{IfNotExist: true, DisableContentTypeDetection: true}
	err = b.WriteAll(ctx, key, []byte(raceContent(token)), opts)
	if err == nil {
		return true, nil
	}
	if gcerrors.Code(err) != gcerrors.FailedPrecondition {
		return false, err
	}
	// A loser sees the complete object at once.
	got, err := b.ReadAll(ctx, key)
	if err != nil {
		return false, err
	}
	first, _, _ := strings.Cut(string(got), "\n")
	if string(got) != raceContent(first) {
		return false, fmt.Errorf("%s: the loser read %d incomplete bytes", key, len(got))
	}
	return false, nil
}

// TestKill kills a process that creates, replaces and deletes objects, in the
// middle of its work, again and again: every visible object is complete, what
// was acknowledged is there, and unfinished files are swept.
func TestKill(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	dir := scratch(t)
	acked := map[string]bool{}
	leftovers := 0
	for round := range rounds {
		rng := rand.New(rand.NewPCG(uint64(round), 7))
		c := startChild(t, "kill", dir, round, round)
		if err := c.stdin.Close(); err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(40) {
			if !c.out.Scan() {
				t.Fatalf("round %d: the child ended: %v", round, c.out.Err())
			}
			acked[c.out.Text()] = true
		}
		<-time.After(time.Duration(rng.IntN(2000)) * time.Microsecond) // anywhere in the next writes
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for c.out.Scan() { // acknowledged before the signal arrived
			acked[c.out.Text()] = true
		}
		if err := c.cmd.Wait(); err == nil {
			t.Fatalf("round %d: the child was not killed", round)
		}
		checkAll(t, dir, round, acked)
		leftovers = len(files(t, dir+"/.tmp"))
	}
	if leftovers == 0 && rounds > 10 {
		t.Error("no kill hit a write: the test shows nothing")
	}
	t.Logf("%d rounds, %d acknowledged creations, unfinished files seen: %d", rounds, len(acked), leftovers)
	open(t, dir, &dirbucket.Options{TempAge: 1})
	if left := files(t, dir+"/.tmp"); len(left) != 0 {
		t.Errorf("after the sweep %d unfinished files are left", len(left))
	}
}

func checkAll(t *testing.T, dir string, round int, acked map[string]bool) {
	t.Helper()
	b := open(t, dir, nil)
	seen := map[string]bool{}
	for o, err := range all(t.Context(), b, nil) {
		if err != nil {
			t.Fatal(err)
		}
		seen[o.Key] = true
		got, err := b.ReadAll(t.Context(), o.Key)
		if err != nil || len(got) < sha256.Size {
			t.Fatalf("round %d: %s: %d bytes, %v", round, o.Key, len(got), err)
		}
		if sum := sha256.Sum256(got[sha256.Size:]); !bytes.Equal(sum[:], got[:sha256.Size]) {
			t.Fatalf("round %d: %s is incomplete: %d bytes", round, o.Key, len(got))
		}
	}
	for key := range acked {
		if !seen[key] {
			t.Errorf("round %d: %s was acknowledged and is gone", round, key)
		}
	}
}

func killChild(dir string, seed uint64) error {
	ctx := context.Background()
	b, err := dirbucket.OpenBucket(dir, nil)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 11))
	for i := 0; ; i++ {
		data := make([]byte, sha256.Size+rng.IntN(1<<16))
		for j := sha256.Size; j < len(data); j += 64 {
			data[j] = byte(rng.Uint32())
		}
		sum := sha256.Sum256(data[sha256.Size:])
		copy(data, sum[:])
		key := fmt.Sprintf("new/%d/%d-%d", rng.IntN(5), seed, i)
		if err := writeSlowly(ctx, b, key, data, &blob.WriterOptions{IfNotExist: true}); err != nil {
			return err
		}
		fmt.Println(key) // unbuffered: a line is an acknowledgement
		shared := fmt.Sprintf("shared/%d", rng.IntN(3))
		if err := writeSlowly(ctx, b, shared, data, nil); err != nil {
			return err
		}
		if rng.IntN(2) == 0 {
			if err := b.Delete(ctx, shared); err != nil {
				return err
			}
		}
	}
}

// writeSlowly writes in small steps, so that a kill hits the middle of a file.
func writeSlowly(ctx context.Context, b *blob.Bucket, key string, data []byte, opts *blob.WriterOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewWriter(ctx, key, opts)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(data, 1024) {
		if _, err := w.Write(part); err != nil {
			cancel()
			_ = w.Close()
			return err
		}
	}
	return w.Close()
}

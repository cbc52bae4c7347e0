// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/redis"
)

const (
	redisHolderEnv = "PROTECT_TEST_REDIS_HOLDER"
	redisWindow    = 3 * time.Second
)

// TestRedisHolderProcess is not a test: it pauses a server, in a process that
// can be stalled, until its input has a line; then it says what it knows.
func TestRedisHolderProcess(t *testing.T) {
	socket := os.Getenv(redisHolderEnv)
	if socket == "" {
		t.Skip("runs as a child process only")
	}
	q, err := redis.NewPaused(redisConn(openRedis(t, socket, "", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: redisWindow})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("HOLDS")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	held := hold.Held(t.Context())
	_, thaw := hold.Thaw(t.Context())
	fmt.Println("LOST", errors.Is(held, hooks.ErrHoldLost), errors.Is(thaw, hooks.ErrHoldLost))
}

// TestRedisStalled stops and kills who has paused writes: they go on when the
// window is over, or as soon as somebody recovers; and no setting is another
// one than before.
func TestRedisStalled(t *testing.T) {
	s := startRedis(t, serverDir(t), "--appendonly", "yes")
	settings := s.do(t, "CONFIG", "GET", "*")
	load := startRedisLoad(t, s, 2, 100, time.Millisecond)
	for _, tt := range []struct {
		name    string
		sig     syscall.Signal
		recover bool
	}{{"stopped", syscall.SIGSTOP, false}, {"killed", syscall.SIGKILL, false}, {"killed and recovered", syscall.SIGKILL, true}} {
		t.Run(tt.name, func(t *testing.T) {
			h := startHolder(t, "TestRedisHolderProcess", redisHolderEnv+"="+s.socket)
			h.signal(t, tt.sig)
			if paused, err := s.paused(t.Context()); !paused || err != nil {
				t.Fatalf("the process did not hold: %v", err)
			}
			limit, began := redisWindow+time.Second, time.Now() // a little later than the pause began
			if tt.recover {
				limit = 2 * time.Second
				recoverRedis(t, s)
			}
			load.waitMore(t, 1)
			took := time.Since(began)
			t.Logf("writes went on after %v", took)
			if took > limit {
				t.Errorf("writes went on after %v, want at most %v", took, limit)
			}
			if tt.sig == syscall.SIGSTOP {
				h.saysLost(t)
			}
		})
	}
	if diff := cmp.Diff(settings, s.do(t, "CONFIG", "GET", "*")); diff != "" {
		t.Errorf("settings after the crashes (-want +got):\n%s", diff)
	}
}

// recoverRedis does what a new process does.
func recoverRedis(t *testing.T, s *redisServer) {
	t.Helper()
	q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := q.Recover(t.Context(), 1); err != nil {
			t.Error(err)
		}
	}
}

// TestRedisLosesProof does what makes a cut worthless, during the hold.
func TestRedisLosesProof(t *testing.T) {
	s := startRedis(t, serverDir(t), "--appendonly", "yes")
	s.do(t, "SET", "a", "b")
	admin := openRedis(t, s.socket, "", "")
	run := func(commands ...[]any) func(*testing.T) {
		return func(t *testing.T) {
			for _, c := range commands {
				if err := admin.Do(t.Context(), c...).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	pause, unpause := []any{"CLIENT", "PAUSE", "100000", "WRITE"}, []any{"CLIENT", "UNPAUSE"}
	for name, during := range map[string]func(*testing.T){
		"unpause":           run(unpause),
		"unpause and pause": run(unpause, pause),
		"counters reset":    run([]any{"CONFIG", "RESETSTAT"}),
		"reset and hidden":  run(unpause, []any{"CONFIG", "RESETSTAT"}, pause),
		"rewrite":           run([]any{"BGREWRITEAOF"}),
		"settings":          run([]any{"CONFIG", "SET", "auto-aof-rewrite-percentage", "99"}),
		"write":             run(unpause, []any{"SET", "a", "c"}, pause),
	} {
		t.Run(name, func(t *testing.T) {
			q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), nil)
			if err != nil {
				t.Fatal(err)
			}
			run([]any{"CONFIG", "RESETSTAT"})(t) // the small numbers are the ones to be mistaken for each other
			hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			during(t)
			lostHold(t, name, hold)
			run(unpause)(t)
		})
	}
	t.Run("somebody pauses too", func(t *testing.T) {
		q, err := redis.NewPaused(redisConn(openRedis(t, s.socket, "", "")), nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		run(pause)(t)
		lostHold(t, "pause", hold)
		if took := time.Since(began); took < time.Second {
			t.Errorf("Thaw returned after %v, while the pause of the window was in force", took)
		}
		if paused, err := s.paused(t.Context()); !paused || err != nil {
			t.Errorf("somebody else's pause was ended: %v", err)
		}
		run(unpause)(t)
	})
}

// TestRedisLostReply loses the reply to the pause, and to its end.
func TestRedisLostReply(t *testing.T) {
	s := startRedis(t, serverDir(t), "--appendonly", "yes")
	client := redisConn(openRedis(t, s.socket, "", ""))
	lose := ""
	q, err := redis.NewPaused(redis.DoFunc(func(ctx context.Context, args ...any) (any, error) {
		reply, err := client.Do(ctx, args...)
		if len(args) > 1 && args[1] == lose {
			lose = ""
			return nil, io.ErrUnexpectedEOF
		}
		return reply, err
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	lose = "PAUSE"
	if hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute}); hold != nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("Quiesce: %v, %v", hold, err)
	}
	if paused, err := s.paused(t.Context()); paused || err != nil {
		t.Errorf("writes are paused after a Quiesce that failed: %t, %v", paused, err)
	}
	hold, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 2, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	lose = "UNPAUSE"
	if _, err := hold.Thaw(t.Context()); err == nil || errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw without a reply: %v", err)
	}
	if evidence, err := hold.Thaw(t.Context()); err != nil || len(evidence) == 0 {
		t.Errorf("Thaw again: %v, %v", evidence, err)
	}
}

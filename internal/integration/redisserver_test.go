// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/redis"
	"github.com/stillpoint-go/protect/internal/realtest"
)

// redisServer is a server that runs until the test is over.
type redisServer struct {
	*daemon
	data, socket string
	client       *goredis.Client
}

// redisBin returns the directory with the programs of Redis.
func redisBin(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	realtest.Require(t, err == nil, "there is no Redis server")
	return filepath.Dir(path)
}

// startRedis starts a server on data.
func startRedis(t testing.TB, data string, settings ...string) *redisServer {
	t.Helper()
	return startRedisAt(t, filepath.Join(serverDir(t), "socket"), data, settings...)
}

func startRedisAt(t testing.TB, socket, data string, settings ...string) *redisServer {
	t.Helper()
	s := &redisServer{data: data, socket: socket}
	args := append([]string{"--port", "0", "--unixsocket", s.socket, "--dir", data, "--daemonize", "no"}, settings...)
	bin := redisBin(t)
	s.daemon = startDaemon(t, func(ctx context.Context) *exec.Cmd {
		return serverCommand(ctx, t, filepath.Join(bin, "redis-server"), args...)
	}, syscall.SIGKILL)
	s.client = openRedis(t, s.socket, "", "")
	s.await(t, func(ctx context.Context) error { return s.client.Ping(ctx).Err() })
	return s
}

// openRedis connects as the manual of the recipe says.
func openRedis(t testing.TB, socket, user, password string) *goredis.Client {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{
		Network: "unix", Addr: socket, Username: user, Password: password,
		ContextTimeoutEnabled: true, MaxRetries: -1, ReadTimeout: -1, WriteTimeout: -1,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// redisConn adapts a client, as the manual of the recipe says.
func redisConn(c *goredis.Client) redis.Conn {
	return redis.DoFunc(func(ctx context.Context, args ...any) (any, error) { return c.Do(ctx, args...).Result() })
}

// do runs a command that must succeed.
func (s *redisServer) do(t testing.TB, args ...any) any {
	t.Helper()
	reply, err := s.client.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return reply
}

// paused says whether a write is held back: it is either done, or the server
// says that its client is blocked. It is withdrawn then.
func (s *redisServer) paused(ctx context.Context) (bool, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "SET probe x\r\n"); err != nil {
		return false, err
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return false, err
		}
		if _, err = conn.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
		list, err := s.client.ClientList(ctx).Result()
		if err != nil {
			return false, err
		}
		for client := range strings.Lines(list) {
			_, flags, _ := strings.Cut(client, " flags=")
			flags, _, _ = strings.Cut(flags, " ")
			if strings.Contains(flags, "b") && strings.Contains(client, " cmd=set ") {
				return true, nil
			}
		}
	}
}

// redisLoad moves money between accounts, and notes each transfer in a list, in
// one transaction. Whatever the instant: all balances add up to nothing, and the
// list of a worker is 1, 2, 3, … without a gap, up to at least the last one that
// was acknowledged.
type redisLoad struct {
	client   *goredis.Client
	accounts int
	acked    []atomic.Int64 // by worker
	longest  atomic.Int64   // that a transfer took
	stop     func()

	mu      sync.Mutex
	history []acked // what was seen, ten times a second
}

// acked is what was acknowledged at some time.
type acked struct {
	at   time.Time
	seen []int64
}

// startRedisLoad fills the server and starts workers, until the test is over.
func startRedisLoad(t testing.TB, s *redisServer, workers, accounts int, pause time.Duration) *redisLoad {
	t.Helper()
	l := &redisLoad{client: s.client, accounts: accounts, acked: make([]atomic.Int64, workers)}
	pipe := s.client.Pipeline()
	for i := range accounts {
		pipe.Set(t.Context(), fmt.Sprint("account:", i), 0, 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				began := time.Now()
				if err := l.transfer(ctx, w, n); err != nil {
					if ctx.Err() == nil {
						t.Errorf("worker %d: %v", w, err)
					}
					return
				}
				l.longest.Store(max(l.longest.Load(), int64(time.Since(began))))
				l.acked[w].Store(n)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			l.mu.Lock()
			l.history = append(l.history, acked{time.Now(), l.seen()})
			l.mu.Unlock()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	l.stop = func() {
		cancel()
		s.stop() // go-redis waits for replies, whatever its context
		wg.Wait()
	}
	t.Cleanup(l.stop)
	return l
}

func (l *redisLoad) transfer(ctx context.Context, worker int, n int64) error {
	tx := l.client.TxPipeline()
	amount := rand.Int64N(2000) - 1000
	tx.DecrBy(ctx, fmt.Sprint("account:", rand.IntN(l.accounts)), amount)
	tx.RPush(ctx, fmt.Sprint("ledger:", worker), n)
	tx.Set(ctx, fmt.Sprint("session:", worker, ":", n%50), fmt.Sprintf("%0200d", n), time.Duration(1+rand.IntN(5))*time.Second)
	tx.IncrBy(ctx, fmt.Sprint("account:", rand.IntN(l.accounts)), amount)
	_, err := tx.Exec(ctx)
	return err
}

// seen returns what every worker has acknowledged by now.
func (l *redisLoad) seen() []int64 {
	var seen []int64
	for w := range l.acked {
		seen = append(seen, l.acked[w].Load())
	}
	return seen
}

// before returns what every worker had acknowledged so long ago.
func (l *redisLoad) before(ago time.Duration) []int64 {
	if ago == 0 {
		return l.seen()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := make([]int64, len(l.acked))
	for _, a := range l.history {
		if time.Since(a.at) >= ago {
			seen = a.seen
		}
	}
	return seen
}

// waitMore waits until every worker has done some more.
func (l *redisLoad) waitMore(t testing.TB, more int64) {
	t.Helper()
	before := l.seen()
	waitFor(t, func() bool {
		for w, n := range l.seen() {
			if n < before[w]+more {
				return false
			}
		}
		return true
	})
}

// check returns a function for VerifyOptions.Check: the invariant, and nothing
// missing that was acknowledged before.
func (l *redisLoad) check(t testing.TB, before []int64) func(context.Context, redis.Instance) error {
	return func(ctx context.Context, at redis.Instance) error {
		c := openRedis(t, at.Socket, "", "")
		defer c.Close()
		return checkRedis(ctx, c, l.accounts, before)
	}
}

func checkRedis(ctx context.Context, c *goredis.Client, accounts int, before []int64) error {
	var sum int64
	for i := range accounts {
		n, err := c.Get(ctx, fmt.Sprint("account:", i)).Int64()
		if err != nil {
			return fmt.Errorf("invariant: account %d: %w", i, err)
		}
		sum += n
	}
	if sum != 0 {
		return fmt.Errorf("invariant: the balances add up to %d", sum)
	}
	for w, want := range before {
		list, err := c.LRange(ctx, fmt.Sprint("ledger:", w), 0, -1).Result()
		if err != nil {
			return err
		}
		for i, text := range list {
			if text != strconv.Itoa(i+1) {
				return fmt.Errorf("invariant: worker %d: transfer %d is noted as %q", w, i+1, text)
			}
		}
		if got := int64(len(list)); got < want {
			return fmt.Errorf("worker %d has %d transfers, and %d were acknowledged before the cut", w, got, want)
		}
	}
	return nil
}

// noting notes what was acknowledged when a freeze began to hold, or some time
// before that.
type noting struct {
	hooks.Quiescer
	load *redisLoad
	ago  time.Duration
	at   []int64
}

func (n *noting) Prepare(ctx context.Context) error {
	p, ok := n.Quiescer.(hooks.Preparer)
	if !ok {
		return errors.ErrUnsupported
	}
	return p.Prepare(ctx)
}

func (n *noting) Quiesce(ctx context.Context, req hooks.FreezeRequest) (hooks.Hold, error) {
	hold, err := n.Quiescer.Quiesce(ctx, req)
	n.at = n.load.before(n.ago)
	return hold, err
}

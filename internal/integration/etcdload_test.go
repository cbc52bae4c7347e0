// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/stillpoint-go/protect/hooks/etcd"
)

// etcdLoad moves money between accounts, and notes each transfer in a ledger, in
// one transaction: the invariant of pgLoad.
type etcdLoad struct {
	c        *clientv3.Client
	accounts int
	acked    []atomic.Int64 // by worker
	stop     func()
}

func accountKey(i int) string { return fmt.Sprintf("account/%04d", i) }

// startEtcdLoad fills the store and starts workers, until the test is over.
func startEtcdLoad(t *testing.T, s *etcdServer, workers, accounts int) *etcdLoad {
	t.Helper()
	for i := range accounts {
		s.put(t, accountKey(i), "0")
	}
	l := &etcdLoad{c: s.member.c, accounts: accounts, acked: make([]atomic.Int64, workers)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; {
				done, err := l.transfer(ctx, w, n)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("worker %d: %v", w, err)
					}
					return
				}
				if done {
					l.acked[w].Store(n)
					n++
				}
				select {
				case <-time.After(2 * time.Millisecond): // others need the machine as well
				case <-ctx.Done():
				}
			}
		})
	}
	l.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(l.stop)
	return l
}

// transfer returns whether it was done: not if somebody else was faster.
func (l *etcdLoad) transfer(ctx context.Context, worker int, n int64) (bool, error) {
	amount := rand.Int64N(2000) - 1000
	a := rand.IntN(l.accounts)
	b := (a + 1 + rand.IntN(l.accounts-1)) % l.accounts
	var when []clientv3.Cmp
	var then []clientv3.Op
	for _, change := range []struct {
		id  int
		sum int64
	}{{a, -amount}, {b, amount}} {
		key := accountKey(change.id)
		r, err := l.c.Get(ctx, key)
		if err != nil {
			return false, err
		}
		if len(r.Kvs) != 1 {
			return false, fmt.Errorf("account %d has %d values", change.id, len(r.Kvs))
		}
		balance, err := strconv.ParseInt(string(r.Kvs[0].Value), 10, 64)
		if err != nil {
			return false, err
		}
		when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", r.Kvs[0].ModRevision))
		then = append(then, clientv3.OpPut(key, strconv.FormatInt(balance+change.sum, 10)))
	}
	then = append(then, clientv3.OpPut(fmt.Sprintf("ledger/%d/%08d", worker, n), fmt.Sprintf("%d %d %d", a, b, amount)))
	r, err := l.c.Txn(ctx).If(when...).Then(then...).Commit()
	if err != nil {
		return false, err
	}
	return r.Succeeded, nil
}

// seen returns what every worker has acknowledged by now.
func (l *etcdLoad) seen() []int64 {
	var seen []int64
	for w := range l.acked {
		seen = append(seen, l.acked[w].Load())
	}
	return seen
}

// waitMore waits until every worker has done some more.
func (l *etcdLoad) waitMore(t *testing.T, more int64) {
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
func (l *etcdLoad) check(t *testing.T, before []int64) func(context.Context, etcd.Instance) error {
	return func(ctx context.Context, at etcd.Instance) error {
		c := openEtcd(t, at.Endpoint, "", "").c
		defer c.Close()
		balances, err := readAccounts(ctx, c)
		if err != nil {
			return err
		}
		if len(balances) != l.accounts {
			return fmt.Errorf("invariant: %d accounts, want %d", len(balances), l.accounts)
		}
		for w, want := range before {
			if err := readLedger(ctx, c, w, want, balances); err != nil {
				return err
			}
		}
		for id, left := range balances {
			if left != 0 {
				return fmt.Errorf("invariant: account %d is off its ledger by %d", id, left)
			}
		}
		return nil
	}
}

func readAccounts(ctx context.Context, c *clientv3.Client) (map[int]int64, error) {
	r, err := c.Get(ctx, "account/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	balances := map[int]int64{}
	sum := int64(0)
	for _, kv := range r.Kvs {
		id, err := strconv.Atoi(strings.TrimPrefix(string(kv.Key), "account/"))
		if err != nil {
			return nil, err
		}
		if balances[id], err = strconv.ParseInt(string(kv.Value), 10, 64); err != nil {
			return nil, err
		}
		sum += balances[id]
	}
	if sum != 0 {
		return nil, fmt.Errorf("invariant: the accounts have a sum of %d", sum)
	}
	return balances, nil
}

// readLedger takes the transfers of one worker off the balances.
func readLedger(ctx context.Context, c *clientv3.Client, worker int, want int64, balances map[int]int64) error {
	r, err := c.Get(ctx, fmt.Sprintf("ledger/%d/", worker), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for i, kv := range r.Kvs {
		if key := fmt.Sprintf("ledger/%d/%08d", worker, i+1); string(kv.Key) != key {
			return fmt.Errorf("invariant: transfer %s, want %s", kv.Key, key)
		}
		var a, b int
		var amount int64
		if _, err := fmt.Sscan(string(kv.Value), &a, &b, &amount); err != nil {
			return err
		}
		balances[a] += amount
		balances[b] -= amount
	}
	if n := int64(len(r.Kvs)); n < want {
		return fmt.Errorf("worker %d has %d transfers, and %d were acknowledged before the cut", worker, n, want)
	}
	return nil
}

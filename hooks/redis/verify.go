// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// VerifyOptions are the optional settings of Verify.
type VerifyOptions struct {
	// Args are given to the server, after its own: modules that the data needs,
	// such as "--loadmodule", "/usr/lib/redis/modules/redisbloom.so".
	Args []string
	// Check is called when all else is well, while the instance runs: for what
	// only the application knows to be true of its data. An error of it is
	// returned as it is.
	Check func(ctx context.Context, at Instance) error
	// StartTimeout bounds the loading. Zero means one hour.
	StartTimeout time.Duration
}

// Instance is a server that only its user can reach.
type Instance struct {
	Socket string // the path of its socket; there is no password
}

// Verification is what Verify has looked at. All of it was found to be good.
type Verification struct {
	// Keys and Expires is what the instance has loaded. Keys whose time was over
	// are not among them.
	Keys    int64 `json:"keys"`
	Expires int64 `json:"expires"`
	// Files were loaded, with so many bytes.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Dropped is how many bytes at the end of the AOF were half a command. It is
	// 0 if writes were paused.
	Dropped int64 `json:"dropped"`
	// Load is how long the server took to start, and Took all of it.
	Load time.Duration `json:"load_ns"`
	Took time.Duration `json:"took_ns"`
}

// Verify starts a private instance on a restored data directory, after
// PrepareRestore, and checks everything in it: the files with redis-check-rdb
// or redis-check-aof, the number of keys with the evidence, and what Check
// knows. bin is the directory with the programs of the server's own version,
// such as /usr/bin; they are called redis-… or valkey-….
//
// The error matches ErrInconsistent for files that are not good. An AOF has no
// checksums but that of its base: what was left out of its middle in whole
// commands is found by the size that PrepareRestore compares, and by Check.
// Success is never empty: a data set without a key is an error.
//
// The instance runs as the owner of the files, who must not be root, and listens
// on a socket in a private directory only. It writes: keys whose time is over
// are deleted. The files cannot be verified twice as they were restored; verify
// a copy, or on the way to using it.
//
// The instance has ended when Verify returns. It needs a Unix.
func Verify(ctx context.Context, bin, dir string, info *Info, opts *VerifyOptions) (*Verification, error) {
	began := time.Now()
	if info == nil {
		return nil, errors.New("redis: verify: info is nil")
	}
	v := &verifying{bin: bin, dir: dir, info: info, v: new(Verification)}
	if opts != nil {
		v.opts = *opts
	}
	if v.opts.StartTimeout <= 0 {
		v.opts.StartTimeout = time.Hour
	}
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("redis: verify: %w", err)
	}
	v.v.Took = time.Since(began)
	return v.v, nil
}

// verifying is one verification at work.
type verifying struct {
	bin, dir string
	info     *Info
	opts     VerifyOptions
	v        *Verification
	found    *files
}

func (v *verifying) run(ctx context.Context) (err error) {
	if v.found, err = checkFiles(v.dir, v.info); err != nil {
		return err
	}
	v.v.Files, v.v.Bytes = max(1, len(v.found.aof)), v.found.bytes
	at, err := newInstance(v)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.remove()) }()
	if err := v.checkOffline(ctx, at); err != nil {
		return err
	}
	began := time.Now()
	if err := at.start(ctx, v); err != nil {
		return err
	}
	v.v.Load = time.Since(began)
	if err = v.whileRunning(ctx, at); err == nil && v.opts.Check != nil {
		err = v.opts.Check(ctx, at.Instance)
	}
	return errors.Join(err, at.stop(ctx))
}

// checkOffline runs the checkers of the server on the files. The end of an AOF
// that was cut while the server wrote may be half a command; then only the
// server can tell what is wrong from what is not.
func (v *verifying) checkOffline(ctx context.Context, at *instance) error {
	program, file := "check-aof", v.found.manifest
	switch {
	case v.found.rdb != "":
		program, file = "check-rdb", v.found.rdb
	case file == "":
		file = v.found.aof[0]
	}
	out, err := at.run(ctx, program, file)
	if _, ran := errors.AsType[*exec.ExitError](err); ctx.Err() != nil || err != nil && !ran {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil && (v.found.rdb != "" || v.info.Method == MethodPaused) {
		return fmt.Errorf("%w: %s: %w: %s", ErrInconsistent, program, err, out)
	}
	if v.found.rdb == "" || v.info.Method != MethodPaused {
		return nil
	}
	m := regexp.MustCompile(`(?m)^\[info\] (\d+) keys read$`).FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s does not say how many keys it has read: %s", program, out)
	}
	if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n != v.info.Keys {
		return inconsistent("the RDB has %s keys, and the server had %d", m[1], v.info.Keys)
	}
	return nil
}

// whileRunning compares what the instance has loaded with the evidence.
func (v *verifying) whileRunning(ctx context.Context, at *instance) error {
	srv, err := at.info(ctx)
	if err != nil {
		return err
	}
	v.v.Keys, v.v.Expires = srv.keys, srv.expires
	if srv.keys == 0 {
		return inconsistent("there is not one key: there is nothing to vouch for")
	}
	if i := v.info; i.Method == MethodPaused && (srv.keys > i.Keys || srv.keys < i.Keys-i.Expires) {
		return inconsistent("%d keys were loaded; the server had %d, of which %d have an end", srv.keys, i.Keys, i.Expires)
	}
	if len(v.found.aof) == 0 {
		return nil
	}
	// The server has cut off what was half a command.
	last, err := os.Lstat(v.found.aof[len(v.found.aof)-1])
	if err != nil {
		return err
	}
	v.v.Dropped = max(0, v.found.last-last.Size())
	return nil
}

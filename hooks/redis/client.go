// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"
)

// client is what both quiescers talk through.
type client struct {
	conn Conn
	opts Options
}

// do sends a command.
func (c *client) do(ctx context.Context, args ...any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	reply, err := c.conn.Do(ctx, args...)
	if err == nil {
		return reply, nil
	}
	name := strings.TrimSpace(fmt.Sprintln(args[:min(2, len(args))]...))
	// The first word of an error reply is its code, by the protocol.
	if code, _, _ := strings.Cut(err.Error(), " "); code == "NOPERM" {
		return nil, fmt.Errorf("%w: %s: run ACL SETUSER … %s: %w", fs.ErrPermission, name, grant(args), err)
	}
	ended := ctx.Err()
	// A deadline of the connection may pass a little before that of ctx.
	if timeout := net.Error(nil); ended == nil && errors.As(err, &timeout) && timeout.Timeout() {
		ended = context.DeadlineExceeded
	}
	if ended != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ended, err)
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// grant is the rule of an ACL that allows a command.
func grant(args []any) string {
	rule := "+" + strings.ToLower(fmt.Sprint(args[0]))
	switch args[0] {
	case "CONFIG", "CLIENT":
		return rule + "|" + strings.ToLower(fmt.Sprint(args[1]))
	case "PUBLISH":
		return rule + " &" + channel
	default:
		return rule
	}
}

// server asks the server for its state.
func (c *client) server(ctx context.Context) (*server, error) {
	reply, err := c.do(ctx, "INFO", "all")
	if err != nil {
		return nil, err
	}
	info, ok := text(reply)
	if !ok {
		return nil, fmt.Errorf("INFO: the reply is a %T", reply)
	}
	return parseInfo(info)
}

// settings are those of the server that a copy rests on.
type settings struct {
	dir, dbFilename, save                  string
	appendFsync, appendFilename, appendDir string
	rewritePercentage, rewriteMinSize      string
}

// settings asks for the settings. Old servers have no appenddirname.
func (c *client) settings(ctx context.Context) (settings, error) {
	var s settings
	for name, to := range map[string]*string{
		"dir": &s.dir, "dbfilename": &s.dbFilename, "save": &s.save,
		"appendfsync": &s.appendFsync, "appendfilename": &s.appendFilename, "appenddirname": &s.appendDir,
		"auto-aof-rewrite-percentage": &s.rewritePercentage, "auto-aof-rewrite-min-size": &s.rewriteMinSize,
	} {
		reply, err := c.do(ctx, "CONFIG", "GET", name)
		if err != nil {
			return s, err
		}
		*to = setting(reply, name)
	}
	if s.dir == "" {
		return s, errors.New("CONFIG GET: the server does not say what its dir is")
	}
	return s, nil
}

// setting finds a setting in a reply, of either version of the protocol.
func setting(reply any, name string) string {
	switch r := reply.(type) {
	case []any:
		for i := 0; i+1 < len(r); i += 2 {
			if k, _ := text(r[i]); k == name {
				v, _ := text(r[i+1])
				return v
			}
		}
	case map[any]any:
		v, _ := text(r[name])
		return v
	case map[string]any:
		v, _ := text(r[name])
		return v
	case map[string]string:
		return r[name]
	}
	return ""
}

// text returns a reply that is a string.
func text(reply any) (string, bool) {
	switch r := reply.(type) {
	case string:
		return r, true
	case []byte:
		return string(r), true
	default:
		return "", false
	}
}

const (
	pollFirst = 2 * time.Millisecond
	pollMost  = 100 * time.Millisecond
)

// poll asks for the state of the server until it is as it should be.
func (c *client) poll(ctx context.Context, until func(*server) (bool, error)) (*server, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := pollFirst; ; pause = min(2*pause, pollMost) {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		srv, err := c.server(ctx)
		if err != nil {
			return nil, err
		}
		if done, err := until(srv); done || err != nil {
			return srv, err
		}
		timer.Reset(pause)
	}
}

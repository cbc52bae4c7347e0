// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
)

// gateway speaks with the private instance by the JSON gateway that every server
// has. Numbers of 64 bits are strings there, and what is zero is left out. Up to
// version 3.5 it has no way to HashKV, which has to share its name with another
// method (https://github.com/etcd-io/etcd/pull/16490).
type gateway struct {
	http  *http.Client
	token string // with authentication
}

func newGateway(socket string) *gateway {
	return &gateway{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (g *gateway) close() { g.http.CloseIdleConnections() }

// maxAnswer bounds an answer, in bytes: none of ours has more than a few numbers.
const maxAnswer = 1 << 20

// call makes one request; out may be nil.
func (g *gateway) call(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://etcd/v3/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if g.token != "" {
		req.Header.Set("Authorization", g.token)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.500q", method, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

type header struct {
	Cluster  uint64 `json:"cluster_id,string"`
	Member   uint64 `json:"member_id,string"`
	Revision int64  `json:"revision,string"`
}

// login authenticates with a name and a password.
func (g *gateway) login(ctx context.Context, user, password string) error {
	var out struct {
		Token string `json:"token"`
	}
	err := g.call(ctx, "auth/authenticate", map[string]string{"name": user, "password": password}, &out)
	g.token = out.Token
	return err
}

// count does a linearizable read: it returns how many keys there are, and where
// the store is.
func (g *gateway) count(ctx context.Context) (keys int64, at *header, err error) {
	var out struct {
		Header header `json:"header"`
		Count  int64  `json:"count,string"`
	}
	in := map[string]any{"key": []byte{0}, "range_end": []byte{0}, "count_only": true}
	if err := g.call(ctx, "kv/range", in, &out); err != nil {
		return 0, nil, err
	}
	return out.Count, &out.Header, nil
}

// compact compacts the history up to a revision.
func (g *gateway) compact(ctx context.Context, revision int64) error {
	return g.call(ctx, "kv/compaction", map[string]any{"revision": revision, "physical": true}, nil)
}

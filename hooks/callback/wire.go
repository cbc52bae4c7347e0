// SPDX-License-Identifier: Apache-2.0

package callback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/stillpoint-go/protect/hooks"
)

const (
	maxRequest = 4 << 10  // bytes
	maxReply   = 64 << 10 // bytes: evidence in base64, and room
	maxMessage = 200      // bytes of it in an error
)

// The words of a refusal that the other side acts on.
const (
	refusedStale   = "stale"
	refusedForeign = "foreign"
)

// request is the body of every request.
type request struct {
	Epoch  hooks.Epoch `json:"epoch,omitempty"`
	Window int64       `json:"window_ms,omitempty"`
	Freeze string      `json:"freeze,omitempty"`
}

// reply is the body of every reply.
type reply struct {
	Freeze   string         `json:"freeze,omitempty"`
	Held     bool           `json:"held,omitempty"`
	Evidence hooks.Evidence `json:"evidence,omitempty"`
	Error    string         `json:"error,omitempty"`
	Message  string         `json:"message,omitempty"`
}

// call sends a request and returns the reply, if it is one of success.
func (q *Quiescer) call(ctx context.Context, what string, req request) (*reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, q.base+what, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	resp, err := q.client.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL
		}
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxReply {
		return nil, fmt.Errorf("status %d with more than %d bytes", resp.StatusCode, maxReply)
	}
	return readReply(resp.StatusCode, b)
}

// readReply tells success from refusal.
func readReply(status int, b []byte) (*reply, error) {
	r := new(reply)
	malformed := json.Unmarshal(b, r)
	switch {
	case status == http.StatusOK && malformed == nil:
		return r, nil
	case status == http.StatusOK:
		return nil, fmt.Errorf("status %d, but no reply: %w", status, malformed)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("status %d: %w", status, fs.ErrPermission)
	case status == http.StatusConflict && r.Error == refusedStale:
		return nil, ErrStale
	case status == http.StatusConflict && r.Error == refusedForeign:
		return nil, hooks.ErrForeignFreeze
	}
	return nil, fmt.Errorf("status %d: %q", status, r.Message[:min(maxMessage, len(r.Message))])
}

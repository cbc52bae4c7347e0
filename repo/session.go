// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
	"github.com/stillpoint-go/protect/internal/store"
)

// session is one writer's run. While its record is there and its commit key is
// free, collectors keep what it may refer to.
type session struct {
	id      [16]byte
	at      attempt      // what it will commit
	name    string       // of the point
	parents []attempt    // points that it may take subtrees from
	object  store.Object // of the record
}

// sessionJSON is the stored form of a session.
type sessionJSON struct {
	Version int       `json:"version"`
	Commit  string    `json:"commit"`
	Name    string    `json:"name"`
	Parents []string  `json:"parents,omitempty"`
	Started time.Time `json:"started"` // the writer's claim
}

func sessionKey(id [16]byte) string { return fmt.Sprintf("%s%x", ondisk.SessionPrefix, id) }

// parseSessionID returns the session that stands in a key, in its one spelling.
func parseSessionID(s string) (id [16]byte, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || !validHex(s, 2*len(id)) {
		return id, false
	}
	return [16]byte(b), true
}

// beginSession puts a session on record. Only after that may it rely on what
// others have stored: whoever collects either sees the session, or has told
// beforehand what not to rely on.
func (r *Repository) beginSession(ctx context.Context, at attempt, name string, parents ...attempt) (*session, error) {
	s := &session{at: at, name: name, parents: parents}
	_, _ = rand.Read(s.id[:]) // never fails, see crypto/rand
	rec := sessionJSON{Version: ondisk.Version, Commit: at.String(), Name: name, Started: time.Now().UTC()}
	for _, p := range parents {
		rec.Parents = append(rec.Parents, p.String())
	}
	plain, err := json.Marshal(rec)
	if err == nil && len(plain) > ondisk.MaxRecord { // no collector could read it
		err = fmt.Errorf("%w: the record of a session with a name of %d bytes", fs.ErrInvalid, len(name))
	}
	if err != nil {
		return nil, err
	}
	s.object.Key = sessionKey(s.id)
	return s, r.store.Put(ctx, s.object.Key, r.keys.SealObject(s.object.Key, plain))
}

// listSessions returns all sessions on record.
func (r *Repository) listSessions(ctx context.Context) ([]*session, error) {
	var all []*session
	for o, err := range r.store.List(ctx, ondisk.SessionPrefix) {
		if err != nil {
			return nil, err
		}
		s, err := r.fetchSession(ctx, o)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (r *Repository) fetchSession(ctx context.Context, o store.Object) (*session, error) {
	plain, err := r.getObject(ctx, o.Key, ondisk.MaxRecord)
	if err != nil {
		return nil, err
	}
	s, err := decodeSession(strings.TrimPrefix(o.Key, ondisk.SessionPrefix), plain)
	if errors.Is(err, ErrFormat) {
		return nil, err
	}
	if err != nil {
		return nil, corrupt(o.Key, err)
	}
	s.object = o
	return s, nil
}

// maxParents bounds the points that a session may pin.
const maxParents = 16

func decodeSession(id string, plain []byte) (*session, error) {
	var rec sessionJSON
	if err := json.Unmarshal(plain, &rec); err != nil {
		return nil, err
	}
	if rec.Version != ondisk.Version {
		return nil, fmt.Errorf("%w: session version %d", ErrFormat, rec.Version)
	}
	s := &session{name: rec.Name}
	var ok bool
	if s.id, ok = parseSessionID(id); !ok || len(rec.Parents) > maxParents {
		return nil, fmt.Errorf("%w: session", ondisk.ErrMalformed)
	}
	var err error
	if s.at, err = ondisk.ParseAttempt(rec.Commit); err != nil {
		return nil, err
	}
	for _, p := range rec.Parents {
		a, err := ondisk.ParseAttempt(p)
		if err != nil {
			return nil, err
		}
		s.parents = append(s.parents, a)
	}
	return s, nil
}

// endTimeout bounds the removal of what is of no use any more.
const endTimeout = 10 * time.Second

// endSession removes the record of a session that is resolved. Writers need
// not be allowed to delete: a collector does it otherwise.
func (r *Repository) endSession(ctx context.Context, s *session) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := r.store.Delete(ctx, s.object.Key); err != nil {
		r.log.Debug("the session's record stays for a collector", "error", err)
	}
}

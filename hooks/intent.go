// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxApplication = 253      // bytes: as long as the longest Kubernetes name
	maxID          = 256      // bytes
	maxMemberName  = 64       // bytes
	maxIntent      = 16 << 10 // bytes of an encoded intent

	intentVersion = 1
)

// intentFile is the stored form of an Intent. Append only: a new field needs a
// new version, since old readers refuse what they do not know.
type intentFile struct {
	Version     int       `json:"version"`
	Epoch       uint64    `json:"epoch"`
	Application string    `json:"application"`
	ID          string    `json:"id"`
	Members     []string  `json:"members"`
	Window      string    `json:"window"` // time.Duration text
	Began       time.Time `json:"began"`
}

// encodeIntent returns the stored form of an intent that check accepts.
func encodeIntent(in Intent) ([]byte, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(intentFile{
		Version: intentVersion, Epoch: uint64(in.Epoch), Application: in.Application, ID: in.ID,
		Members: in.Members, Window: in.Window.String(), Began: in.Began,
	})
	if err != nil {
		return nil, fmt.Errorf("hooks: encode intent: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeIntent is the strict inverse of encodeIntent.
func decodeIntent(data []byte) (Intent, error) {
	if len(data) > maxIntent {
		return Intent{}, fmt.Errorf("hooks: intent of more than %d bytes", maxIntent)
	}
	// The version is looked at alone, so that a newer intent is called newer
	// and not malformed.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Intent{}, fmt.Errorf("hooks: malformed intent: %w", err)
	}
	if head.Version != intentVersion {
		return Intent{}, fmt.Errorf("hooks: intent has version %d, this program knows %d", head.Version, intentVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var f intentFile
	if err := dec.Decode(&f); err != nil {
		return Intent{}, fmt.Errorf("hooks: malformed intent: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Intent{}, errors.New("hooks: malformed intent: data after its end")
	}
	window, err := time.ParseDuration(f.Window)
	if err != nil {
		return Intent{}, errors.New("hooks: malformed intent: bad window")
	}
	in := Intent{
		Epoch: Epoch(f.Epoch), Application: f.Application, ID: f.ID,
		Members: f.Members, Window: window, Began: f.Began,
	}
	return in, in.check()
}

// check bounds an intent, which may come from another process or version.
func (in Intent) check() error {
	if in.Epoch == 0 {
		return errors.New("hooks: intent without an epoch")
	}
	if err := checkText("application", in.Application, maxApplication); err != nil {
		return err
	}
	if err := checkText("id", in.ID, maxID); err != nil {
		return err
	}
	if len(in.Members) == 0 || len(in.Members) > MaxMembers {
		return fmt.Errorf("hooks: intent with %d members, 1 to %d are allowed", len(in.Members), MaxMembers)
	}
	for _, name := range in.Members {
		if err := checkName(name); err != nil {
			return err
		}
	}
	if in.Window <= 0 || in.Window > MaxWindow {
		return fmt.Errorf("hooks: intent with a window of %v", in.Window)
	}
	if y := in.Began.Year(); y < 1 || y > 9999 {
		return errors.New("hooks: intent with an impossible time")
	}
	return nil
}

// checkText accepts non-empty printable text of at most limit bytes.
func checkText(what, s string, limit int) error {
	if s == "" || len(s) > limit {
		return fmt.Errorf("hooks: %s of %d bytes, 1 to %d are allowed", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("hooks: %s %q is not UTF-8", what, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("hooks: %s %q has unprintable characters", what, s)
		}
	}
	return nil
}

// checkName accepts the name of a member.
func checkName(s string) error {
	if s == "" || len(s) > maxMemberName || s[0] == '.' {
		return fmt.Errorf("hooks: member name %q: 1 to %d characters are allowed, the first one not a dot", brief(s), maxMemberName)
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("hooks: member name %q: only a-z A-Z 0-9 . _ - are allowed", s)
		}
	}
	return nil
}

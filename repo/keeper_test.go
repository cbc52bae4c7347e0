// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"gocloud.dev/gcerrors"
	"gocloud.dev/secrets"
	"gocloud.dev/secrets/localsecrets"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// keeper returns a key of a service that holds a key of its own.
func keeper(tb testing.TB, id byte, name string) repo.Key {
	tb.Helper()
	k := localsecrets.NewKeeper([32]byte{id})
	tb.Cleanup(func() { _ = k.Close() })
	return repo.Keeper(k, name)
}

// service is a key management service with faults.
type service struct {
	key  *secrets.Keeper
	err  error
	code gcerrors.ErrorCode
	echo bool // it does not encrypt
	junk []byte
}

func (s *service) Encrypt(ctx context.Context, p []byte) ([]byte, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case s.echo:
		return p, nil
	}
	return s.key.Encrypt(ctx, p)
}

func (s *service) Decrypt(ctx context.Context, c []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("there is no deadline")
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case s.echo:
		return c, nil
	case s.junk != nil:
		return s.junk, nil
	}
	return s.key.Decrypt(ctx, c)
}

func (s *service) Close() error                       { return nil }
func (s *service) ErrorAs(error, any) bool            { return false }
func (s *service) ErrorCode(error) gcerrors.ErrorCode { return s.code }

// TestKeeperFailures: only where the service says that a slot is not its own is
// the key called wrong.
func TestKeeperFailures(t *testing.T) {
	local := localsecrets.NewKeeper([32]byte{1})
	s := &service{key: local}
	k := repo.Keeper(secrets.NewKeeper(s), "service")
	b := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), b.Bucket(), k, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustOpen(t, b.Bucket(), k)
	boom := errors.New("boom")
	for code, want := range map[gcerrors.ErrorCode][]error{
		gcerrors.Unknown: {boom}, gcerrors.Internal: {boom}, gcerrors.ResourceExhausted: {boom},
		gcerrors.PermissionDenied: {boom, fs.ErrPermission}, gcerrors.DeadlineExceeded: {boom, context.DeadlineExceeded}, gcerrors.Canceled: {boom, context.Canceled},
		gcerrors.InvalidArgument: {repo.ErrKey}, gcerrors.NotFound: {repo.ErrKey},
	} {
		s.err, s.code = boom, code
		_, err := repo.Open(t.Context(), b.Bucket(), k, nil)
		for _, w := range want {
			if !errors.Is(err, w) || errors.Is(err, repo.ErrKey) != errors.Is(want[0], repo.ErrKey) {
				t.Errorf("%v: %v", code, err)
			}
		}
		if _, err := r.AddKey(t.Context(), k); !errors.Is(err, boom) {
			t.Errorf("%v: add: %v", code, err)
		}
		if err := r.RotateKeys(t.Context(), key("x"), k); !errors.Is(err, boom) {
			t.Errorf("%v: rotate: %v", code, err)
		}
	}
	s.err = nil
	for _, junk := range [][]byte{{}, []byte("what another application encrypted"), bytes.Repeat([]byte("x"), 5000)} {
		s.junk = junk
		if _, err := repo.Open(t.Context(), b.Bucket(), k, nil); !errors.Is(err, repo.ErrKey) {
			t.Errorf("another plaintext: %v", err)
		}
		if _, err := r.AddKey(t.Context(), k); !errors.Is(err, repo.ErrKey) {
			t.Errorf("a key that does not open again: %v", err)
		}
	}
	s.junk, s.echo = nil, true
	if _, err := r.AddKey(t.Context(), k); err == nil {
		t.Error("a service that does not encrypt got a slot")
	}
	s.echo = false
	if n := len(slots(t, r)); n != 1 {
		t.Errorf("%d slots are left", n)
	}

	// A slot of another repository under the same key of the same service.
	other := repotest.NewBucket(nil)
	if _, err := repo.Init(t.Context(), other.Bucket(), k, nil); err != nil {
		t.Fatal(err)
	}
	for name := range b.Objects() {
		if strings.HasPrefix(name, "key/") {
			b.Delete(name)
		}
	}
	for name, data := range other.Objects() {
		if strings.HasPrefix(name, "key/") {
			b.Set(name, data)
		}
	}
	if _, err := repo.Open(t.Context(), b.Bucket(), k, nil); !errors.Is(err, repo.ErrKey) {
		t.Errorf("slot of another repository: %v", err)
	}
}

// TestKeySecretsStayInside prints everything that a key is in.
func TestKeySecretsStayInside(t *testing.T) {
	const canary = "canary-of-a-key-0123456789abcdef"
	k := localsecrets.NewKeeper([32]byte([]byte(canary)))
	s := &service{err: errors.New("boom")}
	b := repotest.NewBucket(nil)
	pass, kms, broken := key(canary), repo.Keeper(k, "name"), repo.Keeper(secrets.NewKeeper(s), "name")
	r, err := repo.Init(t.Context(), b.Bucket(), pass, nil)
	if err != nil {
		t.Fatal(err)
	}
	addKey(t, r, kms)
	old := mustOpen(t, b.Bucket(), pass)
	_, err1 := r.AddKey(t.Context(), broken)
	err2 := r.RotateKeys(t.Context(), pass, kms)
	_, err3 := repo.Open(t.Context(), b.Bucket(), key(canary+"x"), nil)
	err4 := writes(t.Context(), old, "p")
	_, err5 := repo.Open(t.Context(), b.Bucket(), broken, nil)
	type private struct{ k repo.Key }
	var text strings.Builder
	for _, v := range []any{pass, &pass, kms, broken, private{pass}, private{kms}, []repo.Key{pass, kms}, map[string]repo.Key{"k": pass}, r, slots(t, r), err1, err2, err3, err4, err5} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&text, verb+"\n", v)
		}
		if line, err := json.Marshal(v); err == nil {
			text.Write(line)
		}
	}
	if err1 == nil || err2 != nil || err3 == nil || err4 == nil || err5 == nil {
		t.Errorf("errors: %v, %v, %v, %v, %v", err1, err2, err3, err4, err5)
	}
	for _, o := range b.Objects() {
		text.Write(o)
	}
	for _, secret := range []string{canary, fmt.Sprintf("%x", canary[:20]), strings.Trim(fmt.Sprint([]byte(canary[:20])), "[]"), "Y2FuYXJ5"} {
		if i := strings.Index(text.String(), secret); i >= 0 {
			t.Errorf("%q in ...%.200s", secret, text.String()[max(0, i-100):])
		}
	}
}

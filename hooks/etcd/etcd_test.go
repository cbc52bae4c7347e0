// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/etcd"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

func newSnapshot(t *testing.T, c etcd.Client, dir string, opts *etcd.Options) *etcd.Quiescer {
	t.Helper()
	q, err := etcd.NewSnapshot(c, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func quiesce(t *testing.T, q *etcd.Quiescer) hooks.Hold {
	t.Helper()
	h, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestConformance takes an unfinished file for "frozen".
func TestConformance(t *testing.T) {
	for name, opts := range map[string]*etcd.Options{"begun": nil, "whole": {Whole: true, NoHash: true}} {
		t.Run(name, func(t *testing.T) {
			hookstest.Run(t, func(t *testing.T) hookstest.Harness {
				dir := t.TempDir()
				return hookstest.Harness{
					Quiescer: newSnapshot(t, newFake(5), dir, opts), SelfThaws: true,
					Frozen: func(context.Context) (bool, error) {
						left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
						return len(left) > 0, err
					},
				}
			})
		})
	}
}

// TestRefuses has a member that must not be copied for each reason.
func TestRefuses(t *testing.T) {
	tests := map[string]struct {
		change           func(*etcd.State)
		atomic, snapshot error
		says             string
	}{
		"healthy":     {change: func(*etcd.State) {}},
		"3.10":        {change: func(s *etcd.State) { s.Version = "3.10.1" }},
		"old":         {func(s *etcd.State) { s.Version = "3.3.27" }, errors.ErrUnsupported, errors.ErrUnsupported, "3.3.27"},
		"unknown":     {func(s *etcd.State) { s.Version = "4" }, errors.ErrUnsupported, errors.ErrUnsupported, "3.4"},
		"learner":     {func(s *etcd.State) { s.Learner = true }, etcd.ErrUnsafe, etcd.ErrUnsafe, "learner"},
		"no leader":   {func(s *etcd.State) { s.Leader = 0 }, etcd.ErrUnsafe, etcd.ErrUnsafe, "no leader"},
		"no space":    {func(s *etcd.State) { s.Errors = []string{"memberID:10 alarm:NOSPACE "} }, etcd.ErrUnsafe, etcd.ErrUnsafe, "NOSPACE"},
		"corrupt":     {func(s *etcd.State) { s.Errors = []string{"memberID:10 alarm:CORRUPT "} }, etcd.ErrUnsafe, etcd.ErrUnsafe, "CORRUPT"},
		"balancer":    {func(s *etcd.State) { s.ReadBy = 0xb }, etcd.ErrUnsafe, etcd.ErrUnsafe, "one endpoint"},
		"two members": {func(s *etcd.State) { s.Members = []string{"m1", "m2"} }, errors.ErrUnsupported, nil, "NewSnapshot"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(5)
			tt.change(&f.state)
			atomic, err := etcd.NewAtomic(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			for form, q := range map[string]*etcd.Quiescer{"atomic": atomic, "snapshot": newSnapshot(t, f, t.TempDir(), nil)} {
				want := tt.snapshot
				if form == "atomic" {
					want = tt.atomic
				}
				if err := q.Prepare(t.Context()); !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: Prepare: %v, want %v", form, err, want)
				}
				h, err := q.Quiesce(t.Context(), hooks.FreezeRequest{Epoch: 1, Window: time.Minute})
				if !errors.Is(err, want) {
					t.Errorf("%s: Quiesce: %v, want %v", form, err, want)
				}
				if h == nil {
					continue
				}
				if _, err := h.Thaw(t.Context()); err != nil {
					t.Errorf("%s: Thaw: %v", form, err)
				}
			}
		})
	}
}

// TestPrepareMore looks at what is not the member's state.
func TestPrepareMore(t *testing.T) {
	denied := errors.New("etcdserver: permission denied")
	f := newFake(5)
	f.stream = func(context.Context) io.Reader { return iotest.ErrReader(denied) }
	if err := newSnapshot(t, f, t.TempDir(), nil).Prepare(t.Context()); !errors.Is(err, denied) || !strings.Contains(err.Error(), "role root") {
		t.Errorf("without the role root: %v", err)
	}
	f = newFake(5)
	f.state.DBSize = 1 << 60
	if err := newSnapshot(t, f, t.TempDir(), nil).Prepare(t.Context()); !errors.Is(err, etcd.ErrUnsafe) || !strings.Contains(err.Error(), "room") {
		t.Errorf("a database that does not fit: %v", err)
	}
	if err := newSnapshot(t, newFake(5), filepath.Join(t.TempDir(), "missing"), nil).Prepare(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	data := t.TempDir()
	q, err := etcd.NewAtomic(newFake(5), &etcd.Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"snap/db", "wal/0.wal"} {
		if err := q.Prepare(t.Context()); !errors.Is(err, etcd.ErrUnsafe) {
			t.Errorf("before there is %s: %v", file, err)
		}
		writeFile(t, filepath.Join(data, "member", file), []byte("x"))
	}
	if err := q.Prepare(t.Context()); err != nil {
		t.Errorf("with both: %v", err)
	}
	f = newFake(5)
	f.err = denied
	if err := newSnapshot(t, f, t.TempDir(), nil).Prepare(t.Context()); !errors.Is(err, denied) {
		t.Errorf("a member that does not answer: %v", err)
	}
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestChanges changes the member while it is held.
func TestChanges(t *testing.T) {
	for name, change := range map[string]func(*etcd.State){
		"another member":  func(s *etcd.State) { s.Member, s.ReadBy = 0xb, 0xb },
		"another cluster": func(s *etcd.State) { s.Cluster++ },
		"going back":      func(s *etcd.State) { s.Revision-- },
		"a new member":    func(s *etcd.State) { s.Members = append(s.Members, "m2") },
		"an alarm":        func(s *etcd.State) { s.Errors = []string{"alarm:CORRUPT"} },
	} {
		f := newFake(5)
		q, err := etcd.NewAtomic(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := quiesce(t, q)
		if err := h.Held(t.Context()); err != nil {
			t.Errorf("%s: Held before: %v", name, err)
		}
		f.set(change)
		if err := h.Held(t.Context()); !errors.Is(err, hooks.ErrHoldLost) {
			t.Errorf("%s: Held: %v", name, err)
		}
		if e, err := h.Thaw(t.Context()); !errors.Is(err, hooks.ErrHoldLost) || e != nil {
			t.Errorf("%s: Thaw: %v, %v", name, e, err)
		}
	}
}

// TestEvidence is what is known of a snapshot, and of a cut at one instant.
func TestEvidence(t *testing.T) {
	want := &etcd.Info{
		Format: 1, Method: etcd.MethodSnapshot, ServerVersion: "3.4.23", Cluster: "c", Member: "a", Members: []string{"m1"}, Term: 2, Index: 9,
		Revision: 7, LastRevision: 7, Hashed: true, Hash: 7, CompactRevision: -1, DBSize: 4 * pageSize, Size: 6*pageSize + 32,
	}
	f := newFake(5)
	f.stream = func(context.Context) io.Reader {
		f.set(func(s *etcd.State) { s.Revision = 8 })
		return bytes.NewReader(sealed(db{last: 7}.bytes()))
	}
	dir := t.TempDir()
	e, err := quiesce(t, newSnapshot(t, f, dir, nil)).Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := etcd.ParseEvidence(e)
	if err != nil {
		t.Fatal(err)
	}
	want.SHA256 = got.SHA256
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(dir, etcd.SnapshotFile))
	if err != nil || st.Size() != got.Size || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("file: %v, %v", st, err)
	}

	f = newFake(5)
	q, err := etcd.NewAtomic(f, &etcd.Options{NoHash: true})
	if err != nil {
		t.Fatal(err)
	}
	h := quiesce(t, q)
	f.set(func(s *etcd.State) { s.Revision = 9 })
	if e, err = h.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err = etcd.ParseEvidence(e); err != nil {
		t.Fatal(err)
	}
	want.Method, want.Revision, want.LastRevision, want.Hashed, want.Hash, want.CompactRevision, want.Size, want.SHA256 = etcd.MethodAtomic, 5, 9, false, 0, 0, 0, ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("atomic (-want +got):\n%s", diff)
	}
}

// TestBadEvidence is not of this package, or makes no sense.
func TestBadEvidence(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for text, ok := range map[string]bool{
		`{"format":1,"method":"atomic","revision":5,"last_revision":6}`:                          true,
		`{"format":1,"method":"snapshot","revision":5,"last_revision":5,"sha256":"` + sum + `"}`: true,
		`{"format":1,"method":"snapshot","revision":5,"last_revision":6,"sha256":"` + sum + `"}`: false,
		`{"format":1,"method":"snapshot","revision":5,"last_revision":5,"sha256":"ab"}`:          false,
		`{"format":1,"method":"atomic","revision":5,"last_revision":4}`:                          false,
		`{"format":1,"method":"atomic","revision":0,"last_revision":4}`:                          false,
		`{"format":2,"method":"atomic","revision":5,"last_revision":6}`:                          false,
		`{"format":1,"method":"copy","revision":5,"last_revision":6}`:                            false,
		`{`: false,
		``:  false,
	} {
		_, err := etcd.ParseEvidence(hooks.Evidence{"etcd.json": []byte(text)})
		if (err == nil) != ok || err != nil && !errors.Is(err, etcd.ErrInconsistent) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestNoHash loses a hold whose hash cannot be had, and finds that of a revision
// that is compacted.
func TestNoHash(t *testing.T) {
	compacted := errors.New("required revision has been compacted")
	for newest, want := range map[int64]error{5: nil, 6: compacted} {
		f := newFake(5)
		f.hash = func(revision int64) (*etcd.Hash, error) {
			if revision != 0 {
				return nil, compacted
			}
			return &etcd.Hash{Hash: 7, Revision: newest, CompactRevision: 5}, nil
		}
		if _, err := quiesce(t, newSnapshot(t, f, t.TempDir(), nil)).Thaw(t.Context()); !errors.Is(err, want) || want != nil && !errors.Is(err, hooks.ErrHoldLost) {
			t.Errorf("newest revision %d: %v, want %v", newest, err, want)
		}
	}
}

// TestSlowStream lasts longer than the thaw may, and than the window.
func TestSlowStream(t *testing.T) {
	f := newFake(5)
	good := sealed(db{last: 5}.bytes())
	f.stream = func(ctx context.Context) io.Reader {
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write(good[:pageSize])
			<-ctx.Done()
			_ = w.CloseWithError(ctx.Err())
		}()
		return r
	}
	dir := t.TempDir()
	q := newSnapshot(t, f, dir, nil)
	h := quiesce(t, q)
	if err := h.Held(t.Context()); err != nil {
		t.Errorf("Held: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Thaw(ctx); !errors.Is(err, hooks.ErrHoldLost) {
		t.Errorf("Thaw: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	whole := newSnapshot(t, f, dir, &etcd.Options{Whole: true})
	if _, err := whole.Quiesce(ctx, hooks.FreezeRequest{Epoch: 2, Window: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Quiesce of all of it: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := etcd.NewAtomic(nil, nil); err == nil {
		t.Error("no client: no error")
	}
	if _, err := etcd.NewSnapshot(newFake(1), "relative", nil); err == nil {
		t.Error("relative directory: no error")
	}
}

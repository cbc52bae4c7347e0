// SPDX-License-Identifier: Apache-2.0

package repotest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/drivertest"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/repo/repotest"
)

type harness struct{ prefix string }

func (h *harness) MakeDriver(context.Context) (driver.Bucket, error) {
	b := repotest.NewBucket(nil).Driver()
	if h.prefix != "" {
		b = driver.NewPrefixedBucket(b, h.prefix)
	}
	return b, nil
}

func (h *harness) MakeDriverForNonexistentBucket(context.Context) (driver.Bucket, error) {
	return nil, nil // there is always one
}

func (*harness) HTTPClient() *http.Client         { return nil }
func (*harness) SupportsCopy() bool               { return true }
func (*harness) SupportsNonSlashDelimiters() bool { return true }
func (*harness) Close()                           {}

func TestConformance(t *testing.T) {
	for name, prefix := range map[string]string{"plain": "", "prefixed": "some/prefix/dir/"} {
		t.Run(name, func(t *testing.T) {
			drivertest.RunConformanceTests(t, func(context.Context, *testing.T) (drivertest.Harness, error) {
				return &harness{prefix}, nil
			}, nil)
		})
	}
}

// calls are the scenarios for the fault table, by kind. Each makes one call on a
// bucket with the object "old" of content "0123456789".
func calls() map[repotest.Kind]func(ctx context.Context, b *blob.Bucket) error {
	return map[repotest.Kind]func(ctx context.Context, b *blob.Bucket) error{
		repotest.Put: func(ctx context.Context, b *blob.Bucket) error {
			return b.WriteAll(ctx, "old", []byte("replaced"), nil)
		},
		repotest.PutOnce: func(ctx context.Context, b *blob.Bucket) error {
			return b.WriteAll(ctx, "new", []byte("created"), &blob.WriterOptions{IfNotExist: true})
		},
		repotest.Get: func(ctx context.Context, b *blob.Bucket) error {
			data, err := b.ReadAll(ctx, "old")
			if err == nil && string(data) != "0123456789" {
				err = fmt.Errorf("read %q", data)
			}
			return err
		},
		repotest.List: func(ctx context.Context, b *blob.Bucket) error {
			_, err := b.List(nil).Next(ctx)
			return err
		},
		repotest.Delete: func(ctx context.Context, b *blob.Bucket) error {
			return b.Delete(ctx, "old")
		},
		repotest.Attributes: func(ctx context.Context, b *blob.Bucket) error {
			_, err := b.Attributes(ctx, "old")
			return err
		},
		repotest.Copy: func(ctx context.Context, b *blob.Bucket) error {
			return b.Copy(ctx, "new", "old", nil)
		},
	}
}

func state(b *repotest.Bucket) string {
	var s []string
	for _, key := range b.Keys() {
		s = append(s, fmt.Sprintf("%s=%s", key, b.Objects()[key]))
	}
	return strings.Join(s, " ")
}

// TestFaultTable runs each call with each action, with and without death, and
// checks the error, the state now and the state after late effects.
func TestFaultTable(t *testing.T) {
	const before = "old=0123456789"
	after := map[repotest.Kind]string{
		repotest.Put: "old=replaced", repotest.PutOnce: "new=created " + before, repotest.Get: before, repotest.List: before,
		repotest.Delete: "", repotest.Attributes: before, repotest.Copy: "new=0123456789 " + before,
	}
	type outcome struct{ took, settled bool } // whether the effect is there now, and after Settle
	actions := map[repotest.Action]outcome{
		repotest.FailBefore: {}, repotest.FailAfter: {true, true}, repotest.Hang: {}, repotest.HangAfter: {true, true},
		repotest.Late: {false, true},
	}
	for kind, call := range calls() {
		for action, want := range actions {
			for _, kill := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/%v/kill=%t", kind, action, kill), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						world := repotest.NewBucket(nil)
						world.Set("old", []byte("0123456789"))
						fault := repotest.Fault{Action: action, Kill: kill, Code: gcerrors.ResourceExhausted}
						p := world.Open(&repotest.Options{Fault: repotest.At(0, fault)})
						ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
						defer cancel()
						err := call(ctx, p.Bucket())
						checkError(t, err, action, kill)
						states := map[bool]string{false: before, true: after[kind]}
						if got := state(world); got != states[want.took] {
							t.Errorf("state %q, want %q", got, states[want.took])
						}
						world.Settle()
						if got := state(world); got != states[want.settled] {
							t.Errorf("state after Settle %q, want %q", got, states[want.settled])
						}
						if err := call(t.Context(), p.Bucket()); kill != errors.Is(err, repotest.ErrKilled) || kill != p.Killed() {
							t.Errorf("the next call: %v, killed: %t", err, p.Killed())
						}
						if n := len(p.Calls()); n != 2 && !kill || n != 1 && kill {
							t.Errorf("calls %v", p.Calls())
						}
					})
				})
			}
		}
	}
}

func checkError(t *testing.T, err error, action repotest.Action, kill bool) {
	t.Helper()
	switch {
	case kill:
		if !errors.Is(err, repotest.ErrKilled) || gcerrors.Code(err) != gcerrors.PermissionDenied {
			t.Errorf("error %v, want ErrKilled", err)
		}
	case action == repotest.Hang || action == repotest.HangAfter:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want DeadlineExceeded", err)
		}
	case !errors.Is(err, repotest.ErrInjected) || gcerrors.Code(err) != gcerrors.ResourceExhausted:
		t.Errorf("error %v, want ErrInjected with ResourceExhausted", err)
	}
}

func TestNoFault(t *testing.T) {
	for kind, call := range calls() {
		world := repotest.NewBucket(nil)
		world.Set("old", []byte("0123456789"))
		if err := call(t.Context(), world.Bucket()); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		if got := world.Calls(); len(got) != 1 || got[0].Kind != kind || got[0].Index != 0 {
			t.Errorf("%v is recorded as %v", kind, got)
		}
	}
}

func TestCalls(t *testing.T) {
	world := repotest.NewBucket(&repotest.Options{PageSize: 2})
	b := world.Bucket()
	ctx := t.Context()
	for _, key := range []string{"p/1", "p/2", "p/3"} {
		if err := b.WriteAll(ctx, key, []byte("data"), &blob.WriterOptions{IfNotExist: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.NewRangeReader(ctx, "p/1", 1, 2, nil); err != nil {
		t.Fatal(err)
	}
	it := b.List(&blob.ListOptions{Prefix: "p/"})
	for range 3 {
		if _, err := it.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := it.Next(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("end of the list: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.WriteAll(done, "never", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled write: %v", err)
	}
	if err := b.Copy(ctx, "q", "p/1", nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, op := range world.Calls() {
		got = append(got, op.String())
	}
	want := []string{"0 PutOnce p/1", "1 PutOnce p/2", "2 PutOnce p/3", "3 Get p/1", "4 List p/", "5 List p/", "6 Copy q from p/1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if op := world.Calls()[3]; op.Offset != 1 || op.Length != 2 {
		t.Errorf("range of the read: %+v", op)
	}
	if op := world.Calls()[0]; op.Length != 4 {
		t.Errorf("length of the write: %+v", op)
	}
}

func TestDamage(t *testing.T) {
	tests := []struct {
		name  string
		fault repotest.Fault
		want  string // what is read
		err   bool
	}{
		{"corrupt", repotest.Fault{Action: repotest.Corrupt, Offset: 3}, "0122456789", false},
		{"corrupt modulo", repotest.Fault{Action: repotest.Corrupt, Offset: 13}, "0122456789", false},
		{"truncate", repotest.Fault{Action: repotest.Truncate, Offset: 4}, "0123", false},
		{"truncate to nothing", repotest.Fault{Action: repotest.Truncate}, "", false},
		{"truncate beyond", repotest.Fault{Action: repotest.Truncate, Offset: 99}, "0123456789", false},
		{"broken stream", repotest.Fault{Action: repotest.FailAfter, Offset: 5}, "01234", true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			world := repotest.NewBucket(nil)
			world.Set("k", []byte("0123456789"))
			p := world.Open(&repotest.Options{Fault: repotest.At(0, tc.fault)})
			r, err := p.Bucket().NewReader(t.Context(), "k", nil)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := r.WriteTo(&got); got.String() != tc.want || (err != nil) != tc.err {
				t.Errorf("read %q, %v, want %q", &got, err, tc.want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if string(world.Objects()["k"]) != "0123456789" {
				t.Error("a damaged read changed the object")
			}
			if tc.err {
				return
			}
			w := world.Open(&repotest.Options{Fault: repotest.At(0, tc.fault)})
			data := []byte("0123456789")
			if err := w.Bucket().WriteAll(t.Context(), "stored", data, nil); err != nil {
				t.Errorf("damaged write: %v", err)
			}
			if got := string(world.Objects()["stored"]); got != tc.want || string(data) != "0123456789" {
				t.Errorf("stored %q from %q, want %q", got, data, tc.want)
			}
		})
	}
}

func TestIsolation(t *testing.T) {
	world := repotest.NewBucket(nil)
	data := []byte("data")
	world.Set("k", data)
	data[0] = 'X'
	world.Objects()["k"][0] = 'Y'
	fork := world.Clone(nil)
	if !fork.Flip("k", 8) || fork.Flip("k", 32) || fork.Flip("k", -1) || fork.Flip("none", 0) {
		t.Error("Flip")
	}
	fork.Set("fork", nil)
	if state(world) != "k=data" || state(fork) != "fork= k=d`ta" {
		t.Errorf("world %q, clone %q", state(world), state(fork))
	}
	if !world.Delete("k") || world.Delete("k") || state(fork) != "fork= k=d`ta" {
		t.Error("Delete")
	}
	one, two := world.Open(nil), world.Open(nil)
	one.Kill()
	one.Kill()
	if err := one.Bucket().WriteAll(t.Context(), "k", nil, nil); !errors.Is(err, repotest.ErrKilled) {
		t.Errorf("write of a dead process: %v", err)
	}
	if err := two.Bucket().WriteAll(t.Context(), "k", []byte("2"), nil); err != nil {
		t.Errorf("write of a living process: %v", err)
	}
	if state(world) != "k=2" || len(one.Calls()) != 0 || len(two.Calls()) != 1 || len(world.Calls()) != 0 {
		t.Errorf("state %q, calls %v %v %v", state(world), one.Calls(), two.Calls(), world.Calls())
	}
}

func TestKillReleasesHangingCallsAndReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := repotest.NewBucket(nil)
		world.Set("k", []byte("data"))
		p := world.Open(&repotest.Options{Fault: repotest.At(1, repotest.Fault{Action: repotest.Hang})})
		r, err := p.Bucket().NewReader(t.Context(), "k", nil)
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error)
		go func() { result <- p.Bucket().Delete(t.Context(), "k") }()
		synctest.Wait()
		p.Kill()
		if err := <-result; !errors.Is(err, repotest.ErrKilled) {
			t.Errorf("hanging call: %v", err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, repotest.ErrKilled) {
			t.Errorf("open reader: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if state(world) != "k=data" {
			t.Errorf("state %q", state(world))
		}
	})
}

func TestRace(t *testing.T) {
	world := repotest.NewBucket(nil)
	for round := range 100 {
		key := fmt.Sprint(round)
		var wins atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 8 {
			b := world.Open(nil).Bucket()
			wg.Go(func() {
				err := b.WriteAll(t.Context(), key, []byte{byte(i)}, &blob.WriterOptions{IfNotExist: true})
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(byte(i))
				case gcerrors.Code(err) != gcerrors.FailedPrecondition || !errors.Is(err, fs.ErrExist):
					t.Errorf("loser: %v", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 || world.Objects()[key][0] != winner.Load() {
			t.Fatalf("round %d: %d winners, content %v", round, wins.Load(), world.Objects()[key])
		}
	}
}

func TestNames(t *testing.T) {
	if got := fmt.Sprint(repotest.Copy, repotest.Kind(99), repotest.Truncate, repotest.Action(-1)); got != "Copy Kind(99) Truncate Action(-1)" {
		t.Error(got)
	}
}

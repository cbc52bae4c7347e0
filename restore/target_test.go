// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore"
	"github.com/stillpoint-go/protect/restore/restoretest"
)

func TestTargets(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	put(t, dir, "a/b", []byte("content"))
	p := write(t, r, "one", map[string]string{"v": dir})
	for name, tt := range map[string]struct {
		make func(t *testing.T, parent string) (target string)
		err  error
	}{
		"absent":          {func(_ *testing.T, parent string) string { return filepath.Join(parent, "t") }, nil},
		"trailing slash":  {func(_ *testing.T, parent string) string { return filepath.Join(parent, "t") + "/" }, nil},
		"empty directory": {func(t *testing.T, parent string) string { return mkdir(t, parent, "t") }, nil},
		"not readable": {func(t *testing.T, parent string) string {
			d := mkdir(t, parent, "t")
			must(t, os.Chmod(d, 0o300))
			return d
		}, notRoot(fs.ErrPermission)},
		"not empty": {func(t *testing.T, parent string) string {
			return filepath.Dir(put(t, parent, "t/x", nil))
		}, fs.ErrExist},
		"file": {func(t *testing.T, parent string) string { return put(t, parent, "t", nil) }, fs.ErrExist},
		"link to an empty directory": {func(t *testing.T, parent string) string {
			must(t, os.Symlink(mkdir(t, parent, "real"), filepath.Join(parent, "t")))
			return filepath.Join(parent, "t")
		}, fs.ErrExist},
		"dangling link": {func(t *testing.T, parent string) string {
			must(t, os.Symlink("real", filepath.Join(parent, "t")))
			return filepath.Join(parent, "t")
		}, fs.ErrExist},
		"parent absent": {func(_ *testing.T, parent string) string { return filepath.Join(parent, "x", "t") }, fs.ErrNotExist},
		"empty string":  {func(*testing.T, string) string { return "" }, fs.ErrInvalid},
		"root":          {func(*testing.T, string) string { return "/" }, fs.ErrExist},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			target := tt.make(t, parent)
			before := names(t, parent)
			_, err := restore.Volume(t.Context(), r, p, "v", target, nil)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err == nil {
				compare(t, dir, target, nil)
				nothing(t, parent, "t")
			} else {
				nothing(t, parent, before...)
			}
		})
	}
}

// notRoot returns an error that root does not get.
func notRoot(err error) error {
	if os.Getuid() == 0 {
		return nil
	}
	return err
}

func mkdir(tb testing.TB, parent, name string) string {
	tb.Helper()
	p := filepath.Join(parent, name)
	must(tb, os.Mkdir(p, 0o755))
	return p
}

func names(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	must(tb, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestRelativeTarget(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	put(t, dir, "a", []byte("x"))
	p := write(t, r, "one", map[string]string{"v": dir})
	t.Chdir(t.TempDir())
	if _, err := restore.Volume(t.Context(), r, p, "v", "t", nil); err != nil {
		t.Fatal(err)
	}
	compare(t, dir, "t", nil)
}

// TestSingleFileKeepsMode restores something without a directory of its own
// into an existing one.
func TestSingleFileKeepsMode(t *testing.T) {
	r, _ := newRepo(t)
	p := write(t, r, "one", map[string]string{"v": put(t, t.TempDir(), "f", []byte("x"))})
	target := mkdir(t, t.TempDir(), "t")
	must(t, os.Chmod(target, 0o751))
	if _, err := restore.Volume(t.Context(), r, p, "v", target, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(target); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o751 {
		t.Errorf("target: %v, %v", info.Mode(), err)
	}
	nothing(t, target, "v")
}

// TestDamage flips bytes of each object: a restore gives what was written, or
// ErrCorrupt and nothing.
func TestDamage(t *testing.T) {
	r, b := newRepo(t)
	dir := t.TempDir()
	for i := range 40 {
		put(t, dir, fmt.Sprintf("d%d/f%02d", i%4, i), random(uint64(i), 1000*i))
	}
	put(t, dir, "large", random(77, 3<<20))
	write(t, r, "one", map[string]string{"v": dir})
	want := restoretest.Describe(t, dir, nil)
	parent := t.TempDir()
	target := filepath.Join(parent, "t")
	damaged := 0
	for key, data := range objects(t, b) {
		for _, at := range []int{0, len(data) / 3, len(data) / 2, len(data) - 1} {
			bad := slices.Clone(data)
			bad[at] ^= 0x10
			must(t, b.WriteAll(t.Context(), key, bad, nil))
			err := restoreOne(t.Context(), b, target)
			switch {
			case err == nil:
				if diff := cmp.Diff(want, restoretest.Describe(t, target, nil)); diff != "" {
					t.Errorf("%s, byte %d (-want +got):\n%s", key, at, diff)
				}
				must(t, os.RemoveAll(target))
			case errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrKey) || errors.Is(err, repo.ErrFormat):
				damaged++
			default:
				t.Errorf("%s, byte %d: %v", key, at, err)
			}
			nothing(t, parent)
		}
		must(t, b.Delete(t.Context(), key))
		if err := restoreOne(t.Context(), b, target); err == nil {
			must(t, os.RemoveAll(target))
		}
		nothing(t, parent)
		must(t, b.WriteAll(t.Context(), key, data, nil))
	}
	if damaged < 10 {
		t.Errorf("only %d restores noticed damage", damaged)
	}
}

func restoreOne(ctx context.Context, b *blob.Bucket, target string) error {
	r, err := repo.Open(ctx, b, key(), &repo.Options{Attempts: 1})
	if err != nil {
		return err
	}
	p, err := r.Point(ctx, "one")
	if err != nil {
		return err
	}
	_, err = restore.Volume(ctx, r, p, "v", target, &restore.Options{NoSync: true})
	return err
}

func objects(tb testing.TB, b *blob.Bucket) map[string][]byte {
	tb.Helper()
	out := map[string][]byte{}
	for it := b.List(nil); ; {
		o, err := it.Next(tb.Context())
		if errors.Is(err, io.EOF) {
			return out
		}
		must(tb, err)
		out[o.Key], err = b.ReadAll(tb.Context(), o.Key)
		must(tb, err)
	}
}

func TestSweep(t *testing.T) {
	parent := t.TempDir()
	stale := mkdir(t, parent, ".protect-restore-stale")
	inner := mkdir(t, stale, "closed")
	put(t, inner, "f", nil)
	must(t, os.Chmod(inner, 0))
	must(t, os.Chmod(stale, 0o500))
	put(t, parent, ".protect-restore-file", nil)
	must(t, os.Symlink(mkdir(t, parent, "other"), filepath.Join(parent, ".protect-restore-link")))
	n, err := restore.Sweep(t.Context(), parent)
	if runtime.GOOS == "windows" {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got %v", err)
		}
		return
	}
	if n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	nothing(t, parent, ".protect-restore-file", ".protect-restore-link", "other")
	if !restore.IsStaging(".protect-restore-stale") || restore.IsStaging("protect-restore-") {
		t.Error("IsStaging")
	}
	if _, err := restore.Sweep(t.Context(), filepath.Join(parent, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
}

// TestSweepSparesTheLiving sweeps while a restore runs.
func TestSweepSparesTheLiving(t *testing.T) {
	r, _ := newRepo(t)
	dir := t.TempDir()
	must(t, os.Chown(put(t, dir, "a", []byte("x")), os.Getuid(), os.Getgid()))
	p := write(t, r, "one", map[string]string{"v": dir})
	parent := t.TempDir()
	target := filepath.Join(parent, "t")
	swept := 0
	_, err := restore.Volume(t.Context(), r, p, "v", target, &restore.Options{
		Owners: true,
		MapOwner: func(_, _ uint32) (uint32, uint32) { // called for each entry
			n, err := restore.Sweep(t.Context(), parent)
			if n != 0 || err != nil {
				t.Errorf("swept %d: %v", n, err)
			}
			swept++
			return uint32(os.Getuid()), uint32(os.Getgid())
		},
	})
	if runtime.GOOS == "windows" && errors.Is(err, errors.ErrUnsupported) {
		return
	}
	must(t, err)
	if swept < 2 {
		t.Errorf("swept %d times", swept)
	}
	compare(t, dir, target, nil)
}

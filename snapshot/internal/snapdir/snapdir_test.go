// SPDX-License-Identifier: Apache-2.0

package snapdir_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/snapshot/internal/snapdir"
)

func open(tb testing.TB, dir string) *snapdir.Store {
	tb.Helper()
	s, err := snapdir.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// names are volumes that file systems, or we ourselves, might take for something
// else.
func names() []string {
	return []string{
		"/var/lib/pg", ".", "..", "a.", "=", "+", "%", "%2E", "C:\\x", "con", strings.Repeat("é=/", 100),
		strings.Repeat("a", 200), strings.Repeat("a", 201), strings.Repeat("a", 400), "\x00\n\xff",
	}
}

// FuzzNames escapes volumes and ids, and takes names of folders for them: each
// has one name, which any file system takes.
func FuzzNames(f *testing.F) {
	for _, v := range names() {
		f.Add(v)
		f.Add(strings.Join(snapdir.Escape(v), ""))
	}
	safe := func(t *testing.T, part string) {
		t.Helper()
		if part == "" || len(part) > 255 || part[0] == '.' || part[len(part)-1] == '.' || strings.ContainsAny(part, "/\\:*?\"<>|\x00 ") {
			t.Fatalf("unsafe name %q", part)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > snapdir.MaxVolume {
			return
		}
		if s != "" {
			parts := snapdir.Escape(s)
			name := ""
			for i, p := range parts {
				safe(t, p)
				cut, more := strings.CutSuffix(p, "=")
				if more != (i < len(parts)-1) {
					t.Fatalf("%q became %q", s, parts)
				}
				name += cut
			}
			if back, ok := snapdir.Unescape(name); !ok || back != s {
				t.Fatalf("%q became %q and then %q, %t", s, name, back, ok)
			}
		}
		if id, ok := snapdir.UnescapeID(s); ok {
			if safe(t, snapdir.EscapeID(id)); snapdir.EscapeID(id) != s && s != id {
				t.Fatalf("%q is another name of %q", s, id)
			}
		}
	})
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, volume := range names() {
		for _, id := range []string{"a", "a.", "a.b-c"} {
			c, err := s.Claim(id, volume)
			if err != nil {
				t.Fatalf("Claim(%q, %q): %v", id, volume, err)
			}
			if _, err := s.Claim(id, volume); !errors.Is(err, fs.ErrExist) {
				t.Errorf("second Claim(%q, %q): %v", id, volume, err)
			}
			got, err := s.List(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]snapdir.Claim{c}, got); diff != "" {
				t.Errorf("List(%q) (-want +got):\n%s", id, diff)
			}
			if err := s.Remove(c); err != nil {
				t.Fatal(err)
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left after Remove: %v, %v", left, err)
		}
	}
}

func TestListIgnoresOthers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c, err := s.Claim("id", "/v")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lost+found/x", ".hidden/x", "UPPER/x", "id/.group-1", "id/%zz", "id/%41", "id/a b", "-x/y", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]snapdir.Claim{c}, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// TestClaimRace has claims come and go side by side: nobody's removal of a
// shared parent may fail another's claim.
func TestClaimRace(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		s := open(t, dir)
		volume := strings.Repeat("long", 60) + string(rune('a'+i))
		wg.Go(func() {
			for range 200 {
				c, err := s.Claim("id", volume)
				if err != nil {
					t.Errorf("Claim: %v", err)
					return
				}
				if err := s.Remove(c); err != nil {
					t.Errorf("Remove: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRemoveAll(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{outside, tree + "/a/b/c", tree + "/locked/x"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(outside+"/keep", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(tree, "a", "b", strings.Repeat("f", 1+i%100)+string(rune(0x4e00+i))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, tree+"/a/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tree+"/locked", 0); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := snapdir.RemoveAll(ctx, root, "tree"); !errors.Is(err, context.Canceled) {
		t.Errorf("RemoveAll with a cancelled context: %v", err)
	}
	for range 2 {
		if err := snapdir.RemoveAll(t.Context(), root, "tree"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree is still there: %v", err)
	}
	if _, err := os.Stat(outside + "/keep"); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestCheckVolume(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "store")
	for _, d := range []string{dir + "/id/v", base + "/volume", base + "/volume/" + strings.Repeat("x/", 600)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(base+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base+"/volume", base+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, base+"/deceit"); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	for _, tc := range []struct {
		volume string
		want   error
	}{
		{base + "/volume", nil},
		{base, nil}, // holds the store: the drivers decide
		{dir, fs.ErrInvalid},
		{dir + "/id/v", fs.ErrInvalid},
		{base + "/deceit/id/v", fs.ErrInvalid},
		{base + "/link", fs.ErrInvalid},
		{base + "/file", fs.ErrInvalid},
		{base + "/volume/", fs.ErrInvalid},
		{base + "/volume/../volume", fs.ErrInvalid},
		{"volume", fs.ErrInvalid},
		{"", fs.ErrInvalid},
		{base + "/missing", fs.ErrNotExist},
		{base + "/volume/" + strings.TrimSuffix(strings.Repeat("x/", 600), "/"), fs.ErrInvalid},
	} {
		if _, err := s.CheckVolume(tc.volume); !errors.Is(err, tc.want) {
			t.Errorf("CheckVolume(%.80q): %v, want %v", tc.volume, err, tc.want)
		}
	}
}

// TestListRemovesLeftovers shows List what a process leaves that dies in Claim.
func TestListRemovesLeftovers(t *testing.T) {
	s := open(t, t.TempDir())
	long := "/" + strings.Repeat("v", 500)
	c, err := s.Claim("b", long)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.Path); err != nil { // as if its last step was missing
		t.Fatal(err)
	}
	if err := os.Mkdir(s.ID("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim("c", "/vol"); err != nil {
		t.Fatal(err)
	}
	claims, err := s.List(t.Context(), "")
	if err != nil || len(claims) != 1 {
		t.Errorf("claims %v, %v", claims, err)
	}
	left, err := os.ReadDir(s.Dir())
	if err != nil || len(left) != 1 || left[0].Name() != "c" {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestListBesideClaim lists all the time while claims are made and removed.
func TestListBesideClaim(t *testing.T) {
	s := open(t, t.TempDir())
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := s.List(t.Context(), ""); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 2000 {
		c, err := s.Claim("id", "/vol")
		if err != nil {
			t.Error(err)
			break
		}
		if err := s.Remove(c); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	wg.Wait()
}

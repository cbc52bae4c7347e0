// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

// Whatever the key, it works like any other and stays in the directory.
func TestHostileKeys(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "bucket")
	b := open(t, dir, &dirbucket.Options{CreateDir: true})
	keys := []string{
		"..", "../x", "../../x", "a/../../x", "/etc/passwd", "//x", "/", "a/", "a//", "a", "a/b", "a/b/c", ".", "./a", "a/.",
		".tmp", ".tmp/.tmp-x", ".tmp-x", "nul", "con.txt", "aux", "com1", "lpt9.x", "C:\\x", "C:/x", "\\\\host\\share", "..\\x",
		"a\x00b", "\x00", "a\nb", "a b", " ", "a.", "a. ", "A", "é", "e\u0301", "%", "%41", "%2e", "+", "a+", "a+/b", "-rf", "~", "*",
		"a.attrs", strings.Repeat("x", 254), strings.Repeat("d/", 200) + "x", "\u202e", "$HOME", "`id`", "|", ">x", "CON$",
	}
	for _, key := range keys {
		write(t, b, key, []byte(key), &blob.WriterOptions{IfNotExist: true, DisableContentTypeDetection: true})
	}
	for _, key := range keys {
		if got, err := b.ReadAll(t.Context(), key); err != nil || string(got) != key {
			t.Errorf("read %q: %q, %v", key, got, err)
		}
	}
	var listed []string
	for o, err := range all(t.Context(), b, nil) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, o.Key)
	}
	slices.Sort(keys)
	if diff := cmp.Diff(keys, listed); diff != "" {
		t.Errorf("listed keys (-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir(outer); err != nil || len(entries) != 1 {
		t.Errorf("beside the bucket: %v, %v", entries, err)
	}
	lower := map[string]string{}
	for name := range files(t, dir) {
		if other, dup := lower[strings.ToLower(name)]; dup {
			t.Errorf("files %q and %q differ only in case", name, other)
		}
		lower[strings.ToLower(name)] = name
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.%+/") != "" {
			t.Errorf("file name %q has other characters", name)
		}
	}
	for _, key := range keys {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("files after deletion: %v", left)
	}
}

func TestRefusedKeys(t *testing.T) {
	b := open(t, t.TempDir(), nil)
	for _, key := range []string{"", strings.Repeat("x", 255), strings.Repeat("X", 85), strings.Repeat("x", 255) + "/a"} {
		if err := b.WriteAll(t.Context(), key, nil, nil); gcerrors.Code(err) != gcerrors.InvalidArgument {
			t.Errorf("key of %d bytes: %v, want InvalidArgument", len(key), err)
		}
	}
	if page, _, err := b.ListPage(t.Context(), blob.FirstPageToken, 1, &blob.ListOptions{Prefix: strings.Repeat("x", 300) + "/"}); err != nil || len(page) != 0 {
		t.Errorf("list of an impossible prefix: %v, %v", page, err)
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", ".", "..", "con", "A", "%", "\xff\x00", "a.b", "com1.txt"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := dirbucket.Escape(s)
		if got, ok := dirbucket.Unescape(name); !ok || got != s {
			t.Errorf("%q became %q and then %q, %t", s, name, got, ok)
		}
		if name == "" || name[0] == '.' || name[len(name)-1] == '.' || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.%") != "" {
			t.Errorf("%q became the unsafe name %q", s, name)
		}
		if got, ok := dirbucket.Unescape(s); ok && dirbucket.Escape(got) != s {
			t.Errorf("%q is another name of %q", s, got)
		}
	})
}

// Links and special files that somebody planted are no way out and no objects.
func TestPlanted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	outer := t.TempDir()
	dir := filepath.Join(outer, "bucket")
	b := open(t, dir, &dirbucket.Options{CreateDir: true})
	secret := filepath.Join(outer, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Foreign", "README.md", "lost+found", "x%zz", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"link": secret, "up+": outer, "rel": "../secret"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "rel", "directory"} {
		if _, err := b.ReadAll(t.Context(), key); gcerrors.Code(err) != gcerrors.NotFound {
			t.Errorf("read %q: %v, want NotFound", key, err)
		}
		if err := b.Delete(t.Context(), key); gcerrors.Code(err) != gcerrors.NotFound {
			t.Errorf("delete %q: %v, want NotFound", key, err)
		}
		err := b.WriteAll(t.Context(), key, nil, &blob.WriterOptions{IfNotExist: true})
		if err == nil || gcerrors.Code(err) == gcerrors.FailedPrecondition {
			t.Errorf("create %q over it: %v, want an error that is no lost race", key, err)
		}
	}
	for _, key := range []string{"up/secret", "up/new"} {
		if _, err := b.ReadAll(t.Context(), key); err == nil {
			t.Errorf("read %q through a link out of the bucket", key)
		}
		if err := b.WriteAll(t.Context(), key, nil, nil); err == nil {
			t.Errorf("wrote %q through a link out of the bucket", key)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file+"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []*blob.ListOptions{nil, {Delimiter: "/"}, {Delimiter: "e"}, {Prefix: "up/"}, {Prefix: "file/"}} {
		for o, err := range all(t.Context(), b, opts) {
			t.Errorf("listed %v, %v with %+v", o, err, opts)
		}
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
}

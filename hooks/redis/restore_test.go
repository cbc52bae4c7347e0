// SPDX-License-Identifier: Apache-2.0

package redis_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/redis"
)

const evidenceAOF = `{"format":1,"method":"paused","appendonly":true,"appendfilename":"a.aof","appenddirname":"d","aof_least":20,"aof_most":20}`

// put writes files of ten bytes each, but for the manifest.
func put(t *testing.T, manifest string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("0123456789"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "d", "a.aof.manifest"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestManifest(t *testing.T) {
	const base = "file a.aof.2.base.rdb seq 2 type b\n"
	for name, tt := range map[string]struct {
		manifest string
		ok       bool
	}{
		"good":          {base + "file a.aof.3.incr.aof seq 3 type i\n", true},
		"comment":       {"# why\n" + base + "file a.aof.3.incr.aof seq 3 type i\n", true},
		"history":       {base + "file a.aof.1.base.rdb seq 1 type h\nfile a.aof.3.incr.aof seq 3 type i\n", true},
		"quoted":        {base + "file \"a.aof.3.incr.aof\" seq 3 type i\n", true},
		"two bases":     {base + base, false},
		"no base":       {"file a.aof.3.incr.aof seq 3 type i\n", false},
		"out of order":  {base + "file a.aof.3.incr.aof seq 3 type i\nfile a.aof.3.incr.aof seq 2 type i\n", false},
		"not there":     {base + "file a.aof.4.incr.aof seq 4 type i\n", false},
		"too few bytes": {base, false},
		"elsewhere":     {base + "file ../a.aof seq 3 type i\n", false},
		"unknown type":  {base + "file a.aof.3.incr.aof seq 3 type x\n", false},
		"cut off":       {base + "file a.aof.3.incr.aof seq 3 ty", false},
		"no newline":    {base + "file a.aof.3.incr.aof seq 3 type i", false},
		"empty":         {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := put(t, tt.manifest, "d/a.aof.2.base.rdb", "d/a.aof.3.incr.aof", "temp-12.rdb", "d/temp-a.aof.manifest", "temp-rewriteaof-1.aof", "keep")
			_, err := redis.PrepareRestore(t.Context(), dir, hooks.Evidence{"redis.json": []byte(evidenceAOF)}, nil)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, redis.ErrInconsistent) {
				t.Errorf("%v", err)
			}
			for file, stays := range map[string]bool{"keep": true, "temp-12.rdb": !tt.ok, "temp-rewriteaof-1.aof": !tt.ok, "d/temp-a.aof.manifest": !tt.ok} {
				if _, err := os.Lstat(filepath.Join(dir, file)); (err == nil) != stays {
					t.Errorf("%s is there: %t, want %t", file, err == nil, stays)
				}
			}
		})
	}
}

// TestSizes compares two files of ten bytes with what the server said.
func TestSizes(t *testing.T) {
	for name, tt := range map[string]struct {
		bounds string
		ok     bool
	}{
		"all":                      {`"aof_least":20,"aof_most":20`, true},
		"all but the base":         {`"aof_least":10,"aof_most":10`, true},
		"another number":           {`"aof_least":15,"aof_most":15`, false},
		"too few":                  {`"aof_least":21,"aof_most":21`, false},
		"between":                  {`"aof_least":15,"aof_most":25`, true},
		"fewer than before":        {`"aof_least":21,"aof_most":25`, false},
		"more than after":          {`"aof_least":0,"aof_most":9`, false},
		"not known":                {`"aof_least":0,"aof_most":0`, true},
		"more, of another rewrite": {`"aof_least":1,"aof_most":9`, false},
	} {
		dir := put(t, "file a.aof.2.base.rdb seq 2 type b\nfile a.aof.3.incr.aof seq 3 type i\n", "d/a.aof.2.base.rdb", "d/a.aof.3.incr.aof")
		evidence := `{"format":1,"method":"atomic","appendonly":true,"appendfilename":"a.aof","appenddirname":"d",` + tt.bounds + `}`
		_, err := redis.PrepareRestore(t.Context(), dir, hooks.Evidence{"redis.json": []byte(evidence)}, nil)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, redis.ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLinks does not follow what leads out of the copy.
func TestLinks(t *testing.T) {
	dir := put(t, "file a.aof.2.base.rdb seq 2 type b\nfile a.aof.3.incr.aof seq 3 type i\n", "d/a.aof.2.base.rdb", "d/x")
	if err := os.Symlink("x", filepath.Join(dir, "d", "a.aof.3.incr.aof")); err != nil {
		t.Skip(err)
	}
	if _, err := redis.PrepareRestore(t.Context(), dir, hooks.Evidence{"redis.json": []byte(evidenceAOF)}, nil); !errors.Is(err, redis.ErrInconsistent) {
		t.Errorf("%v", err)
	}
}

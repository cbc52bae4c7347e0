// SPDX-License-Identifier: Apache-2.0

package redis_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stillpoint-go/protect/hooks/redis"
)

// FuzzManifest reads manifests: no name leads out of their directory.
func FuzzManifest(f *testing.F) {
	f.Add("file a.aof.1.base.rdb seq 1 type b\nfile a.aof.1.incr.aof seq 1 type i\n")
	f.Add("# a comment\nfile \"a b\\x20c\" seq 2 type b\nfile h seq 1 type h\nfile i seq 3 type i\n")
	f.Add("file ../x seq 1 type b\n")
	f.Add("file .. seq 1 type b\n")
	path := filepath.Join(f.TempDir(), "manifest")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		names, err := redis.ReadManifest(path)
		if err != nil && !errors.Is(err, redis.ErrInconsistent) {
			t.Errorf("error %v, want ErrInconsistent", err)
		}
		for _, name := range names {
			if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
				t.Errorf("%q is not the name of a file beside it", name)
			}
		}
	})
}

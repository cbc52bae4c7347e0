// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Foreign returns an error if something in a restored data directory leads to
// another place: the server would open the files of the original.
func Foreign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%q is a symbolic link: the restored server would open the files of the original", e.Name())
		}
		if !e.IsDir() {
			continue
		}
		inside, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		for _, f := range inside {
			if f.Type()&fs.ModeSymlink != 0 || filepath.Ext(f.Name()) == ".isl" {
				return fmt.Errorf("%q in %q leads elsewhere: the restored server would open the files of the original", f.Name(), e.Name())
			}
		}
	}
	return nil
}

// RemoveLeftovers removes files of statements that were under way. Tablespaces
// among them are in InnoDB's dictionary, so that InnoDB removes them.
func RemoveLeftovers(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !Leftover(name) || filepath.Ext(name) == ".ibd" {
			return err
		}
		stem := strings.TrimSuffix(name, filepath.Ext(name))
		if _, err := os.Stat(stem + ".ibd"); err == nil {
			return nil
		}
		return os.Remove(name)
	})
}

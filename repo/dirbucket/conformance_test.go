// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"

	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/drivertest"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

type harness struct{ dir, prefix string }

func (h *harness) MakeDriver(context.Context) (driver.Bucket, error) {
	b, err := dirbucket.OpenDriver(h.dir, nil)
	if err != nil || h.prefix == "" {
		return b, err
	}
	return driver.NewPrefixedBucket(b, h.prefix), nil
}

func (h *harness) MakeDriverForNonexistentBucket(context.Context) (driver.Bucket, error) {
	return nil, nil // a directory that does not exist can not be opened
}

func (*harness) HTTPClient() *http.Client         { return nil }
func (*harness) SupportsCopy() bool               { return true }
func (*harness) SupportsNonSlashDelimiters() bool { return true }
func (*harness) Close()                           {}

func TestConformance(t *testing.T) {
	for name, prefix := range map[string]string{"plain": "", "prefixed": "some/prefix/dir/"} {
		t.Run(name, func(t *testing.T) {
			drivertest.RunConformanceTests(t, func(_ context.Context, t *testing.T) (drivertest.Harness, error) {
				return &harness{dir: filepath.Clean(t.TempDir()), prefix: prefix}, nil
			}, nil)
		})
	}
}

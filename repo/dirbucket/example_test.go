// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

// Two writers race for one key: the second learns that it lost.
func Example() {
	ctx := context.Background()
	tmp, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	bucket, err := dirbucket.OpenBucket(filepath.Join(tmp, "repository"), &dirbucket.Options{CreateDir: true})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bucket.Close() }()

	once := &blob.WriterOptions{IfNotExist: true, DisableContentTypeDetection: true}
	for _, who := range []string{"first", "second"} {
		err := bucket.WriteAll(ctx, "commits/1", []byte(who), once)
		fmt.Println(who, gcerrors.Code(err))
	}
	// Output:
	// first OK
	// second FailedPrecondition
}

// SPDX-License-Identifier: Apache-2.0

package repotest_test

import (
	"context"
	"fmt"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo/repotest"
)

// commit is the code under test: it must never show a commit without its data.
func commit(ctx context.Context, b *blob.Bucket) error {
	once := &blob.WriterOptions{IfNotExist: true}
	if err := b.WriteAll(ctx, "data", []byte("payload"), once); err != nil {
		return err
	}
	return b.WriteAll(ctx, "commit", nil, once)
}

// A fault sweep: every call of the code under test fails once in every way.
func Example_sweep() {
	ctx := context.Background()
	runs, violations := 0, 0
	actions := []repotest.Action{repotest.None, repotest.FailBefore, repotest.FailAfter, repotest.Late}
	for _, action := range actions {
		for _, kill := range []bool{false, true} {
			for i := 0; ; i++ {
				world := repotest.NewBucket(nil)
				fault := repotest.Fault{Action: action, Kill: kill}
				process := world.Open(&repotest.Options{Fault: repotest.At(i, fault)})
				err := commit(ctx, process.Bucket())
				if len(process.Calls()) <= i {
					break // the code makes no call number i
				}
				runs++
				world.Settle() // what was late lands now
				_, data := world.Objects()["data"]
				_, committed := world.Objects()["commit"]
				if committed && !data || err == nil && !committed {
					violations++
				}
			}
		}
	}
	fmt.Println(runs, "runs,", violations, "violations")
	// Output: 16 runs, 0 violations
}

// SPDX-License-Identifier: Apache-2.0

package hooks_test

import (
	"context"
	"fmt"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/hookstest"
)

func ExampleGroup_Do() {
	// Real members come from hooks/sqlite, hooks/command, hooks/fsfreeze, or
	// from a package of your own.
	session := hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
	target := &hookstest.Target{}
	database := hookstest.Scripted(target, &hookstest.ScriptedOptions{Traits: session})

	group, err := hooks.NewGroup("shop", []hooks.Member{{Name: "db", Quiescer: database}}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := group.Prepare(ctx); err != nil {
		fmt.Println(err)
		return
	}
	report, err := group.Do(ctx, "nightly-1", func(ctx context.Context) error {
		frozen, err := target.Frozen(ctx)
		fmt.Println("cut while frozen:", frozen)
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	frozen, _ := target.Frozen(ctx)
	fmt.Println("proven:", report.Proven())
	fmt.Println("frozen afterwards:", frozen)
	// Output:
	// cut while frozen: true
	// proven: true
	// frozen afterwards: false
}

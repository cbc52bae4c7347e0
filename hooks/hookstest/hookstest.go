// SPDX-License-Identifier: Apache-2.0

// Package hookstest tests quiescers and the code that uses them.
//
// [Run] checks the contract of hooks.Quiescer against a real target. A driver
// needs little more than a probe:
//
//	func TestConformance(t *testing.T) {
//		hookstest.Run(t, func(t *testing.T) hookstest.Harness {
//			db := startServer(t)
//			return hookstest.Harness{
//				Quiescer: mydriver.New(db),
//				Frozen:   func(ctx context.Context) (bool, error) { return !canWrite(ctx, db), nil },
//			}
//		})
//	}
//
// [Recorder] wraps quiescers, keeps an ordered log of what happened to them,
// and fails the test if one of them was not thawed exactly once or out of
// order.
//
// [Target] and [Scripted] are an honest target in memory and a quiescer for it
// that fails where a script says so: before or after the effect, by hanging,
// freezing late, losing a hold, panicking, or with the whole [Process] that it
// belongs to. A sweep over every [Op] and every [Kind] shows that the code
// under test leaves nothing frozen.
package hookstest

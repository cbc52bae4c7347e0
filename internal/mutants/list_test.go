// SPDX-License-Identifier: Apache-2.0

package mutants_test

import "slices"

// mutant is a rule that is broken: in file, old becomes new. One of the tests
// that run selects in the package of the tests must fail.
type mutant struct {
	name     string
	file     string // relative to the module, like pkg
	old, new string
	pkg      string
	run      string
	root     bool // its tests need root, loop devices and Linux
}

func mutants() []mutant {
	return slices.Concat(freezes(), proofs(), recoveries(), watchdogs(), quiescers())
}

const (
	freezeGo  = "hooks/freeze.go"
	groupGo   = "hooks/group.go"
	recoverGo = "hooks/recover.go"
	serverGo  = "internal/watchdog/server.go"
	sim       = "TestSimulation$"
)

// freezes are the rules of freezing and thawing.
func freezes() []mutant {
	return []mutant{
		{
			name: "thaw before the cut", file: freezeGo, pkg: "hooks", run: sim,
			old: "if err = f.cut(ctx, cut); err == nil {",
			new: "errs = append(errs, f.thaw(ctx)...)\n\t\tif err = f.cut(ctx, cut); err == nil {",
		},
		{
			name: "no barrier", file: freezeGo, pkg: "hooks", run: "TestMemberFails",
			old: "f.collect(members, errs)\n\t\tif err != nil {",
			new: "f.collect(members, errs)\n\t\tif err != nil && ctx.Err() != nil {",
		},
		{
			name: "LIFO broken", file: freezeGo, pkg: "hooks", run: sim,
			old: "range slices.Backward(f.held)", new: "range slices.All(f.held)",
		},
		{
			name: "a window for each member", file: freezeGo, pkg: "hooks", run: sim,
			old: "Window: f.end.Sub(began)}", new: "Window: f.g.opts.Window}",
		},
		{
			name: "a foreign freeze is thawed", file: freezeGo, pkg: "hooks", run: "TestForeignFreezeIsLeftAlone",
			old: "if errors.Is(err, ErrForeignFreeze) {", new: "if false {",
		},
		{
			name: "no undo after a failed rank", file: freezeGo, pkg: "hooks", run: sim,
			old: "\terrs = append(errs, f.thaw(ctx)...)", new: "\tif err == nil {\n\t\terrs = append(errs, f.thaw(ctx)...)\n\t}",
		},
		{
			name: "no undo of a lost reply", file: freezeGo, pkg: "hooks", run: sim,
			old: "m.undo = f.settle(detached, m, hold, err)", new: "_ = detached",
		},
		{
			name: "a late hold is not thawed", file: freezeGo, pkg: "hooks", run: "TestLateHold",
			old: "err = f.settle(detached, m, hold, err)\n\t\tm.settled", new: "err = nil\n\t\tm.settled",
		},
		{
			name: "the thaw ends with the caller", file: freezeGo, pkg: "hooks", run: "TestCancelAtEachPhase",
			old: "epoch Epoch) (Evidence, error) {\n\tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx),",
			new: "epoch Epoch) (Evidence, error) {\n\tctx, cancel := context.WithTimeout(ctx,",
		},
		{
			name: "a thaw is tried once", file: freezeGo, pkg: "hooks", run: "TestMemberFails",
			old: "return final(err) || errors.Is(err, errAbandoned)", new: "return true",
		},
		{
			name: "the intent ends before the thaw", file: freezeGo, pkg: "hooks", run: sim,
			old: "\terrs = append(errs, f.thaw(ctx)...)", new: "\tf.endIntent(ctx)\n\terrs = append(errs, f.thaw(ctx)...)",
		},
		{
			name: "the intent of one who owes ends", file: freezeGo, pkg: "hooks", run: "TestThawNeverWorks",
			old: "case f.owed == 0:", new: "case f.owed >= 0:",
		},
		{
			name: "no intent", file: groupGo, pkg: "hooks", run: sim,
			old: "return epoch, nil\n}", new: "return epoch, g.journal.End(ctx, epoch)\n}",
		},
		{
			name: "calls of earlier freezes are not waited for", file: groupGo, pkg: "hooks", run: "TestLateHold",
			old: "if err := g.strays.wait(ctx); err != nil {", new: "if false {\n\t\tvar err error",
		},
		{
			name: "the clock of the future is trusted", file: "hooks/budget.go", pkg: "hooks", run: "TestClockWasWrong",
			old: "return p.Ended.Sub(now) > futureLimit", new: "return false",
		},
	}
}

// proofs are the rules of what a point is called.
func proofs() []mutant {
	return []mutant{
		{
			name: "no proof", file: freezeGo, pkg: "hooks", run: "TestMemberFails",
			old: "if err != nil {\n\t\t\t\tm.report.Lost", new: "if false {\n\t\t\t\tm.report.Lost",
		},
		{
			name: "a thaw that says that the hold was lost is ignored", file: freezeGo, pkg: "hooks", run: "TestMemberFails|" + sim,
			old: "m.report.Proven = false\n\t\tm.report.Lost = brief(err.Error())\n", new: "",
		},
		{
			name: "an overrun is proven", file: "hooks/report.go", pkg: "hooks", run: "TestOverrun",
			old: "if len(r.Members) > 0 && r.Overrun() {", new: "if false {",
		},
		{
			name: "an overrun keeps its level", file: "consistency.go", pkg: ".", run: "TestOverrun",
			old: "if rep.Overrun() {", new: "if false {",
		},
		{
			name: "a cut need not be atomic", file: "consistency.go", pkg: ".", run: "TestLevel|TestCrashSafe",
			old: "if rep.Members[i].Traits.AtomicCut && !atomic {", new: "if false {",
		},
		{
			name: "a hold that is not proven counts", file: "consistency.go", pkg: ".", run: "TestLevel",
			old: "if !rep.Members[i].Proven || len(m.Volumes)", new: "if len(m.Volumes)",
		},
		{
			name: "the strongest volume decides", file: "consistency.go", pkg: ".", run: "TestLevel",
			old: "held = min(held, heldLevel(", new: "held = max(held, heldLevel(",
		},
		{
			name: "less than is required is fine", file: "step.go", pkg: ".", run: "TestLevel|TestCrashSafe",
			old: "if c.Level < app.Require {", new: "if false {",
		},
	}
}

// recoveries are the rules for what a dead process left.
func recoveries() []mutant {
	return []mutant{
		{
			name: "no recovery before a freeze", file: groupGo, pkg: "hooks", run: "TestRecoverAfterCrash",
			old: "if err := g.recover(ctx); err != nil {\n\t\treturn nil, err", new: "if false {\n\t\treturn nil, nil",
		},
		{
			name: "a hold that did not thaw is forgotten", file: freezeGo, pkg: "hooks", run: "TestFaultSweep",
			old: "\t\tg.owe(hold, name, epoch)\n", new: "",
		},
		{
			name: "a member that is gone is forgotten", file: recoverGo, pkg: "hooks", run: "TestRecoverAfterCrash",
			old: "return m.Name == name }) {", new: "return m.Name == name }) && false {",
		},
		{
			name: "freezes of other applications are thawed", file: recoverGo, pkg: "hooks", run: "TestRecoverAfterCrash",
			old: "return in.Application != g.name }", new: "return in.Application == \"\" }",
		},
		{
			name: "the intent of a call under way ends", file: recoverGo, pkg: "hooks", run: "TestLateHold",
			old: "if g.strays.busy() {", new: "if false {",
		},
		{
			name: "what cannot be recovered is forgotten", file: recoverGo, pkg: "hooks", run: "TestRecoverAfterCrash|TestThaw|" + sim,
			old: "\tif len(errs) > 0 {\n\t\treturn errors.Join(errs...)\n\t}\n\tif err := g.rememberUnseen", new: "\tif err := g.rememberUnseen",
		},
		{
			name: "recovery in the order of freezing", file: recoverGo, pkg: "hooks", run: "Recover|Order",
			old: "range slices.Backward(g.inOrder())", new: "range slices.All(g.inOrder())",
		},
	}
}

// SPDX-License-Identifier: Apache-2.0

package mutants_test

// watchdogs are the rules of the process that thaws in our place.
func watchdogs() []mutant {
	const dir, run = "internal/watchdog", "TestFreezeThatCannotBeInterrupted"
	return []mutant{
		{
			name: "no window", file: serverGo, pkg: dir, run: run,
			old: "deadline := time.NewTimer(window)", new: "deadline := time.NewTimer(1000 * window)",
		},
		{
			name: "the death of the parent goes unnoticed", file: serverGo, pkg: dir, run: run,
			old: "case !ok:\n\t\t\t\treturn", new: "case !ok:\n\t\t\t\t<-expired\n\t\t\t\treturn",
		},
		{
			name: "a freeze that comes too late is kept", file: serverGo, pkg: dir, run: run,
			old: "case early != \"\":", new: "case false:",
		},
		{
			name: "the watchdog thaws once", file: serverGo, pkg: dir, run: run,
			old: "if err == nil || errors.Is(err, ErrNotFrozen) {\n\t\t\treturn err", new: "if true {\n\t\t\treturn err",
		},
		{
			name: "no lock of the target", file: "internal/watchdog/lock_unix.go", pkg: "hooks/command", run: "TestStale",
			old: "return false, nil\n", new: "return true, nil\n",
		},
		{
			name: "the programs do not share the lock", file: "internal/watchdog/command.go", pkg: "hooks/command", run: "TestStaleProgram",
			old: "p.spec.MaxOutput, p.lock)", new: "p.spec.MaxOutput, nil)",
		},
	}
}

// quiescers are the rules of file systems and programs.
func quiescers() []mutant {
	return []mutant{
		{
			name: "the kernel is not asked whether it holds", file: "internal/watchdog/fs_linux.go", pkg: "hooks/fsfreeze", run: "TestForeignFreeze", root: true,
			old: "func (s *fileSystem) held() error {\n", new: "func (s *fileSystem) held() error {\n\tif s != nil {\n\t\treturn nil\n\t}\n",
		},
		{
			name: "the mount is not looked at again", file: "hooks/fsfreeze/hold_linux.go", pkg: "hooks/fsfreeze", run: "TestReplacedMeanwhile", root: true,
			old: "if st.Dev != h.device {", new: "if false {",
		},
		{
			name: "a part of a file system is frozen", file: "hooks/fsfreeze/quiescer_linux.go", pkg: "hooks/fsfreeze", run: "TestBindMounts", root: true,
			old: "if m.root != \"/\" {", new: "if false {",
		},
		{
			name: "a watchdog that dies is not replaced", file: "hooks/fsfreeze/quiescer_linux.go", pkg: "hooks/fsfreeze", run: "TestHelperIsKilled", root: true,
			old: "\tgo h.guard(context.WithoutCancel(ctx))\n", new: "",
		},
		{
			name: "a watchdog that is stopped is waited for", file: "hooks/fsfreeze/hold_linux.go", pkg: "hooks/fsfreeze", run: "TestWatchdogIsStopped", root: true,
			old: "if h.thawHere() {", new: "if false {",
		},
		{
			name: "a pair need not be asked", file: "hooks/command/pair.go", pkg: "hooks/command", run: "TestPairTargetRestarts",
			old: "return fmt.Errorf(\"command: %w: %w\", hooks.ErrHoldLost, errUnasked)", new: "return nil",
		},
		{
			name: "a target that was restarted is frozen", file: "hooks/command/pair.go", pkg: "hooks/command", run: "TestPairTargetRestarts",
			old: "hooks.MaxEvidence, nil); err != nil {", new: "hooks.MaxEvidence, nil); ctx.Err() != nil {",
		},
		{
			name: "a program that ended holds", file: "hooks/command/held.go", pkg: "hooks/command", run: "TestHeld$",
			old: "\treturn h.gone()\n", new: "\treturn nil\n",
		},
		{
			name: "a refused freeze can come back", file: "hooks/hookstest/target.go", pkg: "hooks/hookstest", run: "TestTarget",
			old: "\t\tt.minEpoch = max(t.minEpoch, epoch+1) // a duplicate must not come through later\n", new: "",
		},
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package campaign holds the long tests of the repository engine: what many
// processes, faults, crashes and damages do to it. It has tests only, each with
// a short form that go test runs, and a long one:
//
//   - TestSim runs random schedules of several processes on one store in virtual
//     time, with a scheduler that decides at each call to the store who goes on
//     and what fails.
//   - TestSweep fails every call of canonical workloads in every way.
//   - TestKill kills real processes with SIGKILL, TestCrowd runs many at once.
//   - TestPower cuts the power after every step on the disk.
//   - TestFlip damages, exchanges and rolls back every object.
//
// What protectctl does when its store is full, or dies and comes back, is tried
// by TestFull and TestServer in examples/protectctl.
//
// Flags come after -args: see docs/reliability.md for the commands and what they
// found. Every test prints its seed; a seed that once failed stays in a table.
package campaign

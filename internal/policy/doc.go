// SPDX-License-Identifier: Apache-2.0

// Package policy holds the rules that the repository keeps about itself, as
// tests: which package may import which, what an embedder links, what is
// exported, that it is documented, that the programs in the documents compile,
// and the habits that no compiler checks. Each failure says why the rule is
// there. Exceptions are listed, with their reason, in allow_test.go.
//
// Two sets of files under testdata are reviewed text: api is the exported
// interface of every public package, links the modules that come with it. A
// change that is meant is accepted with
//
//	go test ./internal/policy -update
//
// and shows up in the diff of the commit. The package has no code of its own.
package policy

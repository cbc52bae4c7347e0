// SPDX-License-Identifier: Apache-2.0

// Package mutants breaks the rules by which applications are frozen, one at a
// time and in the real code, and shows that a test notices each of them. It
// holds nothing but tests.
package mutants

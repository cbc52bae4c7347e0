// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var seedFlag = flag.Uint64("seed", 0, "first seed; 0 draws one")

// firstSeed returns where a campaign begins, and prints it.
func firstSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 16 // easy to type
	}
	t.Logf("seed %d", seed)
	return seed
}

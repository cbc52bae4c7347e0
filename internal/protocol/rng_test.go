// SPDX-License-Identifier: Apache-2.0

package protocol

// rng is splitmix64: eight bytes of state, so that each actor has its own and
// what one draws does not depend on when another one runs.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// n is a number below n, which is small: the bias does not matter.
func (r *rng) n(n int) int { return int(r.next() >> 33 % uint64(n)) }

// chance is true in p of 100 cases.
func (r *rng) chance(p int) bool { return r.n(100) < p }

// pick is a random member of a word, or -1.
func (r *rng) pick(w uint64) int {
	all := make([]int, 0, 64)
	each(w, func(i int) { all = append(all, i) })
	if len(all) == 0 {
		return -1
	}
	return all[r.n(len(all))]
}

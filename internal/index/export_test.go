// SPDX-License-Identifier: Apache-2.0

package index

import "encoding/binary"

// SignTail returns b with a valid tag at its end, if its counts say where the
// tail begins.
func SignTail(a *Auth, name string, b []byte) []byte {
	end := len(b) - tagSize - len(tableMagic)
	if end < countsSize {
		return b
	}
	le := binary.LittleEndian
	counts := b[end-countsSize:]
	recs, packs := le.Uint64(counts), uint64(le.Uint32(counts[16:]))
	if recs > uint64(len(b)) || packs > uint64(len(b)) {
		return b
	}
	body := (blocks(int(recs), recsInBlock) + blocks(int(packs), packsInBlock)) * blockSize
	if body > end {
		return b
	}
	b = append([]byte(nil), b...)
	for n := range body / blockSize {
		block := b[n*blockSize:][:blockSize]
		tag := a.tag(nameHash(name), uint64(n), block[:blockSize-tagSize]) // not negative
		copy(block[blockSize-tagSize:], tag[:])
	}
	tag := a.tag(nameHash(name), tailNumber, b[body:end])
	copy(b[end:], tag[:])
	copy(b[end+tagSize:], tableMagic)
	return b
}

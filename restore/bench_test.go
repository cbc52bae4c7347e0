// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"testing"

	"github.com/stillpoint-go/protect/repo"
)

// BenchmarkSmallFiles restores 10,000 files of 4 KiB from memory: what is left
// are the system calls.
func BenchmarkSmallFiles(b *testing.B) {
	var entries []*repo.Entry
	for i := range 100 {
		d := fmt.Sprintf("%03d", i)
		entries = append(entries, dirAt(d))
		for j := range 100 {
			entries = append(entries, fileAt(fmt.Sprintf("%s/%03d", d, j), 4<<10))
		}
	}
	benchmark(b, rooted(entries...), 10_000*4<<10)
}

// BenchmarkLargeFile restores a file of 256 MiB in pieces of 1 MiB.
func BenchmarkLargeFile(b *testing.B) {
	f := rooted(fileAt("f", 256<<20))
	for off := int64(0); off < 256<<20; off += 1 << 20 {
		f.add("f", repo.Slice{Offset: off, Length: 1 << 20})
	}
	benchmark(b, f, 256<<20)
}

func benchmark(b *testing.B, f *fake, size int64) {
	b.Helper()
	a := newArena(b)
	data := make([]byte, 1<<20)
	f.read = fixed(data)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.restore(b.Context(), a.target, &Options{NoSync: true}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		a.clean()
		b.StartTimer()
	}
}

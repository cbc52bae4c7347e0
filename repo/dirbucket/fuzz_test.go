// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"bytes"
	"testing"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

// FuzzTrailer reads the attributes of files that anybody may have planted, with
// a valid checksum if the fuzzer wishes. Content and attributes lie within the
// file, and what is accepted can be written again.
func FuzzTrailer(f *testing.F) {
	for _, meta := range []map[string]string{nil, {"k": "v"}, {"a": "", "b": "\xff\x00"}} {
		for _, content := range []string{"", "content"} {
			trailer, err := dirbucket.Trailer(int64(len(content)), meta, "text/plain")
			if err != nil {
				f.Fatal(err)
			}
			f.Add(append([]byte(content), trailer...), false)
			f.Add(append([]byte(content), trailer...), true)
		}
	}
	f.Add([]byte{}, true)
	f.Add(make([]byte, dirbucket.TrailerResidue), true)
	f.Fuzz(func(t *testing.T, file []byte, valid bool) {
		if valid {
			file = dirbucket.SumTrailer(file)
		}
		size := int64(len(file))
		content, again, err := dirbucket.ReadTrailer(bytes.NewReader(file), size)
		if err != nil || content == size {
			return
		}
		if content < 0 || content > size {
			t.Fatalf("%d bytes of content in a file of %d", content, size)
		}
		file = append(bytes.Clone(file[:content]), again...)
		back, _, err := dirbucket.ReadTrailer(bytes.NewReader(file), int64(len(file)))
		if err != nil || back != content {
			t.Fatalf("%d bytes of content became %d, %v", content, back, err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package dirbucket_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

func TestTrailer(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	// All sizes around the residue, with and without an end that looks like a
	// trailer, with and without attributes.
	for size := dirbucket.TrailerResidue - 3; size < dirbucket.TrailerResidue+4; size++ {
		for _, total := range []int{size, size + dirbucket.TrailerModulus, 3} {
			for _, end := range []string{"", dirbucket.TrailerMagic} {
				for _, contentType := range []string{"", "text/x-test"} {
					data := bytes.Repeat([]byte("d"), max(0, total-len(end)))
					data = append(data, end...)
					opts := &blob.WriterOptions{DisableContentTypeDetection: true, ContentType: contentType}
					write(t, b, "k", data, opts)
					checkObject(t, b, data, contentType)
					if err := b.Copy(t.Context(), "k", "k", nil); err != nil {
						t.Fatal(err)
					}
					checkObject(t, b, data, contentType)
				}
			}
		}
	}
}

func checkObject(t *testing.T, b *blob.Bucket, data []byte, contentType string) {
	t.Helper()
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	got, err := b.ReadAll(t.Context(), "k")
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("content of %d bytes: got %d bytes, %v", len(data), len(got), err)
	}
	attrs, err := b.Attributes(t.Context(), "k")
	if err != nil || attrs.Size != int64(len(data)) || attrs.ContentType != contentType {
		t.Fatalf("attributes of %d bytes: %+v, %v", len(data), attrs, err)
	}
	for o, err := range all(t.Context(), b, nil) {
		if err != nil || o.Size != int64(len(data)) {
			t.Fatalf("list of %d bytes: %+v, %v", len(data), o, err)
		}
	}
}

func TestDamagedTrailer(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	const content = 100
	write(t, b, "k", make([]byte, content), &blob.WriterOptions{ContentType: "text/x-test"})
	name := filepath.Join(dir, "k")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := content; i < len(good)-len(dirbucket.TrailerMagic); i++ {
		bad := slices.Clone(good)
		bad[i] ^= 0x81
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		attrs, err := b.Attributes(t.Context(), "k")
		if err == nil && (attrs.ContentType != "text/x-test" || attrs.Size != content) {
			t.Errorf("byte %d flipped: attributes %+v", i, attrs)
		}
		listed := 0
		for _, err := range all(t.Context(), b, nil) {
			if listed++; err != nil {
				t.Errorf("byte %d flipped: list: %v", i, err)
			}
		}
		if listed != 1 {
			t.Errorf("byte %d flipped: %d objects listed", i, listed)
		}
	}
}

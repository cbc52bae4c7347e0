// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/restore"
)

func ExampleVolume() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// restored 1 files, 6 bytes
	// hello
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	if err := os.MkdirAll(filepath.Join(source, "docs"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(source, "docs", "greeting"), []byte("hello\n"), 0o644); err != nil {
		return err
	}

	bucket := memblob.OpenBucket(nil) // or any other bucket
	defer bucket.Close()
	r, err := repo.Init(ctx, bucket, repo.Passphrase("correct horse").WithKDF(1, 8, 1), nil)
	if err != nil {
		return err
	}
	point, err := r.Write(ctx, repo.WriteOptions{ID: "first"}, func(ctx context.Context, w *repo.Writer) error {
		return w.Put(ctx, "data", source)
	})
	if err != nil {
		return err
	}

	report, err := restore.Volume(ctx, r, point, "data", target, &restore.Options{Path: "docs"})
	if err != nil {
		return err
	}
	fmt.Printf("restored %d files, %d bytes\n", report.Files, report.Bytes)
	greeting, err := os.ReadFile(filepath.Join(target, "greeting"))
	fmt.Print(string(greeting))
	return err
}

// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

func Example() {
	if err := cut(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: as it was at the cut
}

func cut(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	volume, snapshots := filepath.Join(dir, "volume"), filepath.Join(dir, "snapshots")
	if err := errors.Join(os.Mkdir(volume, 0o700), os.Mkdir(snapshots, 0o700)); err != nil {
		return err
	}
	file := filepath.Join(volume, "data")
	if err := os.WriteFile(file, []byte("as it was at the cut"), 0o600); err != nil {
		return err
	}

	drv, err := reflink.New(snapshots, nil)
	if err != nil {
		return err
	}
	p := snapshot.NewProvider(drv, nil)
	volumes := []snapshot.VolumeID{snapshot.VolumeID(volume)}
	if err := p.Check(ctx, volumes); err != nil {
		return err
	}
	// Freeze the application here,
	set, err := p.Take(ctx, snapshot.Request{ID: "app-0001", Volumes: volumes})
	// and thaw it here, whatever err is.
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, set.Release(ctx))
	}()
	if err := os.WriteFile(file, []byte("later"), 0o600); err != nil {
		return err
	}
	if err := set.WaitReady(ctx); err != nil {
		return err
	}
	path, release, err := set.Snapshots()[0].Dir(ctx)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(path, "data"))
	fmt.Println(string(b))
	return errors.Join(err, release(ctx))
}

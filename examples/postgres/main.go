// SPDX-License-Identifier: Apache-2.0

//go:build unix

// Command postgres protects a running PostgreSQL server, destroys it and brings
// it back, on a machine where PostgreSQL 13 or newer is installed.
//
// A server of its own keeps its data on one volume and its write-ahead log on
// another. While pgbench moves money, recovery points are taken: the server is
// in backup mode while both volumes are cloned, file by file, and nobody waits.
// The log of the backup itself goes to a third volume, which is cut after the
// thaw. Then the server is killed and its volumes are deleted; the newest point
// is restored, verified down to each row, and answers queries again.
//
//	go run ./examples/postgres                    # exit status 0: everything was verified
//	go run ./examples/postgres -dir /mnt/xfs      # where clones share their blocks
//
// As root it runs the server as another user, since PostgreSQL refuses root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/postgres"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

type options struct {
	dir, bin string
	points   int
	scale    int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "an existing directory to work in; by default that for temporary files")
	flag.StringVar(&o.bin, "bin", "", "the directory with PostgreSQL's programs; by default the newest that is installed")
	flag.IntVar(&o.points, "points", 5, "how many recovery points to take")
	flag.IntVar(&o.scale, "scale", 5, "the scale of pgbench: hundred thousands of accounts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		stop()
		os.Exit(1)
	}
}

// place is where everything lives.
type place struct {
	base string
	// The volumes: of the data directory, of its log, and of the log that a
	// recovery point needs.
	volumes, data, wal, staging string
	snapshots, repository       string
}

func newPlace(base string) place {
	volumes := filepath.Join(base, "volumes")
	return place{
		base: base, volumes: volumes, data: filepath.Join(volumes, "data"), wal: filepath.Join(volumes, "wal"), staging: filepath.Join(volumes, "staging"),
		snapshots: filepath.Join(base, "snapshots"), repository: filepath.Join(base, "repository"),
	}
}

func run(ctx context.Context, o options) (err error) {
	pg, err := findPrograms(o.bin)
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp(o.dir, "protect-postgres-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	at := newPlace(base)
	for _, dir := range []string{at.data, at.wal, at.staging} {
		if err := pg.mkdir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{base, at.volumes} { // the server's user passes through
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // nothing in it can be listed
			return err
		}
	}
	if err := errors.Join(os.Mkdir(at.snapshots, 0o700), os.Mkdir(at.repository, 0o700)); err != nil {
		return err
	}
	prot, closeRepo, err := open(ctx, at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRepo()) }()
	taken, err := protectServer(ctx, pg, at, prot, o)
	if err != nil {
		return err
	}
	fmt.Println("\nDisaster: the server is killed, and its volumes are deleted.")
	if err := os.RemoveAll(at.volumes); err != nil {
		return err
	}
	return recoverServer(ctx, pg, at, prot, taken)
}

// open makes the repository and returns a Protector for it.
func open(ctx context.Context, at place) (*protect.Protector, func() error, error) {
	bucket, err := dirbucket.OpenBucket(at.repository, nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := repo.Init(ctx, bucket, repo.Passphrase("correct horse battery staple"), nil)
	if err != nil {
		return nil, nil, errors.Join(err, bucket.Close())
	}
	clones, err := reflink.New(at.snapshots, nil)
	if err != nil {
		return nil, nil, errors.Join(err, bucket.Close())
	}
	prot, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(clones, nil), Reuse: repo.ReuseByModTime})
	return prot, bucket.Close, err
}

// takenPoint is a recovery point and what was committed before it was taken.
type takenPoint struct {
	*protect.RecoveryPoint
	transactions int64
}

const columns = "%-8s %-12s %10s %10s %10s %13s\n"

// protectServer takes recovery points of a busy server, and kills it.
func protectServer(ctx context.Context, pg *programs, at place, prot *protect.Protector, o options) (taken []takenPoint, err error) {
	if err := pg.initdb(ctx, at); err != nil {
		return nil, err
	}
	s, err := pg.start(ctx, at.data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.kill()) }()
	if err := s.pgbench(ctx, "-i", "-q", "-s", fmt.Sprint(o.scale)); err != nil {
		return nil, err
	}
	quiescer, err := postgres.NewBackup(s.db, postgres.Staging(at.staging), &postgres.Options{Volumes: []string{at.data, at.wal}})
	if err != nil {
		return nil, err
	}
	app := protect.Application{
		Name: "bank",
		Volumes: []protect.Volume{
			{Name: "data", ID: snapshot.VolumeID(at.data)},
			{Name: "wal", ID: snapshot.VolumeID(at.wal)},
			{Name: "backup-wal", ID: snapshot.VolumeID(at.staging), AfterThaw: true},
		},
		Members: []protect.Member{{Name: "postgres", Quiescer: quiescer}},
		Window:  hooks.MaxWindow, // nobody is blocked, and a file system without clones copies
		Require: protect.ApplicationConsistent,
	}
	rehearsal, err := prot.Rehearse(ctx, app)
	if err != nil {
		return nil, err
	}
	fmt.Printf("PostgreSQL %s with %d accounts. A rehearsal took %s, and proved that it is %s.\n\n",
		s.version, o.scale*100_000, milliseconds(rehearsal.Freeze.Frozen), rehearsal.Level)
	load := s.startLoad(ctx)
	defer func() { err = errors.Join(err, load()) }()
	fmt.Printf(columns, "POINT", "LEVEL", "WINDOW", "SIZE", "STORED", "TRANSACTIONS")
	for i := range o.points {
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
		n, err := s.transactions(ctx)
		if err != nil {
			return nil, err
		}
		rp, err := prot.Run(ctx, app, fmt.Sprintf("bank-%d", i+1))
		if err != nil {
			return nil, err
		}
		taken = append(taken, takenPoint{rp, n})
		fmt.Printf(columns, rp.ID, rp.Level, milliseconds(rp.Frozen), humanize.IBytes(uint64(rp.Stats.Bytes)), humanize.IBytes(uint64(rp.Stats.Stored)), humanize.Comma(n))
	}
	return taken, nil
}

// recoverServer brings the newest point back to life, and shows that the oldest
// one is as good.
func recoverServer(ctx context.Context, pg *programs, at place, prot *protect.Protector, taken []takenPoint) (err error) {
	begin := time.Now()
	newest, oldest := taken[len(taken)-1], taken[0]
	dir, err := bringBack(ctx, pg, at, prot, newest)
	if err != nil {
		return err
	}
	s, err := pg.start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.kill()) }()
	n, err := s.transactions(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("  It answers, with %s transactions. RTO, from the decision to this answer: %s.\n", humanize.Comma(n), milliseconds(time.Since(begin)))
	if oldest == newest {
		return nil
	}
	_, err = bringBack(ctx, pg, at, prot, oldest)
	return err
}

// bringBack restores and verifies a point, and returns its data directory.
func bringBack(ctx context.Context, pg *programs, at place, prot *protect.Protector, p takenPoint) (string, error) {
	target := filepath.Join(at.base, p.ID)
	begin := time.Now()
	rep, err := prot.Restore(ctx, p.ID, target, nil)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(target, 0o711); err != nil { //nolint:gosec // nothing in it can be listed
		return "", err
	}
	fmt.Printf("\n%s: %s in %d files restored in %s.\n", p.ID, humanize.IBytes(uint64(rep.Bytes)), rep.Files, milliseconds(time.Since(begin)))
	dir := filepath.Join(target, "data")
	info, err := postgres.PrepareRestore(ctx, dir, p.Point.Evidence["postgres"], &postgres.RestoreOptions{
		WAL: os.DirFS(filepath.Join(target, "backup-wal")), WALVolume: filepath.Join(target, "wal"), Owner: pg.owner,
	})
	if err != nil {
		return "", err
	}
	v, err := postgres.Verify(ctx, pg.bin, dir, &postgres.VerifyOptions{Info: info, Check: func(ctx context.Context, i postgres.Instance) error {
		return audit(ctx, i, p.transactions)
	}})
	if err != nil {
		return "", fmt.Errorf("restored point %s: %w", p.ID, err)
	}
	fmt.Printf("  Recovered to %s in %s; %d tables, %d indexes and %d blocks are good: %s in all.\n",
		v.Recovered, milliseconds(v.Recovery), v.Tables, v.Indexes, v.ChecksummedBlocks, milliseconds(v.Took))
	fmt.Printf("  All balances agree, and none of %s transactions from before the point is missing.\n", humanize.Comma(p.transactions))
	return dir, nil
}

func milliseconds(d time.Duration) string {
	return humanize.Comma(d.Milliseconds()) + " ms"
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

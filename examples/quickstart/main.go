// SPDX-License-Identifier: Apache-2.0

// Command quickstart protects a live application, destroys it and brings it back, in
// one process, without privileges and without a network.
//
// A bank with many clients keeps its balances in a SQLite database on one
// volume and its receipts in a ledger on another. While money moves, five
// recovery points are taken of both volumes as one consistency group. Then
// both volumes are deleted, and two points are restored and audited.
//
//	go run ./examples/quickstart          # exit status 0: everything was verified
//	go run ./examples/quickstart -naive   # how copies without a freeze break; 0: some did
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

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks/sqlite"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/dirbucket"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

const (
	clients = 8
	points  = 5
	copies  = 20 // of -naive
)

func main() {
	naive := flag.Bool("naive", false, "copy the files without quiescing the bank, and count the copies that are broken")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *naive); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		stop()
		os.Exit(1)
	}
}

// paths are where the bank and its protection live.
type paths struct {
	base, db, ledger, snapshots, repository string
}

func run(ctx context.Context, naive bool) (err error) {
	base, err := os.MkdirTemp("", "protect-quickstart-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	p := paths{
		base: base, db: filepath.Join(base, "volumes/db"), ledger: filepath.Join(base, "volumes/ledger"),
		snapshots: filepath.Join(base, "snapshots"), repository: filepath.Join(base, "repository"),
	}
	for _, dir := range []string{p.db, p.ledger, p.snapshots, p.repository} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	b, err := openBank(ctx, p.db, p.ledger)
	if err != nil {
		return err
	}
	fmt.Printf("A bank of %d accounts, %d clients, two volumes: a SQLite database and a ledger.\n\n", accounts, clients)
	b.Start(ctx, clients)
	if naive {
		return errors.Join(naiveCopies(ctx, p), b.Stop(), b.Close())
	}
	taken, err := protectBank(ctx, p, b)
	if err := errors.Join(err, b.Stop(), b.Close()); err != nil {
		return err
	}
	fmt.Println("\nDisaster: both volumes are deleted.")
	if err := os.RemoveAll(filepath.Join(base, "volumes")); err != nil {
		return err
	}
	return recoverBank(ctx, p, taken)
}

// open opens the repository and returns a Protector for it.
func open(ctx context.Context, p paths, create bool, events *protect.Events) (*protect.Protector, func() error, error) {
	bucket, err := dirbucket.OpenBucket(p.repository, nil)
	if err != nil {
		return nil, nil, err
	}
	key := repo.Passphrase("correct horse battery staple")
	var r *repo.Repository
	if create {
		r, err = repo.Init(ctx, bucket, key, nil)
	} else {
		r, err = repo.Open(ctx, bucket, key, nil)
	}
	if err != nil {
		return nil, nil, errors.Join(err, bucket.Close())
	}
	clones, err := reflink.New(p.snapshots, nil)
	if err != nil {
		return nil, nil, errors.Join(err, bucket.Close())
	}
	prot, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(clones, nil), Events: events})
	return prot, bucket.Close, err
}

// takenPoint is a recovery point and what the clients knew when it was taken.
type takenPoint struct {
	id    string
	acked int64 // highest transfer that had been acknowledged before
}

// protectBank takes the recovery points while the bank is busy.
func protectBank(ctx context.Context, p paths, b *bank) (taken []takenPoint, err error) {
	bar := newBar("points", points)
	prot, closeRepo, err := open(ctx, p, true, bar.events())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeRepo()) }()
	hold, err := sqlite.New(b.db, nil)
	if err != nil {
		return nil, err
	}
	app := protect.Application{
		Name: "bank",
		Volumes: []protect.Volume{
			{Name: "db", ID: snapshot.VolumeID(p.db)},
			{Name: "ledger", ID: snapshot.VolumeID(p.ledger)},
		},
		// Clients write receipts under the database's write lock: holding it
		// holds both volumes.
		Members: []protect.Member{{Name: "sqlite", Quiescer: hold}},
		Require: protect.ApplicationConsistent,
	}
	fmt.Printf(columns, "POINT", "LEVEL", "FROZEN", "SIZE", "CHANGED", "STORED", "DEDUP", "TRANSFERS")
	for i := range points {
		if err := pause(ctx, 300*time.Millisecond); err != nil { // let money move
			return nil, err
		}
		t := takenPoint{id: fmt.Sprintf("bank-%d", i+1), acked: b.Acked()}
		rp, err := prot.Run(ctx, app, t.id)
		if err != nil {
			return nil, err
		}
		taken = append(taken, t)
		s := rp.Stats
		bar.row(rp.ID, rp.Level, fmt.Sprintf("%.1f ms", rp.Frozen.Seconds()*1e3),
			size(s.Bytes), size(s.New), size(s.Stored), fmt.Sprintf("%.1fx", float64(s.Bytes)/float64(max(s.Stored, 1))), b.Acked())
	}
	bar.done()
	return taken, nil
}

// recoverBank restores the newest and the oldest point and audits them.
func recoverBank(ctx context.Context, p paths, taken []takenPoint) (err error) {
	prot, closeRepo, err := open(ctx, p, false, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRepo()) }()
	for _, t := range []takenPoint{taken[len(taken)-1], taken[0]} {
		target := filepath.Join(p.base, "restored", t.id)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		begin := time.Now()
		rep, err := prot.Restore(ctx, t.id, target, nil)
		if err != nil {
			return err
		}
		a, err := auditCopy(ctx, filepath.Join(target, "db"), filepath.Join(target, "ledger"))
		rto := time.Since(begin)
		if err != nil {
			return fmt.Errorf("restored point %s: %w", t.id, err)
		}
		if a.Last < t.acked {
			return fmt.Errorf("restored point %s: %w: transfer %d was acknowledged before it was taken, and the last one is %d", t.id, errBroken, t.acked, a.Last)
		}
		fmt.Printf("\nRestored %s (%s in %d files).\n", t.id, size(rep.Bytes), rep.Files)
		fmt.Printf("  integrity_check ok, balances add up to %d, %d transfers match %d receipts,\n", accounts*opening, a.Transfers, a.Receipts)
		fmt.Printf("  none of the %d acknowledged before the point is missing.\n", t.acked)
		fmt.Printf("  RTO, from the decision to the audited bank: %d ms\n", rto.Milliseconds())
	}
	return nil
}

// naiveCopies shows what copying files of a live application is worth.
func naiveCopies(ctx context.Context, p paths) error {
	broken := 0
	for i := range copies {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		to := filepath.Join(p.base, "copy", fmt.Sprint(i))
		db, ledger := filepath.Join(to, "db"), filepath.Join(to, "ledger")
		if err := copyTrees([]string{p.db, p.ledger}, []string{db, ledger}); err != nil {
			return err
		}
		switch _, err := auditCopy(ctx, db, ledger); {
		case errors.Is(err, errBroken):
			broken++
			fmt.Printf("copy %2d: %v\n", i+1, err)
		case err != nil:
			return err
		default:
			fmt.Printf("copy %2d: fine, by luck\n", i+1)
		}
	}
	fmt.Printf("\nviolations: %d of %d copies break the invariant\n", broken, copies)
	if broken == 0 {
		return errors.New("no copy was broken this time, so nothing was shown; try again")
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

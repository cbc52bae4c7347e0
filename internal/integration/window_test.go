// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/hooks/hookstest"
	"github.com/stillpoint-go/protect/hooks/mariadb"
	"github.com/stillpoint-go/protect/hooks/postgres"
	"github.com/stillpoint-go/protect/hooks/redis"
	"github.com/stillpoint-go/protect/hooks/watchdog"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/btrfs"
)

var windowSVG = flag.String("window.svg", "", "file for the picture of the freeze windows")

// TestMain makes the test binary the watchdog of file systems.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == watchdog.Arg {
		os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// site is a btrfs subvolume with what is to be frozen, and how to cut it.
type site struct {
	b    *testing.B
	dir  string
	cuts *snapshot.Provider
	n    int
	set  *snapshot.Set // the last one
}

func newSite(b *testing.B) *site {
	b.Helper()
	base := serverDir(b)
	mount := mountImage(b, "btrfs", filepath.Join(base, "image"), filepath.Join(base, "mount"), 16<<30) // what is released is freed late
	s := &site{b: b, dir: filepath.Join(mount, "site")}
	system(b, "btrfs", "subvolume", "create", s.dir)
	own(b, s.dir)
	drv, err := btrfs.New(own(b, filepath.Join(mount, "snapshots")), nil)
	if err != nil {
		b.Fatal(err)
	}
	s.cuts = snapshot.NewProvider(drv, nil)
	return s
}

// cut cuts the site.
func (s *site) cut(ctx context.Context) error {
	s.n++
	var err error
	s.set, err = s.cuts.Take(ctx, snapshot.Request{ID: fmt.Sprint("window-", s.n), Volumes: []snapshot.VolumeID{snapshot.VolumeID(s.dir)}})
	return err
}

// clear makes room for the next cut.
func (s *site) clear() {
	if err := s.set.Release(s.b.Context()); err != nil {
		s.b.Fatal(err)
	}
}

func (s *site) sqlite() hooks.Member {
	return hooks.Member{Name: "sqlite", Quiescer: newSQLite(s.b, openSQLite(s.b, filepath.Join(s.dir, "db"), "wal", time.Second))}
}

// filesystem mounts a file system whose image lies in the site.
func (s *site) filesystem(kind string) hooks.Member {
	self, err := os.Executable()
	if err != nil {
		s.b.Fatal(err)
	}
	mount := mountImage(s.b, kind, filepath.Join(s.dir, kind), filepath.Join(serverDir(s.b), "mount"), imageSize)
	q, err := fsfreeze.New(mount, &fsfreeze.Options{Helper: []string{self}})
	if err != nil {
		s.b.Fatal(err)
	}
	return hooks.Member{Name: kind, Quiescer: q}
}

// postgres starts a server in the site.
func (s *site) postgres(backup bool) hooks.Member {
	data := filepath.Join(s.dir, "data")
	initPG(s.b, data, "")
	db := startPG(s.b, data).db
	q, err := postgres.NewAtomic(db, &postgres.Options{Volumes: []string{s.dir}})
	if backup {
		q, err = postgres.NewBackup(db, postgres.Staging(own(s.b, filepath.Join(serverDir(s.b), "wal"))), nil)
	}
	if err != nil {
		s.b.Fatal(err)
	}
	return hooks.Member{Name: "postgres", Quiescer: q}
}

// redis starts a server in the site.
func (s *site) redis() hooks.Member {
	q, err := redis.NewPaused(redisConn(startRedis(s.b, own(s.b, filepath.Join(s.dir, "redis")), "--appendonly", "yes").client), nil)
	if err != nil {
		s.b.Fatal(err)
	}
	return hooks.Member{Name: "redis", Quiescer: q}
}

// mariadb starts a server in the site.
func (s *site) mariadb(still bool) hooks.Member {
	data := own(s.b, filepath.Join(s.dir, "mariadb"))
	initMDB(s.b, data)
	db := startMDB(s.b, data).db
	q, err := mariadb.NewBackup(db, nil)
	if still {
		q, err = mariadb.NewStill(db, nil)
	}
	if err != nil {
		s.b.Fatal(err)
	}
	return hooks.Member{Name: "mariadb", Quiescer: q}
}

// scripted are members that freeze in no time.
func scripted(n int) []hooks.Member {
	var members []hooks.Member
	for i := range n {
		members = append(members, hooks.Member{Name: fmt.Sprint("member-", i), Quiescer: hookstest.Scripted(&hookstest.Target{}, nil)})
	}
	return members
}

// bareWindow freezes, cuts, asks for the proof and thaws, and nothing else. It
// returns how long something was frozen.
func bareWindow(ctx context.Context, b *testing.B, members []hooks.Member, cut func(context.Context) error) time.Duration {
	b.Helper()
	began := time.Now()
	var holds []hooks.Hold
	for _, m := range members {
		h, err := m.Quiescer.Quiesce(ctx, hooks.FreezeRequest{Epoch: hooks.Epoch(began.UnixNano()), Window: hooks.DefaultWindow})
		if err != nil {
			b.Fatal(err)
		}
		holds = append(holds, h)
	}
	if err := cut(ctx); err != nil {
		b.Error(err)
	}
	for _, h := range holds {
		if err := h.Held(ctx); err != nil {
			b.Error(err)
		}
	}
	for _, h := range slices.Backward(holds) {
		if _, err := h.Thaw(ctx); err != nil {
			b.Error(err)
		}
	}
	return time.Since(began)
}

// BenchmarkWindow measures for how long targets are frozen, by a Group with a
// journal on disk, and beside it by the same calls without one:
//
//	go test ./internal/integration -run '^$' -bench Window -benchtime 200x -timeout 1h -window.svg $PWD/docs/freeze-window.svg
//
// The cut is a btrfs snapshot, or nothing for members that are scripted. Nothing
// else is done with the servers. The overhead is the median of the differences
// between neighbours. It needs root.
func BenchmarkWindow(b *testing.B) {
	noCut, nothing := func(context.Context) error { return nil }, func() {}
	for _, n := range []int{1, 4, 16} {
		b.Run(fmt.Sprint("scripted-", n), func(b *testing.B) { benchWindow(b, scripted(n), scripted(n), noCut, nothing) }) // they insist on epochs
	}
	cases := []struct {
		name    string
		members func(*site) []hooks.Member
	}{
		{"no-member", func(*site) []hooks.Member { return nil }},
		{"sqlite", func(s *site) []hooks.Member { return []hooks.Member{s.sqlite()} }},
		{"xfs", func(s *site) []hooks.Member { return []hooks.Member{s.filesystem("xfs")} }},
		{"ext4", func(s *site) []hooks.Member { return []hooks.Member{s.filesystem("ext4")} }},
		{"postgres-atomic", func(s *site) []hooks.Member { return []hooks.Member{s.postgres(false)} }},
		{"postgres-backup", func(s *site) []hooks.Member { return []hooks.Member{s.postgres(true)} }},
		{"mariadb-backup", func(s *site) []hooks.Member { return []hooks.Member{s.mariadb(false)} }},
		{"mariadb-still", func(s *site) []hooks.Member { return []hooks.Member{s.mariadb(true)} }},
		{"redis-paused", func(s *site) []hooks.Member { return []hooks.Member{s.redis()} }},
		{"postgres+redis+sqlite+xfs", func(s *site) []hooks.Member {
			return []hooks.Member{s.postgres(false), s.redis(), s.sqlite(), s.filesystem("xfs")}
		}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			s := newSite(b)
			members := c.members(s)
			benchWindow(b, members, members, s.cut, s.clear)
		})
	}
	if *windowSVG != "" {
		if err := os.WriteFile(*windowSVG, drawWindows(measured), 0o644); err != nil { //nolint:gosec // for everybody
			b.Fatal(err)
		}
	}
}

// windows are what one case came to, sorted.
type windows struct {
	name       string
	bare, ours []time.Duration
}

var measured []windows // of all cases, for the picture

// benchWindow measures members in turns: those that a Group freezes, and those
// that are frozen without one.
func benchWindow(b *testing.B, members, alone []hooks.Member, cut func(context.Context) error, after func()) {
	b.Helper()
	journal, err := hooks.OpenDirJournal(filepath.Join(b.TempDir(), "journal"))
	if err != nil {
		b.Fatal(err)
	}
	g, err := hooks.NewGroup("bench", members, &hooks.GroupOptions{Journal: journal})
	if err != nil {
		b.Fatal(err)
	}
	var w windows
	ours := func() {
		report, err := g.Do(b.Context(), "bench", cut)
		if err != nil || len(members) > 0 && !report.Proven() {
			b.Fatal(err, report)
		}
		w.ours = append(w.ours, max(report.Frozen, report.Cut)) // without members, the cut is all
	}
	bare := func() { w.bare = append(w.bare, bareWindow(b.Context(), b, alone, cut)) }
	for i := 0; b.Loop(); i++ {
		turns := []func(){bare, ours}
		if i%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := g.Prepare(b.Context()); err != nil {
				b.Fatal(err)
			}
			turn()
			after()
		}
	}
	var more []time.Duration // of each pair
	for i := range w.ours {
		more = append(more, w.ours[i]-w.bare[i])
	}
	slices.Sort(more)
	slices.Sort(w.bare)
	slices.Sort(w.ours)
	w.name = b.Name()
	for _, m := range []struct {
		d    time.Duration
		unit string
	}{
		{quantile(w.bare, 50), "bare-p50-ms"},
		{quantile(w.bare, 99), "bare-p99-ms"},
		{quantile(w.ours, 50), "window-p50-ms"},
		{quantile(w.ours, 99), "window-p99-ms"},
		{quantile(more, 50), "overhead-p50-ms"},
	} {
		b.ReportMetric(m.d.Seconds()*1e3, m.unit)
	}
	b.ReportMetric(0, "ns/op") // it says nothing
	if n := len(measured); n > 0 && measured[n-1].name == w.name {
		measured = measured[:n-1] // the trial before
	}
	measured = append(measured, w)
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

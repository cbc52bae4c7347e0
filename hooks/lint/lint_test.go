// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
	"github.com/stillpoint-go/protect/hooks/lint"
)

// quiescer is one that says what it is.
type quiescer struct {
	traits hooks.Traits
	d      hooks.Description
}

func (q quiescer) Traits() hooks.Traits { return q.traits }

func (q quiescer) Describe() hooks.Description { return q.d }

func (q quiescer) Quiesce(context.Context, hooks.FreezeRequest) (hooks.Hold, error) { return nil, nil }

func (q quiescer) Recover(context.Context, hooks.Epoch) error { return nil }

// mute is one that does not.
type mute struct{ hooks.Quiescer }

func database() quiescer {
	return quiescer{traits: hooks.Traits{Release: hooks.Session, Scope: hooks.Application}}
}

func atomicDatabase() quiescer {
	return quiescer{traits: hooks.Traits{Release: hooks.Session, Scope: hooks.Application, AtomicCut: true}}
}

func filesystem(path string) quiescer {
	return quiescer{d: hooks.Description{Filesystem: path, Helper: []string{"/sys/helper"}}}
}

func held(argv ...string) quiescer {
	return quiescer{traits: hooks.Traits{Release: hooks.Session}, d: hooks.Description{Held: argv}}
}

func pair(freeze, thaw string) quiescer {
	return quiescer{d: hooks.Description{Freeze: strings.Fields(freeze), Thaw: strings.Fields(thaw), Helper: []string{"/sys/helper"}}}
}

func member(name string, q hooks.Quiescer, dependsOn ...string) lint.Member {
	return lint.Member{Member: hooks.Member{Name: name, Quiescer: q, DependsOn: dependsOn}}
}

func rules(found []lint.Finding) []lint.Rule {
	var out []lint.Rule
	for _, f := range found {
		out = append(out, f.Rule)
	}
	return slices.Compact(out)
}

// TestCommand has a program that is wrong for each rule, and its like that is
// right.
func TestCommand(t *testing.T) {
	script := func(lines ...string) string {
		name := filepath.Join(t.TempDir(), "hook")
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+strings.Join(lines, "\n")+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return name
	}
	tests := map[string]struct {
		q    quiescer
		want []lint.Rule
	}{
		"mysql":                   {pair("/bin/mysql -e FLUSH TABLES WITH READ LOCK", "/bin/mysql -e UNLOCK TABLES"), []lint.Rule{lint.OneShotLock}},
		"mysql, in lower case":    {pair("/bin/mysql -e flush  tables with  read lock;", "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"lock tables":             {pair("/bin/mysql -e LOCK TABLES a READ", "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"lock instance":           {pair("/bin/mysql -e LOCK INSTANCE FOR BACKUP", "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"backup stage":            {pair("/bin/mariadb -e BACKUP STAGE START", "/bin/mariadb -e BACKUP STAGE END"), []lint.Rule{lint.OneShotLock}},
		"postgres":                {pair("/bin/psql -c SELECT pg_backup_start('x')", "/bin/psql -c SELECT pg_backup_stop()"), []lint.Rule{lint.OneShotLock}},
		"old postgres":            {pair("/bin/psql -c SELECT pg_start_backup('x', true, false)", "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"sqlite":                  {pair("/bin/sqlite3 a.db BEGIN IMMEDIATE", "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"in a script":             {pair(script("mysql -e 'FLUSH TABLES WITH READ LOCK'"), "/bin/true"), []lint.Rule{lint.OneShotLock}},
		"in a comment":            {pair(script("# FLUSH TABLES WITH READ LOCK would not hold"), "/bin/true"), nil},
		"a flush without a lock":  {pair("/bin/mysql -e FLUSH LOGS", "/bin/true"), nil},
		"an unlock":               {pair("/bin/true", "/bin/mysql -e UNLOCK TABLES"), nil},
		"a session that sleeps":   {pair(script("mysql -e 'FLUSH TABLES WITH READ LOCK; DO SLEEP(60)' &"), "/bin/true"), nil},
		"held, one shot":          {held(script("mysql -e 'FLUSH TABLES WITH READ LOCK'", "echo READY", "cat")), []lint.Rule{lint.OneShotLock}},
		"held, a pipe":            {held(script("echo FLUSH TABLES WITH READ LOCK | mysql", "echo READY", "cat")), []lint.Rule{lint.OneShotLock}},
		"held, in the session":    {held(script("(echo 'FLUSH TABLES WITH READ LOCK;'", "echo 'SELECT \"READY\";'", "cat >/dev/null) >fifo")), nil},
		"fsfreeze":                {pair("/sbin/fsfreeze -f /nowhere", "/sbin/fsfreeze -u /nowhere"), nil},
		"fsfreeze, unpaired":      {pair("/sbin/fsfreeze -f /nowhere", "/bin/true"), []lint.Rule{lint.UnpairedFreeze}},
		"fsfreeze, long, held":    {held(script("fsfreeze --freeze /nowhere", "echo READY", "cat")), []lint.Rule{lint.UnpairedFreeze}},
		"fsfreeze, held, thawed":  {held(script("fsfreeze --freeze /nowhere", "echo READY", "cat", "fsfreeze --unfreeze /nowhere")), nil},
		"xfs_freeze":              {pair("/sbin/xfs_freeze -f /nowhere", "/sbin/xfs_freeze -u /nowhere"), nil},
		"xfs_freeze, unpaired":    {pair("/sbin/xfs_freeze -f /nowhere", "/bin/true"), []lint.Rule{lint.UnpairedFreeze}},
		"dmsetup":                 {pair("/sbin/dmsetup suspend a", "/sbin/dmsetup resume a"), nil},
		"dmsetup, unpaired":       {pair("/sbin/dmsetup suspend a", "/bin/true"), []lint.Rule{lint.UnpairedFreeze}},
		"mongodb":                 {pair("/bin/mongosh --eval db.fsyncLock()", "/bin/mongosh --eval db.fsyncUnlock()"), nil},
		"mongodb, unpaired":       {pair("/bin/mongosh --eval db.fsyncLock()", "/bin/true"), []lint.Rule{lint.UnpairedFreeze}},
		"mongodb, as a command":   {pair("/bin/mongosh --eval db.adminCommand({fsync:1,lock:true})", "/bin/true"), []lint.Rule{lint.UnpairedFreeze}},
		"shell string":            {held("/bin/sh", "-c", "echo READY; cat"), []lint.Rule{lint.ShellString}},
		"shell string with flags": {held("/bin/bash", "-euc", "echo READY; cat"), []lint.Rule{lint.ShellString}},
		"shell string as thaw":    {pair("/bin/true", "/bin/sh -c true"), []lint.Rule{lint.ShellString}},
		"shell script":            {held("/bin/sh", script("echo READY", "cat")), nil},
		"no shell":                {held("/bin/mongosh", "-c", "x"), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, rules(lint.Command(tt.q.d))); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			found := lint.Check(&lint.Application{Members: []lint.Member{member("m", tt.q)}})
			if diff := cmp.Diff(tt.want, rules(found)); diff != "" {
				t.Errorf("rules of an application (-want +got):\n%s", diff)
			}
			for _, f := range found {
				if f.Member != "m" || f.What == "" || f.Fix == "" || !strings.Contains(f.String(), string(f.Rule)) {
					t.Errorf("finding %+v", f)
				}
			}
		})
	}
}

// TestCheck has an application that is wrong for each rule, and its like that is
// right. /proc is another file system than the one of temporary files.
func TestCheck(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("file systems are told apart on Linux only")
	}
	dir := t.TempDir()
	elsewhere := "/proc"
	data := []lint.Volume{{Name: "data", Path: dir}}
	two := []lint.Volume{{Name: "data", Path: dir}, {Name: "wal", Path: dir}}
	whole := lint.Cut{PointInTime: true, Groups: true}
	helperHere := filesystem(elsewhere)
	helperHere.d.Helper = []string{filepath.Join(dir, "helper")}
	freezesItself := filesystem(dir)
	freezesItself.d.Helper = []string{filepath.Join(dir, "helper"), "arg"}
	thawHere := pair("/proc/freeze", filepath.Join(dir, "thaw"))
	script := quiescer{d: hooks.Description{Freeze: []string{"/sbin/fsfreeze", "-f", dir}, Thaw: []string{"/proc/fsfreeze", "-u", dir}, Helper: []string{"/sys/helper"}}}
	partly := member("db", database())
	partly.Volumes = []string{"data"}
	tests := map[string]struct {
		app  lint.Application
		want []lint.Rule
	}{
		"nothing":                       {lint.Application{}, nil},
		"one database":                  {lint.Application{Members: []lint.Member{member("db", database())}, Volumes: data}, nil},
		"helper beside":                 {lint.Application{Members: []lint.Member{member("fs", helperHere)}}, nil},
		"helper on it":                  {lint.Application{Members: []lint.Member{member("fs", freezesItself)}}, []lint.Rule{lint.FrozenHelper}},
		"thaw of another on it":         {lint.Application{Members: []lint.Member{member("p", thawHere), member("fs", filesystem(dir))}}, []lint.Rule{lint.FrozenHelper}},
		"journal beside":                {lint.Application{Members: []lint.Member{member("fs", filesystem(dir))}, Journal: elsewhere}, nil},
		"journal on it":                 {lint.Application{Members: []lint.Member{member("fs", filesystem(dir))}, Journal: filepath.Join(dir, "new", "journal")}, []lint.Rule{lint.FrozenJournal}},
		"journal on it, by a script":    {lint.Application{Members: []lint.Member{member("fs", script)}, Journal: dir}, []lint.Rule{lint.FrozenJournal}},
		"database first":                {lint.Application{Members: []lint.Member{member("db", database()), member("fs", filesystem(dir))}, Volumes: data}, nil},
		"file system first":             {lint.Application{Members: []lint.Member{member("fs", filesystem(dir)), member("db", database())}, Volumes: data}, []lint.Rule{lint.BrokenOrder}},
		"another file system first":     {lint.Application{Members: []lint.Member{member("fs", filesystem(elsewhere)), member("db", database())}, Volumes: data}, nil},
		"depends":                       {lint.Application{Members: []lint.Member{member("fs", filesystem(dir)), member("db", database(), "fs")}, Volumes: data}, nil},
		"depends by another":            {lint.Application{Members: []lint.Member{member("fs", filesystem(dir)), member("x", held("/proc/x"), "fs"), member("db", database(), "x")}, Volumes: data}, nil},
		"at the same time":              {lint.Application{Members: []lint.Member{member("db", database()), member("fs", filesystem(dir)), member("y", held("/proc/y"), "fs", "db")}, Volumes: data}, []lint.Rule{lint.BrokenOrder}},
		"cut from below":                {lint.Application{Members: []lint.Member{member("fs", filesystem(dir))}, Volumes: data, Cut: lint.Cut{PointInTime: true}}, nil},
		"cut inside":                    {lint.Application{Members: []lint.Member{member("fs", filesystem(dir))}, Volumes: data, Cut: lint.Cut{Inside: true}}, []lint.Rule{lint.DeadSnapshot}},
		"cut inside, of another":        {lint.Application{Members: []lint.Member{member("fs", filesystem(elsewhere))}, Volumes: data, Cut: lint.Cut{Inside: true}}, nil},
		"cut inside, after the thaw":    {lint.Application{Members: []lint.Member{member("fs", filesystem(dir))}, Volumes: []lint.Volume{{Name: "data", Path: dir, AfterThaw: true}}, Cut: lint.Cut{Inside: true}}, nil},
		"atomic, one volume":            {lint.Application{Members: []lint.Member{member("db", atomicDatabase())}, Volumes: data, Cut: lint.Cut{PointInTime: true}}, nil},
		"atomic, a group":               {lint.Application{Members: []lint.Member{member("db", atomicDatabase())}, Volumes: two, Cut: whole}, nil},
		"atomic, one after another":     {lint.Application{Members: []lint.Member{member("db", atomicDatabase())}, Volumes: two, Cut: lint.Cut{PointInTime: true}}, []lint.Rule{lint.TornCut}},
		"atomic, copies":                {lint.Application{Members: []lint.Member{member("db", atomicDatabase())}, Volumes: data}, []lint.Rule{lint.TornCut}},
		"not atomic, one after another": {lint.Application{Members: []lint.Member{member("db", database())}, Volumes: two}, nil},
		"covered in part":               {lint.Application{Members: []lint.Member{partly}, Volumes: two}, []lint.Rule{lint.UncoveredData}},
		"uncovered, after the thaw":     {lint.Application{Members: []lint.Member{partly}, Volumes: []lint.Volume{data[0], {Name: "wal", AfterThaw: true}}}, nil},
		"long window":                   {lint.Application{Members: []lint.Member{member("db", database())}, Window: 40 * time.Second}, []lint.Rule{lint.LongWindow}},
		"long window, more patience":    {lint.Application{Members: []lint.Member{member("db", database())}, Window: 40 * time.Second, Patience: time.Minute}, nil},
		"long window, nothing frozen":   {lint.Application{Members: []lint.Member{member("db", atomicDatabase())}, Window: 40 * time.Second}, nil},
		"little patience":               {lint.Application{Members: []lint.Member{member("db", database())}, Patience: time.Second}, []lint.Rule{lint.LongWindow}},
		"no watchdog":                   {lint.Application{Members: []lint.Member{member("db", quiescer{})}}, []lint.Rule{lint.UnwatchedHold}},
		"no description":                {lint.Application{Members: []lint.Member{member("db", mute{quiescer{}})}}, []lint.Rule{lint.UnwatchedHold}},
		"no description, a session":     {lint.Application{Members: []lint.Member{member("db", mute{database()})}}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			found := lint.Check(&tt.app)
			if diff := cmp.Diff(tt.want, rules(found)); diff != "" {
				t.Errorf("rules (-want +got):\n%s\n%v", diff, found)
			}
		})
	}
}

// TestOrder mixes everything up: errors come first, and the order is always the
// same.
func TestOrder(t *testing.T) {
	app := &lint.Application{
		Members: []lint.Member{
			member("b", held("/bin/sh", "-c", "fsfreeze -f /nowhere; echo READY; cat")),
			member("a", pair("/bin/mysql -e BACKUP STAGE START", "/bin/sh -c true")),
		},
		Window: time.Minute,
	}
	want := []string{"error one-shot-lock a", "error unpaired-freeze b", "warning long-window ", "warning shell-string a", "warning shell-string b"}
	for range 3 {
		var got []string
		for _, f := range lint.Check(app) {
			got = append(got, fmt.Sprintf("%s %s %s", f.Severity, f.Rule, f.Member))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		slices.Reverse(app.Members)
	}
}

// TestRealMembers describes the real ones.
func TestRealMembers(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	q, err := command.New([]string{exe, "mysql -e LOCK TABLES a READ"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := command.NewPair([]string{exe, "fsyncLock"}, []string{exe, "x"}, &command.Options{Helper: []string{exe}, Lock: filepath.Join(t.TempDir(), "lock")})
	if err != nil {
		t.Fatal(err)
	}
	found := lint.Check(&lint.Application{Members: []lint.Member{member("held", q), member("pair", p)}})
	if diff := cmp.Diff([]lint.Rule{lint.OneShotLock, lint.UnpairedFreeze}, rules(found)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	d := p.Describe()
	d.Helper[0], d.Freeze[0], d.Thaw[0] = "", "", ""
	if again := p.Describe(); again.Helper[0] != exe || again.Freeze[0] != exe || again.Thaw[0] != exe {
		t.Errorf("the description is not a copy: %+v", again)
	}
}

// TestFindingJSON stores a finding and reads it again.
func TestFindingJSON(t *testing.T) {
	for _, s := range []lint.Severity{lint.Error, lint.Warning} {
		want := lint.Finding{Rule: lint.LongWindow, Severity: s, Member: "m", Volume: "v", What: "w", Fix: "f"}
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got lint.Finding
		if err := json.Unmarshal(b, &got); err != nil || got != want {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
	var s lint.Severity
	if err := s.UnmarshalText([]byte("fatal")); err == nil {
		t.Error("an unknown severity is read")
	}
}

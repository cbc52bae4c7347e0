// SPDX-License-Identifier: Apache-2.0

//go:build unix

package etcd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/etcd"
)

// tool is a stand-in for etcdutl that keeps its arguments, and then does what
// rest says.
func tool(t *testing.T, rest string) (program, args string) {
	t.Helper()
	dir := t.TempDir()
	program, args = filepath.Join(dir, "etcdutl"), filepath.Join(dir, "args")
	text := "#!/bin/sh\nprintf '%s\\n' \"$@\" >" + args + "\n" +
		"for a; do case \"$a\" in --data-dir=*) d=${a#*=};; --wal-dir=*) w=${a#*=};; esac; done\n" +
		"/bin/mkdir -p $d/member/snap ${w:=$d/member/wal} && echo x >$d/member/snap/db && echo x >$w/0.wal\n" + rest + "\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, args
}

// taken is a snapshot and its evidence.
func taken(t *testing.T) (dir string, e hooks.Evidence) {
	t.Helper()
	dir = t.TempDir()
	e, err := quiesce(t, newSnapshot(t, newFake(5), dir, nil)).Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir, e
}

func TestPrepareRestore(t *testing.T) {
	dir, e := taken(t)
	program, args := tool(t, "")
	data, wal := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "wal")
	opts := &etcd.RestoreOptions{
		Tool: program, DataDir: data, WALDir: wal, Name: "m1", InitialCluster: "m1=http://a:2380,m2=http://b:2380",
		InitialClusterToken: "new", AdvertisePeerURLs: "http://a:2380", BumpRevision: 1000,
	}
	info, err := etcd.PrepareRestore(t.Context(), dir, e, opts)
	if err != nil {
		t.Fatal(err)
	}
	if info.Revision != 5 || info.Method != etcd.MethodSnapshot {
		t.Errorf("info %+v", info)
	}
	want := []string{
		"snapshot", "restore", filepath.Join(dir, etcd.SnapshotFile), "--data-dir=" + data, "--wal-dir=" + wal, "--name=m1",
		"--initial-cluster=m1=http://a:2380,m2=http://b:2380", "--initial-cluster-token=new", "--initial-advertise-peer-urls=http://a:2380",
		"--bump-revision=1000", "--mark-compacted",
	}
	got, err := os.ReadFile(args)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(got)), "\n")); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if st, err := os.Stat(data); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v", st, err)
	}
	// It is not empty any more.
	if _, err := etcd.PrepareRestore(t.Context(), dir, e, opts); err == nil {
		t.Error("over a data directory: no error")
	}
	if _, err := os.Stat(filepath.Join(data, "member", "snap", "db")); err != nil {
		t.Errorf("the data directory is gone: %v", err)
	}
}

// TestPrepareRestoreFails leaves nothing behind.
func TestPrepareRestoreFails(t *testing.T) {
	dir, e := taken(t)
	good, _ := tool(t, "")
	fails, _ := tool(t, "echo broken >&2; exit 3")
	empty, _ := tool(t, "/bin/rm -r $w")
	foreign, err := quiesce(t, newSnapshot(t, newFake(6), t.TempDir(), nil)).Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ended bool
		tool  string
		dir   string
		e     hooks.Evidence
		want  error
		says  string
	}{
		"tool fails":       {tool: fails, says: "broken"},
		"tool lies":        {tool: empty, want: etcd.ErrInconsistent},
		"no tool":          {tool: "etcdutl", says: "absolute"},
		"foreign evidence": {tool: good, e: foreign, want: etcd.ErrInconsistent},
		"no evidence":      {tool: good, e: hooks.Evidence{}, want: etcd.ErrInconsistent},
		"no file":          {tool: good, dir: t.TempDir(), want: etcd.ErrInconsistent},
		"ended":            {tool: good, ended: true, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.e == nil {
				tt.e = e
			}
			if tt.dir == "" {
				tt.dir = dir
			}
			ctx := t.Context()
			if tt.ended {
				ctx = ended
			}
			data := filepath.Join(t.TempDir(), "data")
			_, err := etcd.PrepareRestore(ctx, tt.dir, tt.e, &etcd.RestoreOptions{Tool: tt.tool, DataDir: data})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v %q", err, tt.want, tt.says)
			}
			if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
}

// TestPrepareAtomic wants a database and a log, and nothing from after the cut.
func TestPrepareAtomic(t *testing.T) {
	q, err := etcd.NewAtomic(newFake(5), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := quiesce(t, q).Thaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		db   []byte
		wal  bool
		want error
	}{
		"good":      {db{last: 5}.bytes(), true, nil},
		"behind":    {db{last: 3}.bytes(), true, nil}, // the log has the rest
		"no log":    {db{last: 5}.bytes(), false, etcd.ErrInconsistent},
		"no file":   {nil, true, etcd.ErrInconsistent},
		"beyond":    {db{last: 6}.bytes(), true, etcd.ErrInconsistent},
		"damaged":   {make([]byte, 6*pageSize), true, etcd.ErrInconsistent},
		"cut short": {db{last: 5}.bytes()[:3*pageSize], true, etcd.ErrInconsistent},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			writeFile(t, filepath.Join(data, "member", "snap", "x"), nil)
			if tt.db != nil {
				writeFile(t, filepath.Join(data, "member", "snap", "db"), tt.db)
			}
			if tt.wal {
				writeFile(t, filepath.Join(data, "member", "wal", "0.wal"), []byte("x"))
			}
			_, err := etcd.PrepareRestore(t.Context(), data, e, nil)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if tt.want == nil {
				return
			}
			// Nothing of it is started either.
			info, err := etcd.ParseEvidence(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := etcd.Verify(t.Context(), "/nowhere", data, info, nil); !errors.Is(err, tt.want) {
				t.Errorf("Verify: %v, want %v", err, tt.want)
			}
		})
	}
}

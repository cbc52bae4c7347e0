// SPDX-License-Identifier: Apache-2.0

package reflink_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stillpoint-go/protect/snapshot/driver"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

const killVar = "REFLINK_TEST_KILL"

// TestKillHelper takes one snapshot after the other until it is killed.
func TestKillHelper(t *testing.T) {
	base := os.Getenv(killVar)
	if base == "" {
		t.Skip("it is run by TestKill")
	}
	p, err := reflink.New(base+"/snapshots", nil)
	must(t, err)
	for i := 0; ; i++ {
		s, err := p.Create(t.Context(), driver.VolumeID(base+"/volume"), fmt.Sprintf("p%d-%d", os.Getpid(), i))
		must(t, err)
		if i%2 == 0 {
			must(t, s.Delete(t.Context()))
		}
	}
}

// TestKill kills a process that takes and deletes snapshots. Afterwards all
// snapshots that can be read are whole, and deleting what List shows removes
// everything.
func TestKill(t *testing.T) {
	base := t.TempDir()
	vol, dir := base+"/volume", base+"/snapshots"
	must(t, os.Mkdir(dir, 0o700))
	for i := range 100 {
		write(t, fmt.Sprintf("%s/%d/%d", vol, i%7, i), fmt.Sprint("content ", i))
	}
	want := scan(t, vol)
	self, err := filepath.Abs(os.Args[0])
	must(t, err)
	whole, partial := 0, 0
	for n := range 12 {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestKillHelper$")
		cmd.Env = append(os.Environ(), killVar+"="+base)
		must(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(60+7*n)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
		timer.Stop()

		p, err := reflink.New(dir, nil)
		must(t, err)
		list, err := p.List(t.Context(), "")
		must(t, err)
		for _, s := range list {
			if ready, err := s.Ready(t.Context()); ready {
				whole++
				if diff := cmp.Diff(want, scan(t, dirOf(t, s))); diff != "" {
					t.Errorf("kill %d: a ready snapshot is not whole (-want +got):\n%s", n, diff)
				}
			} else if partial++; err == nil {
				t.Errorf("kill %d: a snapshot is neither ready nor known to be partial", n)
			}
			must(t, s.Delete(t.Context()))
		}
		ids, err := os.ReadDir(dir)
		must(t, err)
		for _, id := range ids {
			// Between the folder of the id and the claim in it nothing is
			// anybody's yet: an empty folder may stay.
			if err := os.Remove(filepath.Join(dir, id.Name())); err != nil {
				t.Errorf("kill %d: left after Delete: %v", n, err)
			}
		}
	}
	t.Logf("%d whole and %d partial snapshots in 12 kills", whole, partial)
}

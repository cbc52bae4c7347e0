// SPDX-License-Identifier: Apache-2.0

package repotest_test

import (
	"testing"

	"gocloud.dev/blob"

	"github.com/stillpoint-go/protect/repo/repotest"
)

func TestLateEffectsMeetTheWorldOfTheirTime(t *testing.T) {
	world := repotest.NewBucket(nil)
	late := func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.Late} }
	p := world.Open(&repotest.Options{Fault: late})
	once := &blob.WriterOptions{IfNotExist: true}
	if err := p.Bucket().WriteAll(t.Context(), "k", []byte("late"), once); err == nil {
		t.Fatal("a late write was acknowledged")
	}
	if err := p.Bucket().Delete(t.Context(), "victim"); err == nil {
		t.Fatal("a late delete was acknowledged")
	}
	fork := world.Clone(nil)
	if err := world.Bucket().WriteAll(t.Context(), "k", []byte("early"), once); err != nil {
		t.Fatal(err)
	}
	world.Set("victim", nil)
	if !world.SettleNext() || state(world) != "k=early victim=" {
		t.Errorf("after the late create-once: %q", state(world))
	}
	if n := world.Settle(); n != 1 || state(world) != "k=early" {
		t.Errorf("%d late effects, then %q", n, state(world))
	}
	if world.SettleNext() {
		t.Error("there was one more")
	}
	if n := fork.Settle(); n != 2 || state(fork) != "k=late" {
		t.Errorf("clone: %d late effects, then %q", n, state(fork))
	}
}

// TestTwice repeats a create-once and a delete behind what happened since.
func TestTwice(t *testing.T) {
	world := repotest.NewBucket(nil)
	p := world.Open(&repotest.Options{Fault: func(repotest.Op) repotest.Fault { return repotest.Fault{Action: repotest.Twice} }})
	if err := p.Bucket().WriteAll(t.Context(), "k", []byte("v"), &blob.WriterOptions{IfNotExist: true}); err != nil {
		t.Fatal(err)
	}
	if err := p.Bucket().Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Bucket().Exists(t.Context(), "k"); err != nil || world.Pending() != 2 || state(world) != "" {
		t.Fatalf("%v, %d late effects, state %q", err, world.Pending(), state(world))
	}
	if world.SettleAt(2) || !world.SettleAt(0) || state(world) != "k=v" {
		t.Errorf("the object is not there again: %q", state(world))
	}
	if !world.SettleAt(0) || state(world) != "" || world.Pending() != 0 {
		t.Errorf("in the end %q, %d late effects", state(world), world.Pending())
	}
}

// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"gocloud.dev/blob/memblob"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/snapshot"
	"github.com/stillpoint-go/protect/snapshot/reflink"
)

// gate is a quiescer of an application in this very process: holding its mutex
// keeps writers out.
type gate struct{ mu chan struct{} }

func (g gate) Traits() hooks.Traits {
	return hooks.Traits{Release: hooks.Session, Scope: hooks.Application}
}

func (g gate) Quiesce(ctx context.Context, _ hooks.FreezeRequest) (hooks.Hold, error) {
	select {
	case g.mu <- struct{}{}:
		return &gateHold{gate: g}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type gateHold struct {
	gate
	thawed bool
}

func (h *gateHold) Held(context.Context) error {
	if h.thawed {
		return hooks.ErrHoldLost
	}
	return nil
}

func (h *gateHold) Thaw(context.Context) (hooks.Evidence, error) {
	if !h.thawed {
		h.thawed = true
		<-h.mu
	}
	return nil, nil
}

// setUp returns a Protector over a bucket in memory, and an application with
// one volume.
func setUp(ctx context.Context, base string) (*protect.Protector, protect.Application) {
	r, err := repo.Init(ctx, memblob.OpenBucket(nil), repo.Passphrase("secret"), nil)
	if err != nil {
		log.Fatal(err)
	}
	data, clones := filepath.Join(base, "data"), filepath.Join(base, "snapshots")
	for _, dir := range []string{data, clones} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			log.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "greeting"), []byte("hello"), 0o600); err != nil {
		log.Fatal(err)
	}
	drv, err := reflink.New(clones, nil)
	if err != nil {
		log.Fatal(err)
	}
	p, err := protect.New(protect.Config{Repository: r, Snapshots: snapshot.NewProvider(drv, nil)})
	if err != nil {
		log.Fatal(err)
	}
	return p, protect.Application{
		Name:    "app",
		Volumes: []protect.Volume{{Name: "data", ID: snapshot.VolumeID(data)}},
		Members: []protect.Member{{Name: "gate", Quiescer: gate{make(chan struct{}, 1)}}},
	}
}

func Example() {
	ctx := context.Background()
	base, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(base)
	p, app := setUp(ctx, base)

	point, err := p.Run(ctx, app, "monday")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(point.ID, point.Level)

	restored := filepath.Join(base, "restored")
	if _, err := p.Restore(ctx, "monday", restored, nil); err != nil {
		log.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(restored, "data", "greeting"))
	fmt.Println(string(b), err)
	// Output:
	// monday application
	// hello <nil>
}

// An operator keeps the state in the status of its custom resource, and does
// one step for each reconciliation.
func ExampleProtector_Step() {
	ctx := context.Background()
	base, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(base)
	p, app := setUp(ctx, base)

	status, _ := json.Marshal(protect.NewState("uid-of-the-resource"))
	for done := false; !done; {
		var state protect.State
		if err := json.Unmarshal(status, &state); err != nil {
			log.Fatal(err)
		}
		next, res, err := p.Step(ctx, app, state)
		if err != nil {
			log.Fatal(err) // an operator returns it, and is called again with the same state
		}
		fmt.Println(state.Phase, "->", next.Phase)
		status, _ = json.Marshal(next)
		done = res.Done
	}
	// Output:
	// prepare -> cut
	// cut -> ready
	// ready -> upload
	// upload -> release
	// release -> done
}

func ExampleLoggerFromSlog() {
	h := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	logger := protect.LoggerFromSlog(h) // for Config.Logger
	logger.Named("repo").Info("point committed", "id", "monday")
	// Output:
	// level=INFO msg="point committed" logger=repo id=monday
}

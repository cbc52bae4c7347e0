// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// TestS3 takes the main job to a bucket of another kind.
func TestS3(t *testing.T) {
	t.Parallel()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server())
	t.Cleanup(server.Close)

	w := newWorld(t)
	w.repo = "s3://backups?" + url.Values{
		"endpoint": {server.URL}, "region": {"us-east-1"}, "use_path_style": {"true"}, "prefix": {"site/"},
	}.Encode()
	w.env = append(w.env, "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")

	plant(t, w.path("data"), 2)
	w.ok(nil, "init", "--kdf", "fast")
	w.ok(nil, "backup", "--id", "one", w.path("data"))
	w.ok(strings.NewReader("stream"), "backup", "-")
	w.ok(nil, "restore", "one", w.path("out"))
	if diff := cmp.Diff(tree(t, w.path("data")), tree(t, w.path("out"))); diff != "" {
		t.Errorf("restored tree (-want +got):\n%s", diff)
	}
	w.ok(nil, "verify", "--data")
	if n := len(w.points()); n != 2 {
		t.Errorf("%d points, want 2", n)
	}
}

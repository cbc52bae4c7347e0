// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/repo"
	"github.com/stillpoint-go/protect/repo/repotest"
)

// TestSecretsStayInside looks for canaries in all objects and errors.
func TestSecretsStayInside(t *testing.T) {
	const pass, name, content = "canary-passphrase", "canary-file-name", "canary-file-content"
	b := repotest.NewBucket(nil)
	r, err := repo.Init(t.Context(), b.Bucket(), key(pass), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, name, []byte(strings.Repeat(content+"\n", 20)))
	put(t, dir, "large/"+name, bytes.Repeat([]byte(content), 20_000))
	p, err := r.Write(t.Context(), repo.WriteOptions{
		ID: "canary-id", Name: "canary-app", Level: "canary-level", Labels: map[string]string{"canary-label": "canary-value"},
		Evidence: map[string]map[string][]byte{"canary-target": {"canary-item": []byte("canary-evidence")}},
	}, func(ctx context.Context, w *repo.Writer) error {
		return errors.Join(w.Put(ctx, "canary-volume", dir), w.PutStream(ctx, "canary-stream", strings.NewReader(content)))
	})
	if err != nil {
		t.Fatal(err)
	}
	objects := b.Objects()
	for object, data := range objects {
		for _, secret := range []string{"canary", fmt.Sprintf("%x", "canary"), "Y2FuYXJ5"} {
			if strings.Contains(object, secret) || bytes.Contains(data, []byte(secret)) {
				t.Errorf("object %s contains %q", object, secret)
			}
		}
	}
	for object := range maps.Clone(objects) {
		b.Set(object, random(1, 300))
		_, err := repo.Open(t.Context(), b.Bucket(), key(pass), nil)
		_, perr := r.Point(t.Context(), "absent")
		_, rerr := readAll(t.Context(), r, p)
		for _, err := range []error{err, perr, rerr} {
			if s := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(s, pass) || strings.Contains(s, content) {
				t.Errorf("an error tells: %s", s)
			}
		}
		b.Set(object, objects[object])
	}
}

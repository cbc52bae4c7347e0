// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/fileblob"  // file://, which is neither durable nor atomic: prefer dir://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/memblob"   // mem://, for tests
	_ "gocloud.dev/blob/s3blob"    // s3://

	"github.com/stillpoint-go/protect/repo/dirbucket"
)

// openBucket opens a repository's bucket. Any that gocloud.dev can open will do.
func openBucket(ctx context.Context, url string) (*blob.Bucket, error) {
	if url == "" {
		return nil, errors.New("there is no repository: use --repo URL")
	}
	mux := blob.DefaultURLMux()
	dirbucket.Register(mux)
	b, err := mux.OpenBucket(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open the bucket: %w", err)
	}
	return b, nil
}

// newBucket is bucket for a new repository: it makes the last element of a
// local directory.
func (c *cli) newBucket(ctx context.Context) (*blob.Bucket, error) {
	u, err := url.Parse(c.repository)
	if err == nil && u.Scheme == dirbucket.Scheme {
		dir := u.Path
		if u.Host == "." || os.PathSeparator != '/' {
			dir = strings.TrimPrefix(dir, "/")
		}
		// A mistyped path must not become a tree of new directories.
		if _, err := os.Stat(filepath.Dir(filepath.FromSlash(dir))); err != nil {
			return nil, err
		}
		q := u.Query()
		q.Set("create_dir", "true")
		u.RawQuery = q.Encode()
		return openBucket(ctx, u.String())
	}
	return openBucket(ctx, c.repository)
}

// redact returns the text of an error without the secrets that the URLs of
// repositories may hold, which bucket drivers quote in their errors.
func (c *cli) redact(text string) string {
	for _, u := range []string{c.repository, c.other} {
		text = redactURL(text, u)
	}
	return text
}

func redactURL(text, repository string) string {
	_, query, _ := strings.Cut(repository, "?")
	secrets := []string{query}
	if u, err := url.Parse(repository); err == nil {
		secrets = append(secrets, u.RawQuery, u.Query().Encode())
		if p, ok := u.User.Password(); ok {
			secrets = append(secrets, p, url.QueryEscape(p), url.PathEscape(p))
		}
	} else if i := strings.LastIndex(repository, "@"); i >= 0 { // which quotes it all
		_, user, _ := strings.Cut(repository[:i], "://")
		secrets = append(secrets, user)
	}
	for _, s := range slices.DeleteFunc(secrets, func(s string) bool { return s == "" }) {
		text = strings.ReplaceAll(text, strings.Trim(strconv.Quote(s), `"`), "…")
		text = strings.ReplaceAll(text, s, "…")
	}
	return text
}

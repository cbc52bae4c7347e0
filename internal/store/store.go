// SPDX-License-Identifier: Apache-2.0

// Package store narrows a gocloud bucket to what a repository needs: create
// once, read, list, delete. It is the only place that calls gocloud's API, and
// knows the traps of its drivers.
//
// Errors match fs.ErrNotExist, fs.ErrExist and fs.ErrPermission. Passing
// failures are retried here and nowhere else.
package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/stillpoint-go/protect/internal/durable"
	"github.com/stillpoint-go/protect/internal/retry"
)

var (
	// ErrUnknown reports that a write may or may not take effect, now or later.
	ErrUnknown = errors.New("store: outcome of the write is unknown")
	// ErrShort reports that an object is shorter than what was asked of it.
	ErrShort = errors.New("store: object is too short")
	// ErrFull reports that a write had no effect since there is no room for it.
	ErrFull = errors.New("the store is full")
	// ErrTooLarge reports an object larger than the caller's limit, or of a size
	// that the store does not know, as where it decompresses what it sends.
	ErrTooLarge = errors.New("store: object is too large")
)

// Store is a view of a bucket. It is safe for concurrent use.
type Store struct {
	bucket *blob.Bucket
	policy retry.Policy
}

// New returns a store over the bucket, which it does not own.
func New(b *blob.Bucket, p retry.Policy) *Store { return &Store{bucket: b, policy: p} }

// slowLine is the rate of a slow line, in bytes a second. By that a call may take
// longer than others if it moves an object.
const slowLine = 32 << 10

// transfer returns the policy for calls that move up to n bytes.
func (s *Store) transfer(n int64) retry.Policy {
	p := s.policy
	p.PerTry = cmp.Or(p.PerTry, retry.DefaultPerTry) + time.Duration(n/slowLine)*time.Second
	return p
}

// Object is an entry of a listing.
type Object struct {
	Key  string
	Size int64
	// ModTime is when the object was created, by the clock of the store.
	ModTime time.Time
}

// Put stores data under key if nothing is there. It succeeds, too, if exactly
// data is there, because then an earlier attempt of ours may have done it; it
// fails with fs.ErrExist if something else is, and with ErrUnknown if the store
// did not give a definite answer. It does not try again where there is no room:
// that does not pass by itself, and each try would take the last of it.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	unknown := false // a write whose outcome we do not know may still be under way
	err := retry.Do(ctx, s.transfer(int64(len(data))), func(ctx context.Context) error {
		err := s.create(ctx, key, data)
		if err == nil {
			return nil
		}
		// Whatever the error says: look. Some stores answer a lost race with an
		// unspecific error, and client libraries repeat requests on their own.
		same, lerr := s.holds(ctx, key, data)
		switch {
		case lerr == nil && same:
			return nil
		case lerr == nil:
			return retry.Final(fmt.Errorf("%w: %w", fs.ErrExist, err))
		case gcerrors.Code(err) == gcerrors.PermissionDenied:
			return retry.Final(classify(err))
		case durable.IsFull(err) && errors.Is(lerr, fs.ErrNotExist):
			return retry.Final(fmt.Errorf("%w: %w", ErrFull, err))
		case errors.Is(err, fs.ErrExist): // but what is there may well be ours: try again to see
			unknown = true
			return fmt.Errorf("%v, and looking at it: %v", err, lerr) //nolint:errorlint // neither is an answer yet
		default:
			unknown = true
			return classify(err)
		}
	})
	switch {
	case err == nil:
		return nil
	case unknown && !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: put %s: %w", ErrUnknown, key, err)
	default:
		return fmt.Errorf("store: put %s: %w", key, err)
	}
}

func (s *Store) create(ctx context.Context, key string, data []byte) error {
	return s.bucket.Upload(ctx, key, bytes.NewReader(data), &blob.WriterOptions{
		IfNotExist:                  true,
		ContentType:                 "application/octet-stream",
		DisableContentTypeDetection: true,
		BufferSize:                  max(len(data), 1), // one request, not a multipart upload
		MaxConcurrency:              1,
	})
}

// holds reports whether the object exists with exactly this content. If it
// cannot tell, or if there is none, it returns an error. It looks for the
// object in a listing, since what a bucket lists is as durable as what it
// acknowledges, which a local directory does not promise of what it reads.
func (s *Store) holds(ctx context.Context, key string, data []byte) (bool, error) {
	page, _, err := s.bucket.ListPage(ctx, blob.FirstPageToken, 1, &blob.ListOptions{Prefix: key})
	if err != nil {
		return false, err
	}
	if len(page) == 0 || page[0].Key != key {
		return false, fs.ErrNotExist
	}
	if page[0].Size != int64(len(data)) {
		return false, nil
	}
	got, err := s.bucket.ReadAll(ctx, key)
	if err != nil {
		return false, err
	}
	return bytes.Equal(got, data), nil
}

// Get returns a whole object of at most limit bytes.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	var out []byte
	err := s.read(ctx, key, limit, func(ctx context.Context) error {
		r, err := s.bucket.NewReader(ctx, key, nil)
		if err != nil {
			return err
		}
		defer r.Close()
		if r.Size() < 0 || r.Size() > limit {
			return retry.Final(ErrTooLarge)
		}
		out = make([]byte, r.Size())
		_, err = io.ReadFull(r, out)
		return err
	})
	return out, err
}

// GetRange returns n bytes of an object from off.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	out := make([]byte, n)
	err := s.read(ctx, key, n, func(ctx context.Context) error {
		err := s.readRange(ctx, key, off, out)
		if err == nil || gcerrors.Code(err) == gcerrors.NotFound {
			return err
		}
		// Stores answer a range beyond the end in many ways. Ask.
		if a, aerr := s.bucket.Attributes(ctx, key); aerr == nil && a.Size < off+n {
			return retry.Final(fmt.Errorf("%w: %d bytes", ErrShort, a.Size))
		}
		return err
	})
	return out, err
}

func (s *Store) readRange(ctx context.Context, key string, off int64, out []byte) error {
	r, err := s.bucket.NewRangeReader(ctx, key, off, int64(len(out)), nil)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.ReadFull(r, out)
	return err
}

// read reads up to n bytes.
func (s *Store) read(ctx context.Context, key string, n int64, op func(context.Context) error) error {
	err := retry.Do(ctx, s.transfer(n), func(ctx context.Context) error { return classify(op(ctx)) })
	if err != nil {
		return fmt.Errorf("store: get %s: %w", key, err)
	}
	return nil
}

// listPage is how many objects to ask for at once. Cloud stores return fewer; a
// local directory is read anew for each page.
const listPage = 5000

// List iterates over the objects whose keys start with prefix, in the order of
// the store. It stops after an error.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		token := blob.FirstPageToken
		for token != nil {
			var page []*blob.ListObject
			err := retry.Do(ctx, s.policy, func(ctx context.Context) error {
				p, next, err := s.bucket.ListPage(ctx, token, listPage, &blob.ListOptions{Prefix: prefix})
				if err != nil {
					return classify(err)
				}
				page, token = p, next
				return nil
			})
			if err != nil {
				yield(Object{}, fmt.Errorf("store: list %s: %w", prefix, err))
				return
			}
			for _, o := range page {
				if !yield(Object{Key: o.Key, Size: max(o.Size, 0), ModTime: o.ModTime}, nil) {
					return
				}
			}
		}
	}
}

// Delete removes an object. Removing what is gone is not an error.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := retry.Do(ctx, s.policy, func(ctx context.Context) error {
		if err := s.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return classify(err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store: delete %s: %w", key, err)
	}
	return nil
}

// classify adds the standard sentinel to an error that has a definite meaning.
func classify(err error) error {
	if err == nil {
		return nil
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case gcerrors.PermissionDenied:
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	case gcerrors.InvalidArgument:
		return fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	case gcerrors.Unimplemented:
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	default:
		return err
	}
}

// cleanupTimeout bounds what is done after the caller's context has ended.
const cleanupTimeout = 30 * time.Second

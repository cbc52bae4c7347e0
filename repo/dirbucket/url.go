// SPDX-License-Identifier: Apache-2.0

package dirbucket

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gocloud.dev/blob"
)

// Scheme is the URL scheme of [URLOpener].
const Scheme = "dir"

// Register makes mux open URLs of [Scheme] with a [URLOpener]. It does nothing
// if the mux has an opener for the scheme. As with blob.URLMux itself, it must
// not run while the mux is used: call it when the program starts.
func Register(mux *blob.URLMux) {
	if !mux.ValidBucketScheme(Scheme) {
		mux.RegisterBucket(Scheme, &URLOpener{})
	}
}

// URLOpener opens URLs like these:
//
//	dir:///srv/backup                    the directory /srv/backup
//	dir:///srv/backup?create_dir=true    the same, made if it does not exist
//	dir://./backup                       a path relative to the working directory
//	dir:///C:/backup                     C:\backup, on Windows
//
// The parameters are create_dir (a boolean), file_mode and dir_mode (octal
// permissions such as 0640), see [Options]. Unknown ones are refused, with an
// error that matches fs.ErrInvalid.
type URLOpener struct {
	// Options are the settings where the URL has no parameter.
	Options Options
}

var _ blob.BucketURLOpener = (*URLOpener)(nil)

// OpenBucketURL opens the directory that u names. The context is not used.
func (o *URLOpener) OpenBucketURL(_ context.Context, u *url.URL) (*blob.Bucket, error) {
	opts := o.Options
	if err := opts.set(u.Query()); err != nil {
		return nil, fmt.Errorf("dirbucket: open %q: %w", u.Redacted(), err)
	}
	dir := u.Path
	switch {
	case u.Opaque != "" || u.User != nil || (u.Host != "" && u.Host != "." && u.Host != "localhost"):
		// dir://backup/x would silently lose "backup".
		return nil, fmt.Errorf("dirbucket: open %q: want dir:///absolute/path or dir://./relative/path: %w",
			u.Redacted(), fs.ErrInvalid)
	case dir == "" || dir == "/" && u.Host == ".":
		return nil, fmt.Errorf("dirbucket: open %q: no path: %w", u.Redacted(), fs.ErrInvalid)
	case u.Host == "." || os.PathSeparator != '/':
		dir = strings.TrimPrefix(dir, "/")
	}
	return OpenBucket(filepath.FromSlash(dir), &opts)
}

func (o *Options) set(params url.Values) error {
	for name, values := range params {
		value := values[len(values)-1]
		var err error
		switch name {
		case "create_dir":
			o.CreateDir, err = strconv.ParseBool(value)
		case "file_mode":
			o.FileMode, err = parseMode(value)
		case "dir_mode":
			o.DirMode, err = parseMode(value)
		default:
			return fmt.Errorf("unknown parameter %q: %w", name, fs.ErrInvalid)
		}
		if err != nil {
			return fmt.Errorf("parameter %q has the value %q: %w", name, value, fs.ErrInvalid)
		}
	}
	return nil
}

func parseMode(s string) (fs.FileMode, error) {
	m, err := strconv.ParseUint(s, 8, 9)
	return fs.FileMode(m), err
}

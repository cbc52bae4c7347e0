// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// head says how far a repository had come: the newest point, and how many
// attempts were closed. Both only ever grow, and nobody without the key can
// make objects that say so.
type head struct {
	at     attempt
	digest [32]byte // of the record; zero if there was no point
	closed int
}

const headVersion = "1"

func (h head) String() string {
	return strings.Join([]string{headVersion, h.at.String(), hex.EncodeToString(h.digest[:]), strconv.Itoa(h.closed)}, ":")
}

func parseHead(s string) (h head, err error) {
	f := strings.Split(s, ":")
	if len(f) != 4 || f[0] != headVersion {
		return h, fmt.Errorf("%w: head %q", fs.ErrInvalid, s)
	}
	at, aerr := ondisk.ParseAttempt(f[1])
	digest, derr := ondisk.ParseID(f[2])
	closed, cerr := strconv.ParseUint(f[3], 10, 31)
	h = head{at: at, digest: digest, closed: int(closed)} // 31 bits
	if err := errors.Join(aerr, derr, cerr); err != nil || h.String() != s {
		return head{}, fmt.Errorf("%w: head %q", fs.ErrInvalid, s)
	}
	return h, nil
}

// Head returns a text of about 140 bytes that stands for all that has been
// committed and forgotten so far. It is no secret. A caller who keeps it outside
// the bucket and passes it to Open as Options.Head notices when the bucket was
// put back to an earlier state.
func (r *Repository) Head(ctx context.Context) (string, error) {
	all, err := r.readRoots(ctx, "")
	if err != nil {
		return "", fmt.Errorf("repo: head: %w", err)
	}
	h := head{closed: all.closed.Len()}
	if p := all.newest(func(*Point) bool { return true }); p != nil {
		h.at, h.digest = p.at, p.digest
	}
	return h.String(), nil
}

// expect fails with ErrRollback if the repository is not at least where it was.
func (r *Repository) expect(ctx context.Context, text string) error {
	h, err := parseHead(text)
	if err != nil {
		return err
	}
	rolledBack := func(what string) error { return fmt.Errorf("%w: %s", ErrRollback, what) }
	all, err := r.readRoots(ctx, h.at.String())
	if err != nil {
		return err
	}
	switch p := all.points[h.at]; {
	case all.closed.Len() < h.closed:
		return rolledBack("recovery points that were forgotten are back")
	case h.digest == [32]byte{} || all.closed.Has(h.at):
		return nil
	case p == nil:
		return rolledBack("the newest recovery point is missing")
	case p.digest != h.digest:
		return rolledBack("the newest recovery point is another one")
	}
	return nil
}

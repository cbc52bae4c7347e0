// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stillpoint-go/protect/hooks"
)

// Serve holds a database in a process of its own, the program of a quiescer of
// hooks/command: it takes the write lock, writes the line READY, and rolls back
// when stdin ends, or when the window is over, which is an error: then it closes
// stdout before it rolls back, so that nobody takes it for holding. Writers of
// other processes go on in time also if the process that takes the recovery point
// is stalled, and the locks are out of its reach (see "The POSIX lock trap"). The
// end of the process releases the lock in any case.
//
//	if len(os.Args) == 3 && os.Args[1] == "hold-sqlite" {
//		db, err := sql.Open("sqlite", os.Args[2])
//		…
//		window, err := time.ParseDuration(os.Getenv("PROTECT_WINDOW"))
//		…
//		err = sqlite.Serve(ctx, db, window, os.Stdin, os.Stdout)
//		… // the exit status is 1 if there is an error
//	}
//
// and for the application
//
//	hold, err := command.New([]string{executable, "hold-sqlite", "/srv/shop/shop.db"}, nil)
//
// A read of stdin may go on after Serve has returned: the process is to end then.
func Serve(ctx context.Context, db *sql.DB, window time.Duration, stdin io.Reader, stdout io.WriteCloser) error {
	q, err := New(db, nil)
	if err != nil {
		return err
	}
	if window <= 0 {
		return fmt.Errorf("sqlite: window %v", window)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, window, hooks.ErrWindowExceeded)
	defer cancel()
	hold, err := q.Quiesce(ctx, hooks.FreezeRequest{Window: window})
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintln(stdout, "READY"); err == nil {
		err = waitForEnd(ctx, stdin)
	}
	if err != nil {
		err = errors.Join(err, stdout.Close())
	}
	ctx, cancelThaw := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancelThaw()
	lost := hold.Held(ctx)
	_, thaw := hold.Thaw(ctx)
	return errors.Join(err, lost, thaw)
}

// endTimeout bounds what is left to do when a hold is over.
const endTimeout = 10 * time.Second

// waitForEnd waits until there is no more to read.
func waitForEnd(ctx context.Context, r io.Reader) error {
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

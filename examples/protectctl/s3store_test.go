// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

const (
	// testStore is the directory of the S3 server that a test process is, and
	// testStoreAddr where it listens.
	testStore     = "PROTECTCTL_TEST_STORE"
	testStoreAddr = "PROTECTCTL_TEST_STORE_ADDR"

	storeBucket = "backups"
	storeSecret = "the-secret-access-key"
)

// objects is an S3 backend whose state survives the death of its process. An
// object is there as a whole or not at all, as with the real thing: it is in a
// file with its name before anybody sees it.
type objects struct {
	*s3mem.Backend // what is in the directory
	dir            string
	mu             sync.Mutex // of those who change something
	now            time.Time  // of objects that are loaded; zero is the present
}

// Now implements gofakes3.TimeSource.
func (o *objects) Now() time.Time {
	if o.now.IsZero() {
		return time.Now()
	}
	return o.now
}

// Since implements gofakes3.TimeSource.
func (o *objects) Since(t time.Time) time.Duration { return o.Now().Sub(t) }

// openObjects loads what a dead process left.
func openObjects(dir string) (*objects, error) {
	o := &objects{dir: dir}
	o.Backend = s3mem.New(s3mem.WithTimeSource(o))
	if err := o.CreateBucket(storeBucket); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := filepath.Join(dir, f.Name())
		key, err := hex.DecodeString(f.Name())
		if err != nil {
			if err := os.Remove(name); err != nil { // a write that was not completed
				return nil, err
			}
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		o.now = info.ModTime()
		if _, err := o.Backend.PutObject(storeBucket, string(key), map[string]string{}, bytes.NewReader(data), int64(len(data)), nil); err != nil {
			return nil, err
		}
	}
	o.now = time.Time{}
	return o, nil
}

func (o *objects) file(key string) string {
	return filepath.Join(o.dir, hex.EncodeToString([]byte(key)))
}

// PutObject implements gofakes3.Backend.
func (o *objects) PutObject(bucket, key string, meta map[string]string, input io.Reader, size int64, cond *gofakes3.PutConditions) (gofakes3.PutObjectResult, error) {
	data, err := gofakes3.ReadAll(input, size)
	if err != nil {
		return gofakes3.PutObjectResult{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err = o.HeadObject(bucket, key)
	if err != nil || cond == nil { // else the condition decides, below
		temp := o.file(key) + ".tmp"
		if err := errors.Join(os.WriteFile(temp, data, 0o600), os.Rename(temp, o.file(key))); err != nil {
			return gofakes3.PutObjectResult{}, err
		}
	}
	return o.Backend.PutObject(bucket, key, meta, bytes.NewReader(data), size, cond)
}

// DeleteObject implements gofakes3.Backend.
func (o *objects) DeleteObject(bucket, key string) (gofakes3.ObjectDeleteResult, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := os.Remove(o.file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return gofakes3.ObjectDeleteResult{}, err
	}
	return o.Backend.DeleteObject(bucket, key)
}

// DeleteMulti implements gofakes3.Backend. Nobody here asks for it.
func (o *objects) DeleteMulti(string, ...string) (gofakes3.MultiDeleteResult, error) {
	return gofakes3.MultiDeleteResult{}, gofakes3.ErrNotImplemented
}

// slow takes time before and after the effect of a request, so that a server is
// also killed with effects whose answers nobody got.
func slow(h http.Handler) http.Handler {
	pause := func() { time.Sleep(rand.N(4 * time.Millisecond)) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pause()
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		pause()
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
	})
}

// serveStore is a process that is an S3 server. It ends with its stdin.
func serveStore() error {
	b, err := openObjects(os.Getenv(testStore))
	if err != nil {
		return err
	}
	var l net.Listener
	for range 100 { // a connection of somebody else may have the port for a moment
		if l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", os.Getenv(testStoreAddr)); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until its end
		os.Exit(0)
	}()
	s := &http.Server{Handler: slow(gofakes3.New(b, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()), ReadHeaderTimeout: time.Minute}
	return s.Serve(l)
}

// s3Store is an S3 server in a process of its own, which can die.
type s3Store struct {
	t         *testing.T
	dir, addr string
	cmd       *exec.Cmd
	stdin     io.WriteCloser // its end ends the server, also if this process dies
}

func newS3Store(t *testing.T) *s3Store {
	t.Helper()
	s := &s3Store{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the server where it was before, and returns when it listens.
func (s *s3Store) start() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.CommandContext(context.WithoutCancel(s.t.Context()), self) // kill ends it
	s.cmd.Env = append(os.Environ(), testStore+"="+s.dir, testStoreAddr+"="+s.addr, "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		s.stdin, err = s.cmd.StdinPipe()
	}
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatalf("the S3 server does not listen: %v", err)
	}
	s.addr = strings.TrimSpace(line)
}

// kill ends the server, as a power failure would. It may be dead already.
func (s *s3Store) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.stdin.Close()
	_ = s.cmd.Wait() // killed
}

// world returns a place for data with a repository in the store.
func (s *s3Store) world() *world {
	w := newWorld(s.t)
	w.repo = "s3://" + storeBucket + "?" + url.Values{
		"endpoint": {"http://" + s.addr}, "region": {"us-east-1"}, "use_path_style": {"true"}, "prefix": {"site/"},
	}.Encode()
	w.env = append(w.env, "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY="+storeSecret, "AWS_EC2_METADATA_DISABLED=true")
	w.ok(nil, "init", "--kdf", "fast")
	return w
}

// SPDX-License-Identifier: Apache-2.0

package fsfreeze_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stillpoint-go/protect/hooks/fsfreeze"
	"github.com/stillpoint-go/protect/hooks/watchdog"
)

// TestMain makes the test binary the watchdog, and the process that the kill
// tests kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case watchdog.Arg:
			os.Exit(watchdog.Main(context.Background(), os.Stdin, os.Stdout))
		case victimArg:
			os.Exit(victim(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

func TestNewRefuses(t *testing.T) {
	tests := map[string]struct {
		path string
		opts *fsfreeze.Options
	}{
		"no options":      {"/mnt", nil},
		"no helper":       {"/mnt", &fsfreeze.Options{}},
		"relative helper": {"/mnt", &fsfreeze.Options{Helper: []string{"helper"}}},
	}
	for name, test := range tests {
		if _, err := fsfreeze.New(test.path, test.opts); err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

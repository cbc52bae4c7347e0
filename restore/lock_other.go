// SPDX-License-Identifier: Apache-2.0

//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package restore

import (
	"errors"
	"os"
)

func lock(*os.File) (held bool, err error) { return false, errors.ErrUnsupported }

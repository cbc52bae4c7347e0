// SPDX-License-Identifier: Apache-2.0

//go:build !(linux || darwin || freebsd || netbsd)

package restore

import (
	"errors"
	"os"
)

func setXattr(*os.File, string, []byte) error { return errors.ErrUnsupported }

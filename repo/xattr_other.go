// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux && !darwin

package repo

import (
	"os"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// readXattrs knows no attributes here.
func readXattrs(*os.File) ([]ondisk.Xattr, error) { return nil, nil }

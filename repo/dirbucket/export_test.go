// SPDX-License-Identifier: Apache-2.0

package dirbucket

import "gocloud.dev/blob/driver"

// What the conformance suite and the layout tests of package dirbucket_test need.
var (
	FileName = fileName
	Escape   = escape
	Unescape = unescape
)

const (
	TrailerMagic   = trailerMagic
	TrailerModulus = trailerModulus
	TrailerResidue = trailerResidue
)

// OpenDriver is OpenBucket without the portable type.
func OpenDriver(dir string, opts *Options) (driver.Bucket, error) { return openBucket(dir, opts) }

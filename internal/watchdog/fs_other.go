// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package watchdog

import "os"

func openFS(Spec, *os.File) (target, error) { return nil, ErrUnsupported }

func lockMemory() {}

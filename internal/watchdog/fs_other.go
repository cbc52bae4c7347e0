// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package watchdog

func openFS(Spec) (target, error) { return nil, ErrUnsupported }

func lockMemory() {}

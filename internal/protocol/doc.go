// SPDX-License-Identifier: Apache-2.0

// Package protocol is the model.
package protocol

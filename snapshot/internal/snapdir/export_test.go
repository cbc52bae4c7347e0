// SPDX-License-Identifier: Apache-2.0

package snapdir

// What the names of folders are made with.
var (
	Escape     = escape
	Unescape   = unescape
	EscapeID   = escapeID
	UnescapeID = unescapeID
)

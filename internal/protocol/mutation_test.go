// SPDX-License-Identifier: Apache-2.0

package protocol

// mutation is one rule of the protocol left out or turned round.
type mutation int

const (
	none mutation = iota

	// The writer.
	condemnedBeforeSession // W3 reads condemn before W2 put the session
	noSession              // W2 left out
	sessionUnconfirmed     // W2 does not wait for the store's answer
	parentNotPinned        // W2 does not name the parents
	parentNotReread        // W3 does not look at the parents again
	dedupCondemned         // W4 refers to condemned packs
	packUnconfirmed        // W5 takes no answer for success
	segmentFirst           // W5 puts the segment before its pack
	segmentUnconfirmed     // W5 does not wait for the answer to a segment
	commitFirst            // W6 before W5
	commitOverwrites       // W6 without if-absent
	noReadBack             // W6 takes "exists" for a fence
	commitUnchecked        // W7 left out
	attemptReused          // W1 does not look at closed for numbers
	writerReadsClosedFirst // W1 reads closed before the points

	// Forget and hold.
	forgetDeletes    // Forget deletes the commit key
	holdIgnored      // nobody asks for holds
	holdUnchecked    // a hold is not checked after it was put
	holdChecksClosed // a hold looks at closed only, not at forget
	holdReadFirst    // holds are read before the request to forget is put, or read
	holdRevives      // dead means forgotten and not held: the first design

	// The collector.
	sessionsReadBeforeMarker // C5 works with the sessions read before C4
	markersReadAfterSessions // C7 deletes what others condemned after C5 listed the sessions
	noResolution             // C5 resolves nobody
	clockFence               // C5 deletes the session record instead of fencing
	fenceUnconfirmed         // C5 does not wait for the answer to a fence
	markerUnconfirmed        // C4 does not wait for the answer to a marker
	waitIgnored              // a marker is ripe though a session is young
	alarmAtOnce              // a mark takes what is missing for damage, whatever happened meanwhile
	noSecondMark             // C5 does not mark again
	closedReadLast           // the mark reads closed after the points
	closedReadOnce           // the mark does not read closed again after the points
	pinsAfterPoints          // the mark reads the sessions after the points
	pinsIgnored              // the mark does not follow pins
	pinnerNotReread          // the mark does not look again at the commit key of a session
	othersMarkersUnread      // the mark takes packs that others condemned for good
	uncondemn                // C6 takes a condemned pack back
	rescueTrusted            // C6 does not mark again
	deleteBeforeClosed       // C8 deletes a fence before it is closed
	fenceNotClosed           // C8 does not close a fence at all
	pinnedFolded             // C8 folds what a session pins
	forgetBeforePoint        // C8 deletes the request before the point
	condemnedPruned          // C9 drops deleted packs from the condemned
	unripeMerged             // C9 merges a marker that waits for a session
	mergedPutLast            // C9 deletes what is merged before the merged set is there
	mergedUnconfirmed        // C9 does not wait for the answer to the merged set
	levelNotHigher           // C9 puts the merged set on level 0
	packsReadBeforeIndex     // C9 drops packs from the index by an older listing
	goneIsEmpty              // a listed set that is gone is not looked for again
	foldFirst                // C8 before C6: safe alone, but the other half of some losses
	mutationCount
)

// mutations is a set of them.
type mutations uint64

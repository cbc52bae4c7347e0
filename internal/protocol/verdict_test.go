// SPDX-License-Identifier: Apache-2.0

package protocol

// verdict says how a mutant is found.
type verdict struct {
	name     string
	within   int    // by volume: schedules from seed 1 within which it is; 0: by script only
	harmless string // why it cannot be found
}

var verdicts = [mutationCount]verdict{
	condemnedBeforeSession:   {"condemnedBeforeSession", 126, ""},
	noSession:                {"noSession", 46, ""},
	sessionUnconfirmed:       {"sessionUnconfirmed", 0, ""},
	parentNotPinned:          {"parentNotPinned", 0, ""},
	parentNotReread:          {"parentNotReread", 0, ""},
	dedupCondemned:           {"dedupCondemned", 52, ""},
	packUnconfirmed:          {"packUnconfirmed", 104, ""},
	segmentFirst:             {"segmentFirst", 110, ""},
	segmentUnconfirmed:       {"segmentUnconfirmed", 78, ""},
	commitFirst:              {"commitFirst", 42, ""},
	commitOverwrites:         {"commitOverwrites", 54, ""},
	noReadBack:               {"noReadBack", 125, ""},
	commitUnchecked:          {"commitUnchecked", 46, ""},
	attemptReused:            {"attemptReused", 46, ""},
	writerReadsClosedFirst:   {"writerReadsClosedFirst", 0, ""},
	forgetDeletes:            {"forgetDeletes", 42, ""},
	holdIgnored:              {"holdIgnored", 139, ""},
	holdUnchecked:            {"holdUnchecked", 78, ""},
	holdChecksClosed:         {"holdChecksClosed", 345, ""},
	holdReadFirst:            {"holdReadFirst", 338, ""},
	holdRevives:              {"holdRevives", 0, ""},
	sessionsReadBeforeMarker: {"sessionsReadBeforeMarker", 0, ""},
	markersReadAfterSessions: {"markersReadAfterSessions", 0, ""},
	noResolution:             {"noResolution", 42, ""},
	clockFence:               {"clockFence", 46, ""},
	fenceUnconfirmed:         {"fenceUnconfirmed", 266, ""},
	markerUnconfirmed:        {"markerUnconfirmed", 68, ""},
	waitIgnored:              {"waitIgnored", 0, ""},
	alarmAtOnce:              {"alarmAtOnce", 300, ""},
	noSecondMark:             {"noSecondMark", 42, ""},
	closedReadLast:           {"closedReadLast", 0, ""},
	closedReadOnce:           {"closedReadOnce", 0, ""},
	pinsAfterPoints:          {"pinsAfterPoints", 0, ""},
	pinsIgnored:              {"pinsIgnored", 0, ""},
	pinnerNotReread:          {"pinnerNotReread", 0, ""},
	othersMarkersUnread:      {"othersMarkersUnread", 44, ""},
	uncondemn:                {"uncondemn", 42, ""},
	rescueTrusted:            {"rescueTrusted", 0, "whoever condemns the pack of a rescue marks after that, and rescues on his own"},
	deleteBeforeClosed:       {"deleteBeforeClosed", 309, ""},
	fenceNotClosed:           {"fenceNotClosed", 46, ""},
	pinnedFolded:             {"pinnedFolded", 0, ""},
	forgetBeforePoint:        {"forgetBeforePoint", 0, "dead is what is closed: once that is there, neither the request nor the record means anything"},
	condemnedPruned:          {"condemnedPruned", 116, ""},
	unripeMerged:             {"unripeMerged", 0, ""},
	mergedPutLast:            {"mergedPutLast", 42, ""},
	mergedUnconfirmed:        {"mergedUnconfirmed", 64, ""},
	levelNotHigher:           {"levelNotHigher", 0, ""},
	packsReadBeforeIndex:     {"packsReadBeforeIndex", 132, ""},
	goneIsEmpty:              {"goneIsEmpty", 0, ""},
	foldFirst:                {"foldFirst", 0, "only together with another rule, see the scripts"},
}

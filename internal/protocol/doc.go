// SPDX-License-Identifier: Apache-2.0

// Package protocol states the protocol by which sessions, collections, Forget
// and Hold work on one repository at the same time, and tests it: it holds this
// text and a model, in tests, of everything that the text says. Package repo is
// written to it. A change of the protocol is made here first.
//
// The store offers four calls: put if absent, get, list, delete. The first is
// atomic, and reads and lists see what was put before. A listing is not a
// snapshot: it is read in pages, in the order of keys. A call may fail before or
// after its effect, take effect long after its caller gave up or died, or twice.
// A process may stop at any call, for any time or for ever. No clock counts.
//
// # Objects
//
// Every object is created once. No name is used twice, with one exception: a
// commit key that was deleted may be put again by a call that comes late, and
// means nothing then.
//
//	session/S    a writer at work: the attempt that it will commit, the parents that it pins
//	pack/P       chunks
//	index/L-I    segment: which chunks are in which packs. A hint, which was true once
//	point/K      the commit key of attempt K: a record, or a fence
//	forget/K     somebody asks for the point to be forgotten
//	hold/K-H     somebody asks for it to be kept
//	closed/L-I   set of attempts that are dead
//	condemn/L-I  set of packs on which nobody may newly rely
//	wait         for whom the packs of a condemn set must wait
//
// An attempt is a name, made from the caller's id, and a number. It is live if
// its commit key holds a record and no closed set names it. There is nothing
// else to it: forget and hold only lead to closed. So death is final, whatever
// comes late. A pack that was condemned stays so, also after it is gone.
//
// Sets and segments are merged. The merged one is of a higher level than all
// that it replaces and is there before they go; its key sorts after theirs. So
// a listing that misses the old ones meets the new one, and a reader that finds
// a listed object gone lists again. Only as many of a level as are many are
// merged, for there are 255 levels.
//
// Whatever builds on a put waits until it is known to have succeeded: an error
// is no answer, and is followed by another try or by reading back. A process
// that does not get to know stops there.
//
// # Writer
//
//	W1  read the points, then closed. The id has a live point: return that. Else
//	    the attempt's number is 1 + the highest among both. Choose parents among
//	    the live points.
//	W2  put the session.
//	W3  read closed again: a parent that is dead is not used. Read condemn.
//	W4  read the index. A chunk need not be stored if it is in a pack that is not
//	    condemned, or is reached through the trees of a parent, unseen.
//	W5  put packs, and after them segments that name them.
//	W6  put the record at the commit key: the commit. If it exists, read it: our
//	    own is success, another session's is that point, a fence is ErrFenced.
//	W7  read closed: if the attempt is in it, our record came to a key whose fence
//	    is gone already: ErrFenced.
//	W8  delete the session if the store lets us, and merge segments, put only.
//
// W2 before W3: a collector puts a condemn set first and lists sessions then.
// Either it sees the session, or the session sees the set. W2 before the second
// look at closed, for parents, is the same: either the collector sees the pin,
// or the writer sees that the parent is dead. Condemn sets are read once: what
// is condemned later, is condemned by somebody who sees the session.
//
// W6 makes commit and fence one object: a collector that wants to know how a
// session ended decides it.
//
// # Forget and hold
//
// Forget puts forget/K, then lists the holds, and if there are none puts a closed
// set. Hold puts its object, with a new name each time, then looks for forget/K
// and then for K in closed: if either is there, it takes its object back and
// fails. At least one of the two sees the other. What was asked for and not
// completed is completed by a collection, which lists forget first, then hold.
//
// # Collector
//
//	C0  close what was asked to be forgotten and nobody holds.
//	C1  list packs and sessions, read condemn.
//	C2  mark (below).
//	C3  choose packs that hold nothing that is needed and has no other good copy;
//	    also packs of which little is needed. To choose badly costs a rescue.
//	C4  put a condemn set of them.
//	C5  list the sessions. Those that are not committed or closed are fenced, by
//	    putting a fence at their commit keys, or left if they are young. A condemn
//	    set that was read or put before this listing is ripe if none was left; or if
//	    its wait object exists and all who stand in that are resolved. If it is not
//	    ripe and has no wait object, it gets one, of those who were left.
//	    Records of resolved sessions are deleted. Mark again.
//	C6  copy chunks that are needed and have no good copy into a new pack, put a
//	    segment, mark again.
//	C7  delete packs of ripe sets that hold no needed chunk without a good copy.
//	C8  put the fences into a closed set; then delete the commit key, the request
//	    to forget and the holds of those and of the attempts that the mark found
//	    closed, except what a session pins.
//	C9  merge closed, index, and the condemn sets that are ripe; then delete what
//	    they replace. Packs that are gone leave the index, by a listing that began
//	    after the segments were read.
//
// A copy is good in a pack that exists, that a segment names and that is not
// condemned by anybody. The mark reads:
//
//	closed; the sessions; the points; the commit keys of those sessions that were
//	not among the points; closed again, and if that has grown, from the start;
//	the index; condemn; the packs.
//
// Needed is what live points refer to, and what dead ones do that an unresolved
// session pins. Of the latter, chunks may be missing, since a session that came
// too late will drop its parent: only a missing chunk of a live point is damage.
// And only if, read once more after the packs, the index names no pack that the
// mark did not know and closed has not grown: else the chunk was moved, or the
// point died, and the mark starts again. Whoever deletes the old copy has put the
// segment of the new one before.
//
// Closed before sessions before points: a parent that the mark takes for dead is
// pinned by a session that it sees, or the session has committed, and its point
// is seen. Closed again: else the session's point may come behind the cursor of
// the listing while its parent, dead by now, is deleted before it. C7 deletes
// only what was condemned before C5 listed the sessions, although a mark knows
// later sets: those who put them have not looked at the sessions yet. C8 after
// C6: a collector that folds a point has moved what its heirs need out of the
// packs that another one, asleep in its mark, is going to delete.
//
// Rescue copies; it never takes back. A collector may sleep between its mark and
// its deletions for any time, and a deletion may take effect at any time later:
// the pack was condemned, nobody relies on it newly, and whoever relied on it
// had a good copy elsewhere before. A good copy may be condemned after that, but
// then by somebody who sees that the other one is condemned, and rescues.
//
// # Invariants
//
// A point that was acknowledged and not forgotten is live, and each of its
// chunks is in a pack that exists and that the index names (P1). So is every
// live point (P2). One id has one live point at most. Success means that the
// point was live; ErrFenced, that it is not and will not be; a forgotten point
// stays so; a held one stays live (P12). When the faults stop, collections leave
// no pack without use, no session, no fence and no request, and few sets, and
// report no damage (P7).
//
// # The model
//
// Tests run writers, collectors, Forget, Hold and compaction as coroutines that
// stop before each call; a seed decides who goes on, what fails, what comes late
// or twice and who dies. After each change of the store the invariants are
// checked against all that was promised. More schedules:
//
//	go test ./internal/protocol -run TestSchedules -v -timeout 1h -args -schedules 1000000 -seed 1000001
//
// Each rule above has a mutant without it, which must be caught: by one of the
// first schedules of volume, or by a script, which the protocol itself has to
// stand. Violations in so many schedules from seed 1, as TestSurvey counts them,
// and the first; an S is a mutant that CI finds by script:
//
//	condemnedBeforeSession      20 in  1316      43  S
//	noSession                   20 in  2077       3  S
//	sessionUnconfirmed           7 in 60000    2052  S
//	parentNotPinned              0 in 60000          S
//	parentNotReread             12 in 60000    8511  S
//	dedupCondemned              20 in   169       6
//	packUnconfirmed             20 in   449      32
//	segmentFirst                20 in  1242      60
//	segmentUnconfirmed          20 in   581      19
//	commitFirst                 20 in    20       1
//	commitOverwrites            20 in   154       7
//	noReadBack                  20 in   709      75
//	commitUnchecked             20 in   506       3  S
//	attemptReused               20 in    67       3
//	writerReadsClosedFirst       8 in 60000   28995  S
//	forgetDeletes               20 in    47       1
//	holdIgnored                 20 in  1292      89  S
//	holdUnchecked               20 in  2046      19  S
//	holdChecksClosed            20 in 15107     295  S
//	holdReadFirst               20 in  7671     288  S
//	holdRevives                 20 in 33236    1605  S
//	sessionsReadBeforeMarker    20 in 50539    1606  S
//	markersReadAfterSessions    20 in 25253    1174  S
//	noResolution                20 in    21       1  S
//	clockFence                  20 in  3495       3  S
//	fenceUnconfirmed            11 in 60000     216  S
//	markerUnconfirmed           20 in  1048      14  S
//	waitIgnored                 20 in 27051    1174  S
//	alarmAtOnce                 20 in   581      76
//	noSecondMark                20 in    69       1
//	closedReadLast               1 in 60000   29125  S
//	closedReadOnce               0 in 60000          S, with foldFirst
//	pinsAfterPoints              0 in 60000          S
//	pinsIgnored                  0 in 60000          S
//	pinnerNotReread              0 in 20000          S, with foldFirst
//	othersMarkersUnread         20 in    92       2
//	uncondemn                   20 in    77       1
//	rescueTrusted                0 in 20000          harmless
//	deleteBeforeClosed          13 in 20000     259  S
//	fenceNotClosed              20 in  3048       3
//	pinnedFolded                 0 in 20000          S, with foldFirst
//	forgetBeforePoint            0 in 20000          harmless
//	condemnedPruned             20 in   444      38
//	unripeMerged                 1 in 20000   18344  S
//	mergedPutLast               20 in    35       1
//	mergedUnconfirmed           20 in   489      12
//	levelNotHigher               0 in 20000          S
//	packsReadBeforeIndex        20 in  4729      82
//	goneIsEmpty                  3 in 20000    3928  S
//	foldFirst                    0 in 200000         harmless alone
//
// Three show what the protocol does not need. The request to forget may be
// deleted before the point: only closed counts. The mark after a rescue may be
// left out: whoever condemns the rescue's pack marks after that. And C8 may come
// before C6, as long as the mark reads closed twice and looks at the commit keys
// of sessions, and C8 spares what is pinned; each of these in turn is only needed
// if C8 comes first. They are two belts: the scripts show that either holds.
//
// The model has no bytes: damage, encryption, the shape of trees and the head
// that a caller remembers are the matter of tests of package repo.
package protocol

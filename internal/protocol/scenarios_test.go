// SPDX-License-Identifier: Apache-2.0

package protocol

import "slices"

// scenario is a script, and the mutants that it must catch. Each is about one
// rule, and says how the loss comes about without it.
type scenario struct {
	name    string
	catches []mutation
	with    []mutation // a second belt, without which alone nothing is lost
	play    func(sc *script)
}

// scenarios returns all scripts.
func scenarios() []scenario {
	return slices.Concat(pinScenarios, markerScenarios, holdScenarios)
}

// In these, P is a point of name 0 or 1 whose only pack X is condemned while P is
// live, by a collector G that then sleeps: X will be deleted unless G finds that
// its chunk is needed. S is a session that pins P.
var pinScenarios = []scenario{
	{
		// S began after X was condemned. P dies. Only the pin tells G of P's chunks.
		"the pin of a dead parent",
		[]mutation{parentNotPinned, pinsIgnored},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			g := sc.marked(sc.packs(), order{})
			s := sc.writer(order{name: 1, parents: p})
			sc.until(s, put, point)
			sc.forget(p)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		// P dies, and goes, between the look of S at P and its session record.
		"a parent that died before it was pinned",
		[]mutation{parentNotReread},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			s := sc.writer(order{name: 1, parents: p})
			sc.until(s, put, session)
			sc.forget(p)
			sc.finish(sc.collector(order{victims: sc.packs()}))
			sc.finish(s)
		},
	},
	{
		// G has read the sessions and the points. S comes and commits, P dies and is
		// folded. G reads who is dead: P, and S it never saw.
		"closed read after the points",
		[]mutation{closedReadLast},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			g := sc.marked(sc.packs(), order{})
			sc.through(g, list, point)
			sc.through(g, get, point)
			sc.finish(sc.writer(order{name: 1, parents: p}))
			sc.forget(p)
			sc.finish(g)
		},
	},
	{
		// The same, within one listing: S sorts before the cursor, P after it.
		"closed not read again after the points",
		[]mutation{closedReadOnce},
		[]mutation{foldFirst},
		func(sc *script) {
			p := sc.point(1, 1)
			g := sc.marked(sc.packs(), order{cutKind: point, cut: maxTry})
			sc.through(g, list, point)
			sc.finish(sc.writer(order{name: 0, parents: p}))
			sc.forget(p)
			sc.fold()
			sc.finish(g)
		},
	},
	{
		// S is not committed while G reads the points, and resolved when G reads the
		// sessions.
		"sessions read after the points",
		[]mutation{pinsAfterPoints},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			g := sc.marked(sc.packs(), order{})
			s := sc.writer(order{name: 1, parents: p})
			sc.until(s, put, point)
			sc.forget(p)
			sc.through(g, list, point)
			sc.through(g, get, point)
			sc.finish(s)
			other := sc.collector(order{})
			sc.through(other, del, session)
			sc.kill(other)
			sc.finish(g)
		},
	},
	{
		// G saw S's pin, not its point, which sorts before the cursor; P, which the
		// pin names, is folded before the cursor comes there.
		"a session that commits while its pin is followed",
		[]mutation{pinnerNotReread},
		[]mutation{foldFirst},
		func(sc *script) {
			p := sc.point(1, 1)
			g := sc.marked(sc.packs(), order{cutKind: point, cut: maxTry})
			s := sc.writer(order{name: 0, parents: p})
			sc.until(s, put, point)
			sc.forget(p)
			sc.through(g, list, point)
			sc.finish(s)
			sc.fold()
			sc.finish(g)
		},
	},
	{
		// A second collector, which fences nobody, folds P. G finds no record where
		// the pin leads.
		"a pinned point is folded",
		[]mutation{pinnedFolded},
		[]mutation{foldFirst},
		func(sc *script) {
			p := sc.point(0, 1)
			g := sc.marked(sc.packs(), order{})
			s := sc.writer(order{name: 1, parents: p})
			sc.until(s, put, point)
			sc.forget(p)
			sc.cfg.fencing, sc.cfg.young = false, 100
			sc.fold()
			sc.finish(g)
			sc.finish(s)
		},
	},
}

// In these, X is a pack that no point needs, in the index, so that a session S
// may refer to it.
var markerScenarios = []scenario{
	{
		"a session between the sessions and the marker",
		[]mutation{sessionsReadBeforeMarker, noSession},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			g := sc.collector(order{victims: sc.packs()})
			sc.until(g, put, condemn)
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		// S reads the condemned, then X is condemned, and the sessions are listed
		// before that of S is there.
		"condemned read before the session is there",
		[]mutation{condemnedBeforeSession},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, session)
			g := sc.marked(sc.packs(), order{})
			sc.until(s, put, point)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		// Another collector condemns X after G listed the sessions.
		"a marker that G did not know when it listed the sessions",
		[]mutation{markersReadAfterSessions},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			x := sc.packs()
			sc.point(2, 2)
			g := sc.marked(sc.packs()&^x, order{})
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			other := sc.collector(order{victims: x})
			sc.through(other, put, condemn)
			sc.kill(other)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		"a fence that nobody confirmed",
		[]mutation{fenceUnconfirmed, clockFence, noResolution},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			g := sc.collector(order{victims: sc.packs()})
			sc.until(g, put, point)
			if g.ready {
				sc.lose(g)
			}
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		// The marker never lands, G deletes all the same, and nobody is warned of X.
		"a marker that nobody confirmed",
		[]mutation{markerUnconfirmed},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			g := sc.collector(order{victims: sc.packs()})
			sc.until(g, put, condemn)
			sc.lose(g)
			sc.through(g, list, session)
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		"a young session that did not see the marker",
		[]mutation{waitIgnored, noResolution},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			sc.cfg.fencing, sc.cfg.young = false, 100
			sc.finish(sc.collector(order{victims: sc.packs()}))
			sc.finish(s)
		},
	},
	{
		// S listed the markers up to the cursor. Two beyond it are merged into one
		// before it.
		"a merged set that sorts before the cursor",
		[]mutation{levelNotHigher},
		nil,
		func(sc *script) {
			a, b := sc.point(0, 1), sc.point(2, 2)
			sc.narrow(condemn, leaves/2, leaves)
			x := sc.packs()
			sc.forget(a | b)
			first := sc.collector(order{victims: x & -x})
			sc.through(first, put, condemn)
			sc.kill(first)
			g := sc.marked(x, order{})
			s := sc.writer(order{name: 1, want: 1, cutKind: condemn, cut: leaves / 2})
			sc.through(s, list, condemn)
			sc.narrow(condemn, 0, leaves/2)
			sc.finish(sc.start(&role{"merger", func(a *actor) { a.compactCondemned(x) }}, 1, &order{}))
			sc.until(s, put, point)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		// S has the names of two markers, which are merged before it reads them.
		"markers that are merged between the listing and the reading",
		[]mutation{goneIsEmpty},
		nil,
		func(sc *script) {
			a, b := sc.point(0, 1), sc.point(2, 2)
			x := sc.packs()
			sc.forget(a | b)
			first := sc.collector(order{victims: x & -x})
			sc.through(first, put, condemn)
			sc.kill(first)
			g := sc.marked(x, order{})
			s := sc.writer(order{name: 1, want: 3})
			sc.through(s, list, condemn)
			sc.finish(sc.start(&role{"merger", func(a *actor) { a.compactCondemned(x) }}, 1, &order{}))
			sc.until(s, put, point)
			sc.finish(g)
			sc.finish(s)
		},
	},
	{
		"a session record that nobody confirmed",
		[]mutation{sessionUnconfirmed},
		nil,
		func(sc *script) {
			sc.forget(sc.point(0, 1))
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, session)
			sc.lose(s)
			sc.until(s, put, point)
			sc.finish(sc.collector(order{victims: sc.packs()}))
			sc.finish(s)
		},
	},
	{
		// The list of those that a marker waits for is lost when it is merged.
		"a marker that is merged while it waits",
		[]mutation{unripeMerged},
		nil,
		func(sc *script) {
			a, b := sc.point(0, 1), sc.point(2, 2)
			x := sc.packs()
			sc.forget(a | b)
			s := sc.writer(order{name: 1, want: 3})
			sc.until(s, put, point)
			first := sc.collector(order{victims: x & -x})
			sc.through(first, put, condemn)
			sc.kill(first)
			sc.cfg.fencing, sc.cfg.young = false, 100
			sc.finish(sc.collector(order{victims: x}))
			sc.finish(sc.collector(order{}))
			sc.finish(s)
		},
	},
	{
		// A late commit meets a key whose fence is deleted and not yet closed.
		"a fence deleted before it is closed",
		[]mutation{deleteBeforeClosed},
		nil,
		func(sc *script) {
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			g := sc.collector(order{})
			sc.through(g, del, point)
			sc.finish(s)
			sc.finish(g)
		},
	},
	{
		// The commit of S lands after its fence was folded.
		"a commit after its fence was folded",
		[]mutation{commitUnchecked},
		nil,
		func(sc *script) {
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			sc.finish(sc.collector(order{}))
			sc.finish(s)
		},
	},
}

// SPDX-License-Identifier: Apache-2.0

package protocol

var holdScenarios = []scenario{
	{
		"a hold that finds the request to forget",
		[]mutation{holdUnchecked, holdChecksClosed},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			f := sc.start(&forgetterRole, 1, &order{victims: p})
			sc.until(f, put, closed)
			h := sc.holder(order{victims: p, calls: 9})
			sc.until(h, list, hold)
			sc.finish(f)
			sc.finish(h)
		},
	},
	{
		"a hold that lands between the look for holds and the request",
		[]mutation{holdReadFirst, holdIgnored},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			f := sc.start(&forgetterRole, 1, &order{victims: p})
			sc.until(f, put, forget)
			h := sc.holder(order{victims: p, calls: 9})
			sc.until(h, list, hold)
			sc.finish(f)
			sc.finish(h)
		},
	},
	{
		// The hold is put when the point was collected already.
		"a hold that revives",
		[]mutation{holdRevives},
		nil,
		func(sc *script) {
			p := sc.point(0, 1)
			h := sc.holder(order{victims: p, calls: 9})
			sc.until(h, put, hold)
			sc.forget(p)
			g := sc.collector(order{victims: sc.packs()})
			sc.through(g, del, pack)
			sc.one(h)
			sc.finish(g)
			sc.finish(h)
		},
	},
	{
		// A reader of the points meets a record that came late, to a key whose fence
		// was closed after it read who is dead.
		"a writer that reads closed before the points",
		[]mutation{writerReadsClosedFirst},
		nil,
		func(sc *script) {
			s := sc.writer(order{name: 1, want: 1})
			sc.until(s, put, point)
			w := sc.writer(order{name: 1, want: 1})
			sc.until(w, list, point)
			sc.finish(sc.collector(order{}))
			sc.through(s, put, point)
			sc.finish(w)
			sc.finish(s)
		},
	},
}

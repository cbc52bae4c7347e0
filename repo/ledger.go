// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/internal/ondisk"
)

// verifyLedger is where verifications note which packs they have read. Each
// object tells all that its run knew, so that older ones may go. They are
// hints: whoever loses them reads packs again.
const verifyLedger = ondisk.LedgerPrefix + "verify-"

// packState is how a pack was when a verification last looked at it. Of equal
// runs the highest state counts.
type packState uint8

const (
	packSeen    packState = 0 // it was there, and not read
	packRead    packState = 1 // it was read whole, and in order
	packDamaged packState = 2
)

// stamp says what a run knew of a pack. Runs are counted, not timed.
type stamp struct {
	run   uint64
	state packState
}

func (s stamp) compare(o stamp) int {
	return cmp.Or(cmp.Compare(s.run, o.run), cmp.Compare(s.state, o.state))
}

// packLedger says when each pack was last read whole.
type packLedger struct {
	run   uint64 // the last one
	packs map[ondisk.PackRef]stamp
}

// merge adds what another object of the ledger knows.
func (l *packLedger) merge(o *packLedger) {
	l.run = max(l.run, o.run)
	for ref, s := range o.packs {
		if have, ok := l.packs[ref]; !ok || s.compare(have) > 0 {
			l.packs[ref] = s
		}
	}
}

// due begins the next run: it returns the packs to read. Those come first that
// were read or first seen longest ago, until they have budget bytes; so what is
// there when a run begins is read by the time that the runs have read as much as
// there was. Damaged packs come in addition, each time. Packs that are gone are
// forgotten.
//
// Among packs that are equally old the order goes around, from a place that
// start chooses, so that even without a ledger not always the same are read.
func (l *packLedger) due(sizes map[ondisk.PackRef]int64, budget int64, start ondisk.PackRef) []ondisk.PackRef {
	l.run++
	maps.DeleteFunc(l.packs, func(ref ondisk.PackRef, _ stamp) bool { _, ok := sizes[ref]; return !ok })
	var queue, due []ondisk.PackRef
	for ref := range sizes {
		s, ok := l.packs[ref]
		if !ok {
			s = stamp{run: l.run}
			l.packs[ref] = s
		}
		if s.state == packDamaged {
			due = append(due, ref)
		} else {
			queue = append(queue, ref)
		}
	}
	before := func(ref ondisk.PackRef) int {
		if comparePacks(ref, start) < 0 {
			return 1 // the next time around
		}
		return 0
	}
	slices.SortFunc(queue, func(a, b ondisk.PackRef) int {
		return cmp.Or(l.packs[a].compare(l.packs[b]), cmp.Compare(before(a), before(b)), comparePacks(a, b))
	})
	for _, ref := range queue {
		if budget <= 0 {
			break
		}
		budget -= sizes[ref]
		due = append(due, ref)
	}
	return due
}

// note records what this run has found of a pack.
func (l *packLedger) note(ref ondisk.PackRef, state packState) {
	l.packs[ref] = stamp{run: l.run, state: state}
}

const (
	ledgerVersion = 1
	// maxRuns bounds the count of runs.
	maxRuns = math.MaxUint64 >> 2
	// maxLedgerRun is the longest encoding of a run of packs with its session.
	maxLedgerRun = 16 + 5 + 5 + 5 + 10 + 1
	// maxLedger bounds the packs of one object of the ledger, since a few bytes
	// can stand for any number of them.
	maxLedger = 256 << 10
)

// ledgerRun is a run of consecutive packs of one session with the same stamp.
type ledgerRun struct {
	session     [16]byte
	first, last uint32
	stamp       stamp
}

func (r ledgerRun) follows(o ledgerRun) bool {
	return r.session == o.session && r.stamp == o.stamp && uint64(r.first) == uint64(o.last)+1
}

// encode returns the plaintexts of the objects that hold the ledger, at least
// one. Packs that one session stored and one run read take a few bytes.
func (l *packLedger) encode() [][]byte {
	var runs []ledgerRun
	for _, ref := range slices.SortedFunc(maps.Keys(l.packs), comparePacks) {
		r := ledgerRun{ref.Session, ref.Seq, ref.Seq, l.packs[ref]}
		if n := len(runs); n > 0 && r.follows(runs[n-1]) && r.last-runs[n-1].first < maxLedger {
			runs[n-1].last = r.last
		} else {
			runs = append(runs, r)
		}
	}
	var out [][]byte
	for {
		n, packs := 0, uint64(0)
		for n < len(runs) && n < (ondisk.MaxSet-32)/maxLedgerRun {
			length := uint64(runs[n].last-runs[n].first) + 1
			if packs+length > maxLedger {
				break
			}
			packs += length
			n++
		}
		out = append(out, l.encodePart(runs[:n]))
		if runs = runs[n:]; len(runs) == 0 {
			return out
		}
	}
}

// encodePart encodes runs: the sessions, and of each the runs as their distance
// from the one before, one less than their length, how many verifications ago,
// and the state.
func (l *packLedger) encodePart(runs []ledgerRun) []byte {
	var body []byte
	sessions := 0
	for ; len(runs) > 0; sessions++ {
		n := 1
		for n < len(runs) && runs[n].session == runs[0].session {
			n++
		}
		body = append(body, runs[0].session[:]...)
		body = ondisk.AppendUvarint(body, uint64(n)) // not negative
		var at uint64
		for _, r := range runs[:n] {
			body = ondisk.AppendUvarint(body, uint64(r.first)-at)
			body = ondisk.AppendUvarint(body, uint64(r.last-r.first))
			body = ondisk.AppendUvarint(body, l.run-r.stamp.run)
			body = append(body, byte(r.stamp.state))
			at = uint64(r.last) + 1
		}
		runs = runs[n:]
	}
	b := ondisk.AppendUvarint([]byte{ledgerVersion}, l.run)
	return append(ondisk.AppendUvarint(b, uint64(sessions)), body...) // not negative
}

// decodeLedger decodes one object of the ledger.
func decodeLedger(b []byte) (*packLedger, error) { return decodeLedgerOf(b, maxLedger) }

// decodeLedgerOf does so with an object of at most so many packs: a few bytes may
// stand for all of them.
func decodeLedgerOf(b []byte, limit uint64) (*packLedger, error) {
	d := ondisk.NewDecoder(b)
	if d.Byte() != ledgerVersion {
		d.Fail("version of a ledger")
	}
	l := &packLedger{run: d.Uvarint(maxRuns), packs: map[ondisk.PackRef]stamp{}}
	var last [16]byte
	for i := range d.Uvarint(ondisk.MaxSet) {
		var session [16]byte
		copy(session[:], d.Fixed(len(session)))
		if i > 0 && bytes.Compare(session[:], last[:]) <= 0 {
			d.Fail("sessions out of order")
		}
		last = session
		l.decodeRuns(d, session, limit)
		if d.Err() != nil {
			break
		}
	}
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

func (l *packLedger) decodeRuns(d *ondisk.Decoder, session [16]byte, limit uint64) {
	n := d.Uvarint(ondisk.MaxSet)
	if n == 0 {
		d.Fail("session without packs")
	}
	var at uint64
	var prev ledgerRun
	for i := range n {
		first := at + d.Uvarint(math.MaxUint32)
		last := first + d.Uvarint(math.MaxUint32)
		age, state := d.Uvarint(l.run), packState(d.Byte())
		switch {
		case d.Err() != nil:
		case last > math.MaxUint32:
			d.Fail("number of a pack")
		case state > packDamaged:
			d.Fail("unknown state")
		case last-first >= limit-uint64(len(l.packs)):
			d.Fail("too many packs")
		}
		if d.Err() != nil {
			return
		}
		r := ledgerRun{session, uint32(first), uint32(last), stamp{l.run - age, state}} // bounded
		if i > 0 && r.follows(prev) {                                                   // only one that is full goes on, and in another object
			d.Fail("run is not as long as possible")
			return
		}
		for seq := first; seq <= last; seq++ {
			l.packs[ondisk.PackRef{Session: session, Seq: uint32(seq)}] = r.stamp // bounded
		}
		prev, at = r, last+1
	}
}

// readLedger returns what the objects of the ledger say together, and their
// keys. One that cannot be read costs work, nothing else.
func (r *Repository) readLedger(ctx context.Context) (*packLedger, []string, error) {
	l := &packLedger{packs: map[ondisk.PackRef]stamp{}}
	var keys []string
	for o, err := range r.store.List(ctx, verifyLedger) {
		if err != nil {
			return nil, nil, err
		}
		part, err := r.ledgerAt(ctx, o.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // somebody has a newer one
		case errors.Is(err, ErrCorrupt):
			r.log.Warn("a part of the verification ledger is damaged", "error", err)
		case err != nil:
			return nil, nil, err
		default:
			l.merge(part)
			keys = append(keys, o.Key)
		}
	}
	return l, keys, nil
}

func (r *Repository) ledgerAt(ctx context.Context, key string) (*packLedger, error) {
	plain, err := r.getObject(ctx, key, ondisk.MaxSet)
	if err != nil {
		return nil, err
	}
	l, err := decodeLedger(plain)
	if err != nil {
		return nil, corrupt(key, err)
	}
	return l, nil
}

// ledgerTimeout bounds the update of the ledger after the caller's context has
// ended.
const ledgerTimeout = 30 * time.Second

// writeLedger stores the ledger and then removes the objects that it was made
// from. Who may not write verifies all the same.
func (r *Repository) writeLedger(ctx context.Context, l *packLedger, old []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerTimeout)
	defer cancel()
	for _, plain := range l.encode() {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
		key := fmt.Sprintf("%s%016x-%x", verifyLedger, l.run, id)
		if _, err := r.create(ctx, key, plain); err != nil {
			r.log.Warn("the verification ledger could not be stored: what was read now will be read again", "error", err)
			return
		}
	}
	for _, key := range old {
		if err := r.store.Delete(ctx, key); err != nil {
			r.log.Debug("an old object of the verification ledger stays", "error", err)
		}
	}
}

// randomPack returns a place in the order of packs.
func randomPack() ondisk.PackRef {
	var ref ondisk.PackRef
	var seq [4]byte
	_, _ = rand.Read(ref.Session[:]) // never fails, see crypto/rand
	_, _ = rand.Read(seq[:])
	ref.Seq = binary.LittleEndian.Uint32(seq[:])
	return ref
}

// isLedger reports whether the key is that of an object of the ledger.
func isLedger(key string) bool { return strings.HasPrefix(key, verifyLedger) }

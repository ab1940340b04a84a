package task

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/pane"
	"trestle/runner/state"
)

// The calendars of keys that are on disk.
const (
	onEvent = iota
	onProcessing
	onSynchronized
	onHold // what a key keeps the watermark back for
	numCalendars
)

// mostWoken is how many keys come back from disk at once.
const mostWoken = 1000

// A paged is what a root knows of its keys. After an error, which no caller can
// do anything about at once, the task must end: trim tells it.
type paged[V state.Kept] struct {
	s     *stream
	table *state.Table[V]
	hold  element.Timestamp // of the keys on disk, in the tracker; +inf: none
	err   error
}

func newPaged[V state.Kept](s *stream, p state.Pager[V], last element.Timestamp) paged[V] {
	opt := state.TableOptions{Group: s.r.keyGroup, Calendars: numCalendars, Last: last}
	return paged[V]{s: s, table: state.NewTable(s.r.m.store, p, opt), hold: element.MaxTimestamp}
}

// keyGroup is the group of keys that a key is in.
func (r *run) keyGroup(key []byte) uint16 { return uint16(bundle.KeyGroup(key, r.groups())) }

// groups is the number of key groups of the job.
func (r *run) groups() int { return max(1, r.spec.KeyGroups) }

func (p *paged[V]) note(err error) {
	if p.err == nil {
		p.err = err
	}
}

// get is what is known of a key; nil if nothing is.
func (p *paged[V]) get(key []byte) V {
	v, _, err := p.table.Get(key)
	p.note(err)
	return v
}

// part is what is known of a key in memory, which may not be all; nil if nothing
// is.
func (p *paged[V]) part(key []byte) V {
	v, _ := p.table.Part(key)
	return v
}

// whole is a part and all else that is known of its key.
func (p *paged[V]) whole(v V) V {
	v, err := p.table.Whole(v)
	p.note(err)
	return v
}

func (p *paged[V]) addPart(key string, v V) { p.table.AddPart(key, v, 0) }
func (p *paged[V]) add(key string, v V)     { p.table.Add(key, v, 0) }
func (p *paged[V]) remove(v V)              { p.note(p.table.Remove(v)) }
func (p *paged[V]) resize(v V, bytes int64) { p.table.Resize(v, bytes) }

// keep makes sure that v is there, which may have been removed.
func (p *paged[V]) keep(key string, v V) {
	if _, there, err := p.table.Get([]byte(key)); err != nil {
		p.note(err)
	} else if !there {
		p.add(key, v)
	}
}

// nextOf is the time for which a key on disk waits, of one kind.
func (p *paged[V]) nextOf(calendar int) element.Timestamp {
	at, err := p.table.Next(calendar)
	p.note(err)
	return at
}

// wake brings keys back from disk whose time has come. It reports whether there
// were any.
func (p *paged[V]) wake(until ...element.Timestamp) bool {
	for calendar, at := range until {
		n, err := p.table.Wake(calendar, at, mostWoken)
		p.note(err)
		if n > 0 {
			return p.err == nil
		}
	}
	return false
}

// next is the processing time for which a key on disk waits.
func (p *paged[V]) next() element.Timestamp {
	return min(p.nextOf(onProcessing), p.nextOf(onSynchronized))
}

// trim puts on disk what memory can't hold. What the keys there hold back is
// one hold of the tracker's.
func (p *paged[V]) trim() error {
	if p.err != nil {
		return p.err
	}
	if err := p.table.Trim(); err != nil {
		return err
	}
	least, err := p.table.Next(onHold)
	if err != nil || least == p.hold {
		return err
	}
	if least < element.MaxTimestamp {
		p.s.marks.Hold(least)
	}
	if p.hold < element.MaxTimestamp {
		p.s.marks.Release(p.hold)
	}
	p.hold = least
	return nil
}

var errRecord = errors.New("state on disk is malformed")

// groupPager makes records of groups: of each window its values, then the panes.
type groupPager struct{ g *grouping }

// Sizes of what a key has in memory, besides bytes that are counted.
const (
	groupKeyBytes  = 320
	perWindowBytes = 400
	streamKeyBytes = 560
	perTimerBytes  = 256
)

func (k *groupKey) size() int64 {
	return groupKeyBytes + perWindowBytes*int64(len(k.values)) + k.bytes + k.bytes/4
}

// Leave takes a key out of memory; see state.Pager.
func (p groupPager) Leave(dst []byte, k *groupKey, times []element.Timestamp) []byte {
	g := p.g
	wake := g.panes.Wake(&k.panes)
	times[onEvent], times[onProcessing], times[onSynchronized] = wake.Event, wake.Processing, wake.Synchronized
	times[onHold] = k.hold
	if k.hold < element.MaxTimestamp {
		g.s.marks.Release(k.hold)
	}
	g.event.set(&k.event, 0, false)
	g.processing.set(&k.processing, 0, false)
	g.synchronized.set(&k.synchronized, 0, false)
	dst = binary.AppendUvarint(dst, uint64(len(k.values)))
	var code []byte
	for i := range k.values {
		b := &k.values[i]
		code = encodeWindow(code[:0], g.w, b.window)
		dst = appendBytes(dst, code)
		dst = binary.AppendUvarint(dst, uint64(b.count))
		dst = appendBytes(dst, b.bytes)
	}
	return g.panes.Append(dst, &k.panes)
}

// Enter takes a key back; see state.Pager.
func (p groupPager) Enter(_ string, record []byte) (*groupKey, int64, error) {
	k := newGroupKey()
	var err error
	if k.panes, err = p.read(k, record); err != nil {
		return nil, 0, err
	}
	p.g.wait(k)
	if k.due {
		p.g.s.due-- // it was counted when it left
	}
	return k, k.size(), nil
}

// Join takes what else came of a key; see state.Joiner.
func (p groupPager) Join(k *groupKey, record []byte) (int64, error) {
	panes, err := p.read(k, record)
	if err != nil {
		return 0, err
	}
	if _, due := p.g.holds(&panes); due {
		p.g.s.due--
	}
	p.g.panes.Join(&k.panes, &panes)
	p.g.wait(k)
	return k.size(), nil
}

// read adds the values of a record to a key, and gives the panes.
func (p groupPager) read(k *groupKey, record []byte) (panes pane.Key, err error) {
	r := state.ReadRecord(record)
	for n := r.Count(); n > 0; n-- {
		w, err := decodeWindow(p.g.w, r.Bytes())
		if err != nil {
			return panes, err
		}
		b := k.into(w)
		b.count += int(r.Number())
		values := r.Bytes()
		b.bytes = append(b.bytes, values...)
		k.bytes += int64(len(values))
	}
	if r.Bad() {
		return panes, errRecord
	}
	return p.g.panes.Decode(r.Rest())
}

// timerPager makes records of timers.
type timerPager struct{ t *streamTimers }

func (k *streamKey) size() int64 { return streamKeyBytes + k.bytes }

func (x *streamTimer) size() int64 {
	return perTimerBytes + int64(len(x.raw)+len(x.id)+len(x.window))
}

// nextEvent is the watermark at which the next timer is ripe.
func (t *streamTimers) nextEvent() element.Timestamp {
	return min(t.event.next(), t.keys.nextOf(onEvent))
}

// Leave takes a key out of memory; see state.Pager.
func (p timerPager) Leave(dst []byte, k *streamKey, times []element.Timestamp) []byte {
	t := p.t
	if len(k.event) > 0 {
		times[onEvent] = k.event[0].at
	}
	if len(k.processing) > 0 {
		times[onProcessing] = k.processing[0].at
	}
	t.event.set(&k.eventSlot, 0, false)
	t.processing.set(&k.processingSlot, 0, false)
	dst = binary.AppendUvarint(dst, uint64(len(k.byID)))
	for x := range maps.Values(k.byID) {
		if x.hold < element.MaxTimestamp {
			t.s.marks.Release(x.hold)
			times[onHold] = min(times[onHold], x.hold)
		}
		for _, n := range []int64{int64(x.at), int64(x.rank), int64(x.seq), int64(x.family), int64(x.hold)} {
			dst = binary.AppendVarint(dst, n)
		}
		dst = appendBytes(dst, []byte(x.window))
		dst = appendBytes(dst, []byte(x.id))
		dst = appendBytes(dst, x.raw)
	}
	return dst
}

// Enter takes a key back; see state.Pager.
func (p timerPager) Enter(_ string, record []byte) (*streamKey, int64, error) {
	t := p.t
	k := newStreamKey()
	r := state.ReadRecord(record)
	for n := r.Count(); n > 0; n-- {
		x := &streamTimer{
			at: element.Timestamp(r.Signed()), rank: int(r.Signed()), seq: int(r.Signed()),
			family: int(r.Signed()), hold: element.Timestamp(r.Signed()),
		}
		x.window, x.id, x.raw = string(r.Bytes()), string(r.Bytes()), slices.Clone(r.Bytes())
		if r.Bad() || x.family >= len(t.families) {
			return nil, 0, errRecord
		}
		t.enter(k, x)
	}
	if r.Bad() || len(r.Rest()) > 0 {
		return nil, 0, errRecord
	}
	t.wait(k)
	return k, k.size(), nil
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

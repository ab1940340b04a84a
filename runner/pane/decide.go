package pane

import (
	"slices"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/window"
)

// A decision is made about one key at one time.
type decision struct {
	s   *Strategy
	k   *Key
	now Now
	ops []Op
}

// Advance decides what happens because time has moved, and appends what is to
// be done to ops. Windows that have expired give their last pane.
func (s *Strategy) Advance(k *Key, now Now, ops []Op) []Op {
	d := decision{s: s, k: k, now: now, ops: ops}
	d.advance()
	return d.ops
}

func (d *decision) advance() {
	expired := 0 // of the first windows: expiries are in the order of ends
	for i := range d.k.live {
		l := &d.k.live[i]
		over := window.Passed(d.now.Input, l.window.MaxTimestamp())
		if !over && !d.s.Trigger.Timed() {
			break // neither are the others
		}
		switch {
		case window.Passed(d.now.Input, l.window.Expiry(d.s.LatenessMillis)):
			d.expire(l)
			expired++
		case l.closed:
		case over && !l.ended, Wake{element.MaxTimestamp, l.processing, l.synchronized}.timeDue(d.now):
			l.ended = over
			if !d.fireIfReady(i) {
				d.wait(l)
			}
		}
	}
	d.k.live = slices.Delete(d.k.live, 0, expired)
	if len(d.k.live) == 0 {
		d.k.live = nil
	}
}

// clock is the time as the trigger of a window sees it.
func (d *decision) clock(l *live) trigger.Now {
	return trigger.Now{Ended: l.ended, Processing: d.now.Processing, Synchronized: d.now.Synchronized}
}

// wait notes what the trigger waits for.
func (d *decision) wait(l *live) {
	l.processing, l.synchronized = d.s.Trigger.Wake(l.trigger, d.clock(l))
}

// fireIfReady emits a pane if the trigger wants it.
func (d *decision) fireIfReady(at int) bool {
	l := &d.k.live[at]
	if !d.s.Trigger.Ready(l.trigger, d.clock(l)) {
		return false
	}
	d.s.Trigger.Fire(&l.trigger, d.clock(l))
	last := d.s.Trigger.Finished(l.trigger)
	d.emit(l, last)
	if last {
		// All that must be known from here on is that nothing is wanted.
		*l = live{window: l.window, closed: true}
		return true
	}
	d.wait(l)
	return true
}

// expire emits a window's last pane, if it is still to come, and forgets the
// window.
func (d *decision) expire(l *live) {
	if !l.closed {
		l.ended = true
		d.emit(l, true)
	}
	d.ops = append(d.ops, Op{Kind: Expire, Window: l.window})
}

// emit emits a pane, unless there is nothing new in it and nobody wants it so.
func (d *decision) emit(l *live, last bool) {
	p := d.next(l, last)
	ts := l.window.MaxTimestamp()
	if l.held {
		ts = min(ts, l.hold)
	}
	l.held, l.hold = false, 0 // it is out

	if l.pending > 0 || p.Timing == element.OnTime && d.s.OnTimeAlways || last && d.s.FinalAlways {
		d.ops = append(d.ops, Op{Kind: Emit, Window: l.window, Timestamp: ts, Pane: p})
		l.panes++
		if p.Timing != element.Early {
			l.onTime++
		}
	}
	l.pending = 0
	if l.buffered && (last || !d.s.Accumulating) {
		d.ops = append(d.ops, Op{Kind: Clear, Window: l.window})
		l.buffered = false
	}
}

// next is what a pane would be that the window fires now.
func (d *decision) next(l *live, last bool) element.Pane {
	p := element.Pane{First: l.panes == 0, Last: last, Index: l.panes, OnTimeIndex: l.onTime}
	switch {
	case l.onTime > 0 || d.now.Output > l.window.MaxTimestamp():
		// After the on-time pane all are late. And none is on time that those
		// downstream can't take as on time.
		p.Timing = element.Late
	case l.ended:
		p.Timing = element.OnTime
	default:
		p.Timing, p.OnTimeIndex = element.Early, -1
	}
	return p
}

package group

import (
	"encoding/binary"

	"trestle/coders"
	"trestle/element"
)

// An item is a value with its own window, for windows that merge:
//
//	8 bytes  start of the window
//	8 bytes  end of the window
//	8 bytes  timestamp
//	8 bytes  length of the value
//	         the value, padded to 8 bytes
const itemHeader = 32

// itemSize is how many bytes an item of n bytes takes.
func itemSize(n int) int { return itemHeader + (n+unit-1)&^(unit-1) }

func putItem(b []byte, w element.Interval, ts element.Timestamp, value []byte) {
	binary.LittleEndian.PutUint64(b, uint64(w.Start))
	binary.LittleEndian.PutUint64(b[8:], uint64(w.End))
	binary.LittleEndian.PutUint64(b[16:], uint64(ts))
	binary.LittleEndian.PutUint64(b[24:], uint64(len(value)))
	n := copy(b[itemHeader:], value)
	clear(b[itemHeader+n:])
}

// cutItem gives the item that b begins with.
func cutItem(b []byte) []byte {
	n := binary.LittleEndian.Uint64(b[24:])
	return b[:itemSize(int(n))]
}

// decodeItem gives an item's window.
func decodeItem(b []byte) element.Interval {
	return element.Interval{
		Start: element.Timestamp(binary.LittleEndian.Uint64(b)),
		End:   element.Timestamp(binary.LittleEndian.Uint64(b[8:])),
	}
}

func itemTimestamp(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b[16:])) }

func itemValue(b []byte) []byte {
	n := binary.LittleEndian.Uint64(b[24:])
	return b[itemHeader:][:n:n]
}

// nextSession appends the next group of windows that overlap. The feed gives a
// key's items by the start of their windows, so a session ends with the first
// window that begins at or after its end.
func (g *Grouper) nextSession(dst []byte) (out []byte, count int, err error) {
	item, ok, err := g.first()
	if err != nil || !ok {
		return dst, 0, endOr(err)
	}
	w, ts := decodeItem(item.values), itemTimestamp(item.values)
	g.build.start(g.scratch[:0])
	for {
		ts = g.cfg.Timestamp.combine(ts, itemTimestamp(item.values))
		if err := g.build.add(itemValue(item.values), 1); err != nil {
			return dst, 0, err
		}
		if item, ok, err = g.feed.values(); err != nil {
			return dst, 0, err
		}
		if !ok {
			break
		}
		next := decodeItem(item.values)
		if next.Start >= w.End && next != w {
			g.held, g.holding = item, true
			break
		}
		w.End = max(w.End, next.End)
	}
	if g.cfg.Timestamp == EndOfWindow {
		ts = int64(w.MaxTimestamp())
	}
	tail, err := g.build.end()
	if err != nil {
		return dst, 0, err
	}
	g.scratch = g.build.dst
	g.window = coders.AppendInterval(g.window[:0], w)
	_, key := g.feed.windowKey()
	dst = coders.AppendHeader(dst, element.Timestamp(ts), 1, g.window, coders.OnlyFiring)
	dst = append(dst, key...)
	dst = append(dst, g.scratch...)
	if tail != nil {
		g.inline, g.page = tail, 0
		return dst, 0, nil
	}
	return dst, 1, nil
}

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"trestle/element"

	"github.com/cockroachdb/pebble/v2"
)

// Next is the first time for which a key on disk waits; +inf: none does.
func (t *Table[V]) Next(calendar int) (element.Timestamp, error) {
	first, err := t.first(calendar)
	at := element.MaxTimestamp
	if first != "" {
		at = timeOf(first)
	}
	if calendar == 0 && t.last > 0 {
		at = min(at, t.opt.Last)
	}
	return at, err
}

// Wake brings keys into memory whose time has come, so many at most, and
// reports how many it brought.
func (t *Table[V]) Wake(calendar int, until element.Timestamp, most int) (n int, err error) {
	if at, err := t.Next(calendar); err != nil || at > until || at == element.MaxTimestamp {
		return 0, err
	}
	if err := t.commit(); err != nil { // records of keys that are gone must be gone
		return 0, err
	}
	db, err := t.store.tree()
	if err != nil {
		return 0, err
	}
	records := append(slices.Clip(t.prefix), 'k')
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: records, UpperBound: after(records)})
	if err != nil {
		return 0, fmt.Errorf("read state from disk: %w", err)
	}
	for ; n < most && err == nil; n++ {
		var first string
		if first, err = t.first(calendar); err != nil || first == "" || timeOf(first) > until {
			break
		}
		name := t.recordName(groupOf(first), keyOf(first))
		if !it.SeekGE(name) || !bytes.Equal(it.Key(), name) {
			err = errors.Join(errRecord, it.Error())
			break
		}
		_, err = t.enter(groupOf(first), keyOf(first), it.Value())
	}
	if err == nil && n < most && calendar == 0 && until >= t.opt.Last && t.last > 0 {
		n, err = t.wakeLast(it, n, most)
	}
	return n, errors.Join(err, it.Close())
}

// wakeLast brings keys into memory that wait for Last: those that are there
// wait for nothing else.
func (t *Table[V]) wakeLast(it *pebble.Iterator, n, most int) (int, error) {
	ok := it.SeekGE(t.lastWoken)
	for again := false; n < most && t.last > 0; ok = it.Next() {
		if !ok && !again {
			again, ok = true, it.First() // some have left memory since
		}
		if !ok {
			return n, errors.Join(errRecord, it.Error())
		}
		t.lastWoken = append(append(t.lastWoken[:0], it.Key()...), 0)
		group, key := binary.BigEndian.Uint16(it.Key()[len(t.prefix)+1:]), it.Key()[len(t.prefix)+3:]
		v, here := t.here(string(key))
		var err error
		switch {
		case here:
			_, err = t.Whole(v)
		case anyWaitsForLast(it.Value()):
			n++
			_, err = t.enter(group, string(key), it.Value())
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// here is what memory has of a key, which does not count as asking for it.
func (t *Table[V]) here(key string) (v V, ok bool) {
	if v, ok = t.young[key]; !ok {
		v, ok = t.old[key]
	}
	return v, ok
}

// first is the first date of a key on disk. Dates before it of keys in memory
// are over: such a key says for itself what it waits for.
func (t *Table[V]) first(calendar int) (string, error) {
	c := &t.calendars[calendar]
	for {
		first := c.first()
		switch {
		case first == "" && c.bound == "":
			return "", nil
		case first == "":
			if err := t.load(c); err != nil {
				return "", err
			}
			continue
		}
		v, ok := t.here(keyOf(first))
		if !ok {
			return first, nil
		}
		if t.IsPart(v) { // the date is of what is on disk
			if _, err := t.Whole(v); err != nil {
				return "", err
			}
			continue
		}
		v.entry().dated &^= 1 << calendar
		c.pop()
	}
}

// load brings a calendar's next dates into memory.
func (t *Table[V]) load(c *calendar) error {
	if err := t.commit(); err != nil {
		return err
	}
	db, err := t.store.tree()
	if err != nil {
		return err
	}
	if err := c.load(db); err != nil {
		return fmt.Errorf("read times of state from disk: %w", err)
	}
	return nil
}

// anyWaitsForLast reports whether one of a record's parts does.
func anyWaitsForLast(record []byte) bool {
	for len(record) > 0 {
		one, rest, err := cutPart(record)
		if err != nil || len(one) == 0 || one[len(one)-1]&waitsForLast != 0 {
			return true // what is malformed is told when it is read
		}
		record = rest
	}
	return false
}

// waitsForLast is the bit of a record's end that says so; others are Entry's dated.
const waitsForLast = 1 << 7

// appendDates puts the dates of a key at the end of its record.
func (t *Table[V]) appendDates(dst []byte, e *Entry, last bool) []byte {
	for i := range t.calendars {
		if e.dated&(1<<i) != 0 {
			dst = binary.BigEndian.AppendUint64(dst, uint64(e.dates[i]))
		}
	}
	if last {
		return append(dst, e.dated|waitsForLast)
	}
	return append(dst, e.dated)
}

// cutDates takes them from there.
func (t *Table[V]) cutDates(e *Entry, record []byte) ([]byte, error) {
	n := len(record) - 1
	if n < 0 || record[n]&^waitsForLast>>len(t.calendars) != 0 {
		return nil, errRecord
	}
	if record[n]&waitsForLast != 0 {
		t.last--
	}
	e.dated, record = record[n]&^waitsForLast, record[:n]
	if n -= 8 * bits.OnesCount8(e.dated); n < 0 {
		return nil, errRecord
	}
	dates := record[n:]
	for i := range t.calendars {
		if e.dated&(1<<i) != 0 {
			e.dates[i], dates = element.Timestamp(binary.BigEndian.Uint64(dates)), dates[8:]
		}
	}
	return record[:n], nil
}

// date sees to it that a calendar has a key at a time, and at no other; at +inf
// at none.
func (t *Table[V]) date(i int, e *Entry, at element.Timestamp) error {
	has := e.dated&(1<<i) != 0
	if has && at == e.dates[i] || !has && at == element.MaxTimestamp {
		return nil
	}
	b, err := t.batch()
	if err != nil {
		return err
	}
	if has {
		e.dated &^= 1 << i
		t.name = appendDate(t.name[:0], e.dates[i], e.group, e.key)
		if err := t.calendars[i].remove(t.name, b); err != nil {
			return err
		}
	}
	if at == element.MaxTimestamp {
		return nil
	}
	e.dated |= 1 << i
	e.dates[i] = at
	t.name = appendDate(t.name[:0], at, e.group, e.key)
	return t.calendars[i].add(t.name, b)
}

// leastDates leaves of the dates of two parts the first ones: for what else a
// key waits it will say itself.
func (t *Table[V]) leastDates(e, was *Entry) error {
	for i := range t.calendars {
		if was.dated&(1<<i) == 0 {
			continue
		}
		least, other := was.dates[i], was.dates[i]
		if e.dated&(1<<i) != 0 {
			least, other = min(least, e.dates[i]), max(other, e.dates[i])
		}
		e.dated |= 1 << i
		if e.dates[i] = other; other == least {
			continue
		}
		if err := t.date(i, e, element.MaxTimestamp); err != nil {
			return err
		}
		e.dated |= 1 << i
		e.dates[i] = least
	}
	return nil
}

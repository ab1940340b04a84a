package state

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"trestle/element"
)

// Next is the first time for which a key on disk waits; +inf: none does.
func (t *Table[V]) Next(calendar int) (element.Timestamp, error) {
	first, err := t.first(calendar)
	if first == "" {
		return element.MaxTimestamp, err
	}
	return timeOf(first), nil
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
		v, ok := t.young[keyOf(first)]
		if !ok {
			v, ok = t.old[keyOf(first)]
		}
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

// appendDates puts the dates of a key at the end of its record.
func (t *Table[V]) appendDates(dst []byte, e *Entry) []byte {
	for i := range t.calendars {
		if e.dated&(1<<i) != 0 {
			dst = binary.BigEndian.AppendUint64(dst, uint64(e.dates[i]))
		}
	}
	return append(dst, e.dated)
}

// cutDates takes them from there.
func (t *Table[V]) cutDates(e *Entry, record []byte) ([]byte, error) {
	n := len(record) - 1
	if n < 0 || record[n]>>len(t.calendars) != 0 {
		return nil, errRecord
	}
	e.dated, record = record[n], record[:n]
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

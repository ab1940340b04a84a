package state

import (
	"encoding/binary"
	"fmt"

	"trestle/element"
)

// A Joiner is a Pager of what can be put together from parts: then a key may be
// added to that isn't looked for on disk.
type Joiner[V Kept] interface {
	Pager[V]
	// Join adds a later part to v, and tells the size of both; it keeps no
	// reference to record.
	Join(v V, record []byte) (bytes int64, err error)
}

// Part gives what memory has of a key, which may not be all; see AddPart.
func (t *Table[V]) Part(key []byte) (v V, ok bool) {
	if v, ok = t.young[string(key)]; ok {
		return v, true
	}
	if v, ok = t.old[string(key)]; ok {
		k := v.entry().key
		delete(t.old, k)
		t.young[k] = v
	}
	return v, ok
}

// Whole makes sure that all of v is there. It may have to make another one, with
// v in it.
func (t *Table[V]) Whole(v V) (V, error) {
	e := v.entry()
	if !e.part {
		return v, nil
	}
	e.part = false
	record, closer, err := t.record(e.group, e.key)
	if record == nil {
		return v, err
	}
	for i := range t.times {
		t.times[i] = element.MaxTimestamp
	}
	part := t.pager.Leave(nil, v, t.times)
	t.forget(e)
	whole, err := t.enter(e.group, e.key, record)
	if closed := closer.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return v, err
	}
	bytes, err := t.pager.(Joiner[V]).Join(whole, part)
	if err != nil {
		return v, fmt.Errorf("read state from disk: %w", err)
	}
	t.Resize(whole, bytes)
	return whole, nil
}

// forget takes a key out of memory.
func (t *Table[V]) forget(e *Entry) {
	e.here = false
	t.grow(-e.bytes)
	e.bytes = 0
	delete(t.young, e.key)
	delete(t.old, e.key)
}

// AddPart keeps v, of so many bytes, under a key that Part doesn't find, and
// doesn't look whether there is more of it on disk. What is known to need no
// more is added to it then; else Whole brings that. The table's Pager is a
// Joiner.
func (t *Table[V]) AddPart(key string, v V, bytes int64) {
	t.Add(key, v, bytes)
	e := v.entry()
	e.part = t.disk > 0 && !e.stored
}

// IsPart reports whether there may be more of v on disk.
func (t *Table[V]) IsPart(v V) bool { return v.entry().part }

// enter makes of a record what it was. Its dates stay in the calendars: most
// keys that come back leave again with the same ones.
func (t *Table[V]) enter(group uint16, key string, record []byte) (v V, err error) {
	e := Entry{key: key, group: group, stored: true, here: true}
	parts := 0
	var size int64
	for ; len(record) > 0; parts++ {
		var one []byte
		if one, record, err = cutPart(record); err != nil {
			return v, err
		}
		was := e
		if one, err = t.cutDates(&e, one); err != nil {
			return v, err
		}
		if parts == 0 {
			v, size, err = t.pager.Enter(key, one)
		} else if err = t.leastDates(&e, &was); err == nil {
			size, err = t.join(v, one)
		}
		if err != nil {
			return v, fmt.Errorf("read state from disk: %w", err)
		}
	}
	if parts == 0 {
		return v, errRecord
	}
	*v.entry() = e
	t.young[key] = v
	t.disk -= parts
	t.Resize(v, size)
	return v, nil
}

func (t *Table[V]) join(v V, record []byte) (int64, error) {
	j, ok := t.pager.(Joiner[V])
	if !ok {
		return 0, errRecord
	}
	return j.Join(v, record)
}

// cutPart cuts the first part from a record.
func cutPart(record []byte) (one, rest []byte, err error) {
	if len(record) < 4 {
		return nil, nil, errRecord
	}
	n := binary.BigEndian.Uint32(record)
	if record = record[4:]; uint64(n) > uint64(len(record)) {
		return nil, nil, errRecord
	}
	return record[:n], record[n:], nil
}

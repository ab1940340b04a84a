package group

import (
	"bytes"
	"math"
	"unsafe"

	"trestle/internal/membudget"
)

// A head is what the table knows of a group. It lies in the arena, followed by
// window and key.
type head struct {
	hash   uint64
	ts     int64  // earliest or latest of the values, where that is asked for
	next   uint32 // the group made after this one; 0 for none
	first  uint32 // span
	last   uint32 // span
	winLen uint32
	keyLen uint32
	_      uint32
}

// A span is room for some values of one group, one after another. It lies in
// the arena, followed by the room.
type span struct {
	next  uint32 // 0 for none
	room  uint32
	used  uint32
	count uint32
}

const (
	headSize = int(unsafe.Sizeof(head{}))
	spanSize = int(unsafe.Sizeof(span{}))
	// A group's spans grow from what its first value needs to mostRoom.
	mostRoom = 16 << 10

	leastSlots = 1 << 10
	// overflow slots stand behind the last one, so that probing never wraps
	// around and slots stay nearly sorted by hash.
	overflow = 128
)

// A table holds groups by hash. A slot is the upper half of the hash and the
// address of the head; the slot's index is the hash's top bits, so that a table
// grows without looking at heads, and is sorted by looking at few.
type table struct {
	arena
	ts    Combiner
	slots []uint64
	shift uint // of a hash's upper half, to the slot's index
	count int
	begin uint32 // first group made
	end   uint32 // last group made
}

func newTable(budget *membudget.Budget, most int64, ts Combiner) *table {
	t := &table{arena: newArena(budget, most), ts: ts}
	t.setSlots(leastSlots)
	budget.Take(t.others)
	return t
}

func slotBytes(n int) int64 { return int64(n+overflow) * 8 }

// setSlots makes n empty slots.
func (t *table) setSlots(n int) {
	t.slots = make([]uint64, n+overflow)
	t.others = slotBytes(n)
	t.shift = 32
	for 1<<(32-t.shift) < n {
		t.shift--
	}
}

func (t *table) head(addr uint32) *head { return (*head)(t.pointer(addr)) }
func (t *table) span(addr uint32) *span { return (*span)(t.pointer(addr)) }

// windowKey is the group's window and key.
func (t *table) windowKey(addr uint32, h *head) []byte {
	return t.at(addr)[headSize:][:h.winLen+h.keyLen]
}

// values are those of a span.
func (t *table) values(addr uint32, s *span) []byte {
	return t.at(addr)[spanSize:][:s.used]
}

// touch reads what putting the entries will have to read, so that it is in the
// processor's cache by then. The loops matter: within one of them no read waits
// for another.
func (t *table) touch(entries []entry) (sum uint32) {
	var slots [ahead]uint64
	for i := range entries {
		slots[i] = t.slots[uint32(entries[i].hash>>32)>>t.shift]
	}
	var last [ahead]uint32
	for i := range entries {
		if addr := uint32(slots[i]); addr != 0 && slots[i]>>32 == entries[i].hash>>32 {
			last[i] = t.head(addr).last
		}
	}
	for i := range entries {
		if last[i] != 0 {
			sum += t.span(last[i]).used
		}
	}
	return sum
}

// touchHeads reads the heads of slots, as touch does.
func (t *table) touchHeads(slots []uint64) (sum uint32) {
	for _, slot := range slots {
		sum += t.head(uint32(slot)).first
	}
	return sum
}

// put makes room for a value of n bytes in the group of an entry. It reports
// false, and has changed nothing that counts, if the table is full.
func (t *table) put(e *entry, n int) (room []byte, ok bool) {
	tag := uint32(e.hash >> 32)
	for i := int(tag >> t.shift); ; i++ {
		slot := t.slots[i]
		if slot == 0 {
			if i == len(t.slots)-1 || t.count >= (len(t.slots)-overflow)/8*5 {
				if !t.grow() {
					return nil, false
				}
				return t.put(e, n)
			}
			return t.start(i, e, n)
		}
		if uint32(slot>>32) != tag {
			continue
		}
		addr := uint32(slot)
		h := t.head(addr)
		if h.hash != e.hash || int(h.winLen) != len(e.window) || int(h.keyLen) != len(e.key) {
			continue
		}
		if wk := t.windowKey(addr, h); !bytes.Equal(wk[:len(e.window)], e.window) || !bytes.Equal(wk[len(e.window):], e.key) {
			continue
		}
		room, ok = t.extend(h, n)
		if ok {
			h.ts = t.ts.combine(h.ts, e.ts)
		}
		return room, ok
	}
}

// start makes a group with room for its first value.
func (t *table) start(slot int, e *entry, n int) (room []byte, ok bool) {
	window, key := e.window, e.key
	fixed := headSize + (len(window)+len(key)+unit-1)&^(unit-1)
	whole := fixed + spanSize + (n+unit-1)&^(unit-1)
	together := whole < t.chunkSize()
	size := whole
	if !together {
		size = fixed
	}
	addr, b, ok := t.alloc(size)
	if !ok {
		return nil, false
	}
	first := addr + uint32(fixed/unit)
	if !together {
		if first, _, ok = t.alloc(whole - fixed); !ok {
			return nil, false
		}
	}
	copy(b[headSize:], window)
	copy(b[headSize+len(window):], key)
	*t.span(first) = span{room: uint32((n + unit - 1) &^ (unit - 1)), used: uint32(n), count: 1}
	*(*head)(unsafe.Pointer(&b[0])) = head{
		hash: e.hash, ts: e.ts, first: first, last: first,
		winLen: uint32(len(window)), keyLen: uint32(len(key)),
	}
	if t.begin == 0 {
		t.begin = addr
	} else {
		t.head(t.end).next = addr
	}
	t.end = addr
	t.slots[slot] = e.hash>>32<<32 | uint64(addr)
	t.count++
	return t.at(first)[spanSize:][:n], true
}

// extend makes room for one value more in a group.
func (t *table) extend(h *head, n int) (room []byte, ok bool) {
	addr := h.last
	s := t.span(addr)
	if int(s.room-s.used) < n || s.count == math.MaxUint32 {
		size := max((n+unit-1)&^(unit-1), int(min(2*s.room, mostRoom, uint32(t.chunkSize()/4))))
		next, _, ok := t.alloc(spanSize + size)
		if !ok {
			return nil, false
		}
		s.next, h.last, addr = next, next, next
		s = t.span(next)
		*s = span{room: uint32(size)}
	}
	at := int(s.used)
	s.used += uint32(n)
	s.count++
	return t.at(addr)[spanSize+at:][:n], true
}

// grow doubles the slots, or more if they are crowded at the end, provided the
// budget allows it or there is next to nothing.
func (t *table) grow() bool {
	old := t.slots
	for n := 2 * (len(old) - overflow); n <= 1<<31; n *= 2 {
		more := slotBytes(n) - t.others
		if t.bytes+t.others <= min(floor, t.most) {
			t.budget.Take(more)
		} else if t.bytes+slotBytes(n) > t.most || !t.budget.TryTake(more) {
			return false
		}
		t.setSlots(n)
		if t.place(old) {
			return true
		}
	}
	return false
}

// place puts old slots into new ones, and reports whether there was room.
func (t *table) place(old []uint64) bool {
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		i := int(slot >> 32 >> t.shift)
		for t.slots[i] != 0 {
			i++
		}
		if i == len(t.slots)-1 {
			return false
		}
		t.slots[i] = slot
	}
	return true
}

// sorted gives the heads' slots by hash, window and key, and leaves the table
// without slots until reset.
func (t *table) sorted() []uint64 {
	s := t.slots[:0]
	for _, slot := range t.slots {
		if slot != 0 {
			s = append(s, slot)
		}
	}
	// They are nearly sorted: each is as far from its place as it was displaced.
	for i := 1; i < len(s); i++ {
		for j := i; j > 0 && t.less(s[j], s[j-1]); j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s
}

func (t *table) less(a, b uint64) bool {
	if a>>32 != b>>32 {
		return a>>32 < b>>32
	}
	x, y := t.head(uint32(a)), t.head(uint32(b))
	return order(x.hash, int(x.winLen), t.windowKey(uint32(a), x), y.hash, int(y.winLen), t.windowKey(uint32(b), y)) < 0
}

// order is how groups are sorted in runs: by hash, because that is cheap and
// decides nearly always.
func order(hash1 uint64, win1 int, key1 []byte, hash2 uint64, win2 int, key2 []byte) int {
	switch {
	case hash1 != hash2:
		if hash1 < hash2 {
			return -1
		}
		return 1
	case win1 != win2:
		return win1 - win2
	}
	return bytes.Compare(key1, key2)
}

// reset empties the table, but keeps its slots.
func (t *table) reset() {
	t.arena.reset()
	clear(t.slots)
	t.count, t.begin, t.end = 0, 0, 0
}

// free gives everything back. The table can't be used any more.
func (t *table) free() {
	t.arena.reset()
	t.budget.Give(t.others)
	t.slots, t.others = nil, 0
	t.count, t.begin, t.end = 0, 0, 0
}

// combine gives the timestamp of a group that has one more element.
func (c Combiner) combine(a, b int64) int64 {
	switch c {
	case Earliest:
		return min(a, b)
	case Latest:
		return max(a, b)
	}
	return a
}

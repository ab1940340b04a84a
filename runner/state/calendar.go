package state

import (
	"container/heap"
	"encoding/binary"
	"slices"

	"trestle/element"

	"github.com/cockroachdb/pebble/v2"
)

// A calendar has keys in the order of times, each at one time. The first of
// them are in memory, so that those that come next are found without a look at
// the disk; from bound on all are on disk. What is on disk before bound is over.
type calendar struct {
	prefix []byte
	near   map[string]struct{}
	order  dates  // has all of near, and some that have been removed
	bound  string // the first date that may be on disk; "": none is
	buf    []byte // a date's name on disk
}

// A date is a time and a key, encoded so that they sort by time, and those of
// one time as their records do, which are read together, too.
func appendDate(dst []byte, at element.Timestamp, group uint16, key string) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(at)^1<<63)
	return append(binary.BigEndian.AppendUint16(dst, group), key...)
}

func timeOf(date string) element.Timestamp {
	return element.Timestamp(binary.BigEndian.Uint64([]byte(date[:8])) ^ 1<<63)
}

func groupOf(date string) uint16 { return binary.BigEndian.Uint16([]byte(date[8:10])) }

func keyOf(date string) string { return date[10:] }

const (
	mostNear = 4096 // dates in memory; beyond, half of them go to disk
	loadNear = 1024 // dates that come back from disk at once
)

func (c *calendar) onDisk(date []byte) bool { return c.bound != "" && string(date) >= c.bound }

func (c *calendar) name(date string) []byte { return append(slices.Clip(c.prefix), date...) }

// add adds a date, which may be there.
func (c *calendar) add(encoded []byte, b *pebble.Batch) error {
	if c.onDisk(encoded) {
		c.buf = append(append(c.buf[:0], c.prefix...), encoded...)
		return b.Set(c.buf, nil, nil)
	}
	if c.near == nil {
		c.near = map[string]struct{}{}
	}
	if _, ok := c.near[string(encoded)]; ok {
		return nil
	}
	date := string(encoded)
	c.near[date] = struct{}{}
	heap.Push(&c.order, date)
	if len(c.near) <= mostNear {
		return nil
	}
	return c.push(b)
}

// push puts the later half of what is in memory on disk.
func (c *calendar) push(b *pebble.Batch) error {
	all := make(dates, 0, len(c.near))
	for date := range c.near {
		all = append(all, date)
	}
	slices.Sort(all)
	half := len(all) / 2
	to := after(c.prefix)
	if c.bound != "" {
		to = c.name(c.bound)
	}
	c.bound = all[half]
	if err := b.DeleteRange(c.name(c.bound), to, nil); err != nil {
		return err
	}
	for _, date := range all[half:] {
		delete(c.near, date)
		if err := b.Set(c.name(date), nil, nil); err != nil {
			return err
		}
	}
	c.order = slices.Clone(all[:half]) // what is sorted is a heap
	return nil
}

// remove removes a date, if it is there.
func (c *calendar) remove(encoded []byte, b *pebble.Batch) error {
	if c.onDisk(encoded) {
		c.buf = append(append(c.buf[:0], c.prefix...), encoded...)
		return b.Delete(c.buf, nil)
	}
	delete(c.near, string(encoded))
	if len(c.order) > 2*len(c.near)+64 {
		c.order = slices.DeleteFunc(c.order, func(d string) bool {
			_, ok := c.near[d]
			return !ok
		})
		heap.Init(&c.order)
	}
	return nil
}

// first is the first date, "" if there is none, of those in memory.
func (c *calendar) first() string {
	for len(c.order) > 0 {
		if _, ok := c.near[c.order[0]]; ok {
			return c.order[0]
		}
		heap.Pop(&c.order)
	}
	return ""
}

// pop removes the first date, which first has given.
func (c *calendar) pop() {
	delete(c.near, c.order[0])
	heap.Pop(&c.order)
}

// load takes the first dates on disk into memory. All that was written must be
// in the tree.
func (c *calendar) load(db *pebble.DB) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: c.name(c.bound), UpperBound: after(c.prefix)})
	if err != nil {
		return err
	}
	c.order = c.order[:0]
	c.bound = ""
	for ok := it.First(); ok; ok = it.Next() {
		date := string(it.Key()[len(c.prefix):])
		if len(c.order) == loadNear {
			c.bound = date
			break
		}
		c.near[date] = struct{}{}
		c.order = append(c.order, date)
	}
	return it.Close()
}

// after is the first key behind all with a prefix, which doesn't end the order.
func after(prefix []byte) []byte {
	b := slices.Clone(prefix)
	b[len(b)-1]++
	return b
}

// dates is a heap, the first date at the top.
type dates []string

func (d dates) Len() int           { return len(d) }
func (d dates) Less(i, j int) bool { return d[i] < d[j] }
func (d dates) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dates) Push(x any)        { *d = append(*d, x.(string)) }
func (d *dates) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

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
// the disk; from bound on all are on disk, and none is before it.
type calendar struct {
	prefix []byte
	near   map[string]struct{}
	order  dates  // has all of near, and some that have been removed
	bound  string // the first date that may be on disk; "": none is
}

// A date is a time and a key, encoded so that they sort by time.
func dateOf(at element.Timestamp, key string) string {
	b := make([]byte, 8, 8+len(key))
	binary.BigEndian.PutUint64(b, uint64(at)^1<<63)
	return string(append(b, key...))
}

func timeOf(date string) element.Timestamp {
	return element.Timestamp(binary.BigEndian.Uint64([]byte(date[:8])) ^ 1<<63)
}

const (
	mostNear = 4096 // dates in memory; beyond, half of them go to disk
	loadNear = 1024 // dates that come back from disk at once
)

func (c *calendar) onDisk(date string) bool { return c.bound != "" && date >= c.bound }

func (c *calendar) name(date string) []byte { return append(slices.Clip(c.prefix), date...) }

// add adds a date that isn't there.
func (c *calendar) add(date string, b *pebble.Batch) error {
	if c.onDisk(date) {
		return b.Set(c.name(date), nil, nil)
	}
	if c.near == nil {
		c.near = map[string]struct{}{}
	}
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
	c.bound = all[half]
	for _, date := range all[half:] {
		delete(c.near, date)
		if err := b.Set(c.name(date), nil, nil); err != nil {
			return err
		}
	}
	c.order = slices.Clone(all[:half]) // what is sorted is a heap
	return nil
}

// remove removes a date that is there.
func (c *calendar) remove(date string, b *pebble.Batch) error {
	if c.onDisk(date) {
		return b.Delete(c.name(date), nil)
	}
	delete(c.near, date)
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

// load takes the first dates on disk into memory. All that was written must be
// in the tree.
func (c *calendar) load(db *pebble.DB, b *pebble.Batch) error {
	from := c.name(c.bound)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: after(c.prefix)})
	if err != nil {
		return err
	}
	c.order = c.order[:0]
	n := 0
	to := after(c.prefix)
	c.bound = ""
	for ok := it.First(); ok; ok = it.Next() {
		if n == loadNear {
			to = slices.Clone(it.Key())
			c.bound = string(it.Key()[len(c.prefix):])
			break
		}
		date := string(it.Key()[len(c.prefix):])
		c.near[date] = struct{}{}
		c.order = append(c.order, date)
		n++
	}
	if err := it.Close(); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	return b.DeleteRange(from, to, nil)
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

package side

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"

	"github.com/cespare/xxhash/v2"

	"trestle/coders"
	"trestle/internal/membudget"
)

const (
	firstChunk = 16 << 10 // of the arena; each is twice the one before
	maxChunk   = 1 << 20
	recBytes   = 2 * 32 // one rec, and its place while sorting
	// maxSegmentBytes keeps merging's buffers small.
	maxSegmentBytes = 64 << 10
	// leastRun is what a builder takes even if the budget is gone, so that a
	// full process writes runs that are worth merging.
	leastRun = 4 << 20
	// windowBytes is about what a window costs in View.windows besides its
	// encoding.
	windowBytes = 64
)

// A rec is one element in one window. Recs are sorted by window, hash and key,
// then as they came.
type rec struct {
	hash   uint64
	chunk  uint32 // of the arena
	at     uint32 // in the chunk
	keyLen uint32
	len    uint32 // of key and value
	window uint32
	first  bool // of its group; set when sorted
}

// A builder gathers elements in an arena and writes them to sorted runs when
// the budget is used up.
type builder struct {
	cut     *coders.Windowed
	access  Access
	opt     Options
	windows map[string]uint32
	lastWin []byte // the window seen last, and its number
	lastNum uint32

	chunks [][]byte // the arena; len is what is used of each
	full   int      // chunks before this one are full
	recs   []rec
	sorted bool // recs are in order so far

	taken, windowsTaken int64
	runs                []*os.File
}

// Build reads a collection of elements that cut can cut and returns its view.
// It fails with src's error, and if elements are malformed.
func Build(ctx context.Context, src Source, cut *coders.Windowed, access Access, opt Options) (*View, error) {
	if access == Multimap && !cut.Elem().IsKV() {
		return nil, fmt.Errorf("side input: a multimap must have a kv coder, but has %s (%s)", cut.Elem().URN(), cut.Elem().ID())
	}
	b := &builder{cut: cut, access: access, opt: opt, windows: make(map[string]uint32), sorted: true}
	if b.opt.PageBytes == 0 {
		b.opt.PageBytes = defaultPageBytes
	}
	if b.opt.leastRun == 0 {
		b.opt.leastRun = leastRun
	}
	if b.opt.hash == nil {
		b.opt.hash = xxhash.Sum64
	}
	v, err := b.build(ctx, src)
	for _, run := range b.runs {
		run.Close()
	}
	if err != nil {
		opt.Budget.Give(b.taken + b.windowsTaken)
		return nil, err
	}
	return v, nil
}

func (b *builder) build(ctx context.Context, src Source) (*View, error) {
	for {
		elems, _, err := src.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := b.addBlock(elems); err != nil {
			return nil, err
		}
	}
	if len(b.runs) == 0 {
		return b.inMemory(), nil
	}
	return b.onDisk(ctx)
}

// addBlock copies a block's elements.
func (b *builder) addBlock(elems []byte) error {
	var v coders.Value
	for len(elems) > 0 {
		rest, err := b.cut.Next(elems, &v)
		if err != nil {
			return fmt.Errorf("side input: element: %w", err)
		}
		if v.NumWindows > 0 {
			if err := b.add(&v); err != nil {
				return err
			}
		}
		elems = rest
	}
	return nil
}

// add copies one element and notes it for each of its windows.
func (b *builder) add(v *coders.Value) error {
	if err := b.reserve(len(v.Elem), v.NumWindows); err != nil {
		return err
	}
	r := rec{len: uint32(len(v.Elem))}
	if b.access == Multimap {
		r.keyLen = uint32(v.KeyLen)
		r.hash = b.opt.hash(v.Key())
	}
	if b.full < len(b.chunks) {
		r.chunk, r.at = uint32(b.full), uint32(len(b.chunks[b.full]))
		b.chunks[b.full] = append(b.chunks[b.full], v.Elem...)
	}
	windows := v.Windows
	for range v.NumWindows {
		win, rest, err := b.cut.CutWindow(windows)
		if err != nil {
			return fmt.Errorf("side input: window: %w", err)
		}
		windows = rest
		r.window = b.window(win)
		if n := len(b.recs); n > 0 && b.sorted {
			b.sorted = compareRecs(b.recs[n-1], r) <= 0
		}
		b.recs = append(b.recs, r)
	}
	return nil
}

// window returns the window's number.
func (b *builder) window(win []byte) uint32 {
	if b.lastWin != nil && bytes.Equal(win, b.lastWin) {
		return b.lastNum
	}
	num, ok := b.windows[string(win)]
	if !ok {
		num = uint32(len(b.windows))
		b.windows[string(win)] = num
		cost := int64(windowBytes + len(win))
		b.opt.Budget.Take(cost)
		b.windowsTaken += cost
	}
	b.lastWin = append(b.lastWin[:0], win...)
	if b.lastWin == nil { // the global window has no bytes
		b.lastWin = []byte{}
	}
	b.lastNum = num
	return num
}

// reserve makes room for an element of size bytes in some windows, by writing
// what there is to disk if need be.
func (b *builder) reserve(size, windows int) error {
	if b.fits(size) && len(b.recs)+windows <= cap(b.recs) {
		return nil
	}
	if b.grow(size, windows, b.opt.Budget.TryTake) {
		return nil
	}
	if b.held() >= b.opt.leastRun {
		if err := b.spill(); err != nil {
			return err
		}
	}
	b.grow(size, windows, func(n int64) bool { b.opt.Budget.Take(n); return true })
	return nil
}

// fits reports whether the arena has room for size bytes, and moves on to the
// next chunk if that has.
func (b *builder) fits(size int) bool {
	for ; b.full < len(b.chunks); b.full++ {
		if cap(b.chunks[b.full])-len(b.chunks[b.full]) >= size {
			return true
		}
	}
	return size == 0
}

// grow gets buffers if take allows.
func (b *builder) grow(size, windows int, take func(int64) bool) bool {
	if !b.fits(size) {
		n := max(min(firstChunk<<min(len(b.chunks), 20), maxChunk), size)
		if !take(int64(n)) {
			return false
		}
		b.taken += int64(n)
		b.chunks = append(b.chunks, make([]byte, 0, n))
	}
	if need := len(b.recs) + windows; need > cap(b.recs) {
		more := max(need, 2*cap(b.recs), 1024)
		if !take(int64(more) * recBytes) {
			return false
		}
		recs := make([]rec, len(b.recs), more)
		copy(recs, b.recs)
		b.taken += int64(more-cap(b.recs)) * recBytes
		b.opt.Budget.Give(int64(cap(b.recs)) * recBytes)
		b.recs = recs
	}
	return true
}

// held is the number of bytes of the elements and recs gathered.
func (b *builder) held() int64 {
	n := int64(len(b.recs)) * recBytes
	for _, c := range b.chunks {
		n += int64(len(c))
	}
	return n
}

func compareRecs(x, y rec) int {
	if x.window != y.window {
		return cmp.Compare(x.window, y.window)
	}
	if x.hash != y.hash {
		return cmp.Compare(x.hash, y.hash)
	}
	if x.chunk != y.chunk {
		return cmp.Compare(x.chunk, y.chunk)
	}
	return cmp.Compare(x.at, y.at)
}

// sortRecs returns recs in order. It first spreads them over many buckets,
// keeping the order in each, so that what is left are short sorts that stay in
// the processor's cache, and none where a bucket is in order already.
func sortRecs(recs []rec, windows int, byHash bool) []rec {
	const buckets = 1 << 11
	perWindow := 1
	if byHash {
		perWindow = max(1, buckets/windows)
	}
	fold := max(1, windows/buckets) // windows that share a bucket
	bucket := func(r *rec) int {
		hi, _ := bits.Mul64(r.hash, uint64(perWindow))
		return int(r.window)/fold*perWindow + int(hi)
	}
	ends := make([]int, windows/fold*perWindow+perWindow+1)
	for i := range recs {
		ends[bucket(&recs[i])+1]++
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	sorted := make([]rec, len(recs), cap(recs))
	for i := range recs {
		at := &ends[bucket(&recs[i])] // so far where the bucket begins
		sorted[*at] = recs[i]
		*at++
	}
	from := 0
	for _, end := range ends {
		if end > from {
			slices.SortFunc(sorted[from:end], compareRecs)
			from = end
		}
	}
	return sorted
}

// sort puts recs in order and marks where groups begin. Only where different
// keys have one hash are keys compared to sort them.
func (b *builder) sort() {
	if !b.sorted {
		b.recs = sortRecs(b.recs, len(b.windows), b.access == Multimap)
		b.sorted = true
	}
	for lo := 0; lo < len(b.recs); {
		mixed := false
		hi := lo + 1
		for hi < len(b.recs) && b.recs[hi].window == b.recs[lo].window && b.recs[hi].hash == b.recs[lo].hash {
			mixed = mixed || !bytes.Equal(keyOf(b.chunks, &b.recs[hi]), keyOf(b.chunks, &b.recs[lo]))
			hi++
		}
		group := b.recs[lo:hi]
		if mixed {
			slices.SortStableFunc(group, func(x, y rec) int {
				return bytes.Compare(keyOf(b.chunks, &x), keyOf(b.chunks, &y))
			})
		}
		for i := range group {
			group[i].first = i == 0 || mixed && !bytes.Equal(keyOf(b.chunks, &group[i]), keyOf(b.chunks, &group[i-1]))
		}
		lo = hi
	}
}

func keyOf(chunks [][]byte, r *rec) []byte {
	if r.len == 0 {
		return nil
	}
	return chunks[r.chunk][r.at : r.at+r.keyLen]
}

func valueOf(chunks [][]byte, r *rec) []byte {
	if r.len == 0 {
		return nil
	}
	return chunks[r.chunk][r.at+r.keyLen : r.at+r.len]
}

func (b *builder) inMemory() *View {
	b.sort()
	spare := int64(cap(b.recs)) * recBytes
	if cap(b.recs)-len(b.recs) > len(b.recs)/4 {
		b.recs = append(make([]rec, 0, len(b.recs)), b.recs...)
	}
	spare -= int64(cap(b.recs)) * recBytes / 2 // nothing will be sorted any more
	b.opt.Budget.Give(spare)
	b.taken -= spare
	return b.view(&memory{chunks: b.chunks, recs: b.recs, segment: b.segment()})
}

func (b *builder) view(s store) *View {
	bytes, budget := b.taken+b.windowsTaken, b.opt.Budget
	return &View{access: b.access, page: b.opt.PageBytes, hash: b.opt.hash, windows: b.windows, store: s,
		bytes: bytes, free: func() { budget.Give(bytes) }}
}

// segment is how many bytes of a group one segment holds, unless one value is
// longer.
func (b *builder) segment() int { return min(maxSegmentBytes, b.opt.PageBytes) }

// take counts bytes that the builder can't do without.
func (b *builder) take(n int64) {
	b.opt.Budget.Take(n)
	b.taken += n
}

func give(budget *membudget.Budget, taken *int64) {
	budget.Give(*taken)
	*taken = 0
}

package catalog

import "math"

// SketchRanges is the greatest number of ranges in a Sketch.
const SketchRanges = 128

// A Sketch tells roughly how many bytes are in each sub-partition: one byte
// for each of at most SketchRanges equal ranges of sub-partitions, on a scale
// whose steps are 5 %, so that a record stays small whatever the job.
type Sketch []byte

// sketchBase is the scale's step: 255 steps reach 250 GB.
const sketchBase = 1.1

// SketchOf makes the sketch of the bytes in each sub-partition.
func SketchOf(bySub []int64) Sketch {
	ranges := min(len(bySub), SketchRanges)
	s := make(Sketch, ranges)
	for r := range s {
		lo, hi := r*len(bySub)/ranges, (r+1)*len(bySub)/ranges
		var sum int64
		for _, b := range bySub[lo:hi] {
			sum += b
		}
		s[r] = sketchEncode(sum)
	}
	return s
}

// A SketchSum adds up what many tasks wrote of one dataset.
type SketchSum struct {
	bySub  []int64
	ranges int                 // of the sketches in sums
	sums   [SketchRanges]int64 // not yet in bySub: spreading is done once for all
}

// NewSketchSum begins a sum over that many sub-partitions.
func NewSketchSum(subpartitions int) *SketchSum {
	return &SketchSum{bySub: make([]int64, subpartitions)}
}

// Add adds a sketch.
func (t *SketchSum) Add(s Sketch) {
	if len(s) > min(SketchRanges, len(t.bySub)) {
		return // it isn't of this dataset
	}
	if len(s) != t.ranges {
		t.spread()
		t.ranges = len(s)
	}
	for r, b := range s {
		t.sums[r] += sketchDecode[b]
	}
}

// BySub is the estimate of the bytes in each sub-partition so far.
func (t *SketchSum) BySub() []int64 {
	t.spread()
	return t.bySub
}

func (t *SketchSum) spread() {
	for r, bytes := range t.sums[:t.ranges] {
		lo, hi := r*len(t.bySub)/t.ranges, (r+1)*len(t.bySub)/t.ranges
		for i := lo; i < hi && bytes > 0; i++ {
			n := bytes / int64(hi-i) // what is left, spread over who is left
			t.bySub[i] += n
			bytes -= n
		}
	}
	clear(t.sums[:])
}

// sketchDecode[b] is the number of bytes that b stands for.
var sketchDecode = func() (t [256]int64) {
	for b := 1; b < len(t); b++ {
		t[b] = int64(math.Round(math.Pow(sketchBase, float64(b)) * 8))
	}
	return t
}()

func sketchEncode(bytes int64) byte {
	if bytes <= 0 {
		return 0
	}
	lo, hi := 1, 255 // the nearest entry, at least 1: what holds something is never told as empty
	for lo < hi {
		mid := (lo + hi) / 2
		if sketchDecode[mid] < bytes {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo > 1 && bytes-sketchDecode[lo-1] < sketchDecode[lo]-bytes {
		lo--
	}
	return byte(lo)
}

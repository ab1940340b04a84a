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

// AddTo adds the sketch's estimates to bySub, which has one entry for each
// sub-partition.
func (s Sketch) AddTo(bySub []int64) {
	ranges := len(s)
	if ranges == 0 || ranges > len(bySub) {
		return
	}
	for r, b := range s {
		if b == 0 {
			continue
		}
		lo, hi := r*len(bySub)/ranges, (r+1)*len(bySub)/ranges
		bytes := sketchDecode[b]
		for i := lo; i < hi; i++ {
			n := bytes / int64(hi-i) // what is left, spread over who is left
			bySub[i] += n
			bytes -= n
		}
	}
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

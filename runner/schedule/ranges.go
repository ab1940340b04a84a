package schedule

import "sort"

// balance cuts the sub-partitions, whose bytes are given, into at most n
// contiguous ranges so that the greatest is as small as can be. It returns the
// cuts: range i is [cuts[i], cuts[i+1]).
func balance(bySub []int64, n int) []int {
	n = min(n, len(bySub))
	var sum, greatest int64
	for _, b := range bySub {
		sum, greatest = sum+b, max(greatest, b)
	}
	if sum == 0 {
		return []int{0, len(bySub)}
	}
	// The least limit that n ranges can keep to: between an even share, or the
	// greatest single one, and everything.
	lo := max(greatest, (sum+int64(n)-1)/int64(n))
	limit := lo + int64(sort.Search(int(sum-lo), func(more int) bool {
		return countRanges(bySub, lo+int64(more)) <= n
	}))
	cuts := []int{0}
	var in int64
	for i, b := range bySub {
		if in+b > limit && in > 0 {
			cuts, in = append(cuts, i), 0
		}
		in += b
	}
	return append(cuts, len(bySub))
}

// countRanges is the number of ranges that keep to the limit when each is
// filled before the next is begun.
func countRanges(bySub []int64, limit int64) int {
	n, in := 1, int64(0)
	for _, b := range bySub {
		if in+b > limit && in > 0 {
			n, in = n+1, 0
		}
		in += b
	}
	return n
}

// even cuts [0, size) into n parts that differ by one at most.
func even(size, n int) []int {
	cuts := make([]int, n+1)
	for i := range cuts {
		cuts[i] = i * size / n
	}
	return cuts
}

// pad makes n ranges of fewer by adding empty ones at the end.
func pad(cuts []int, n int) []int {
	for len(cuts) < n+1 {
		cuts = append(cuts, cuts[len(cuts)-1])
	}
	return cuts
}

// pointwise gives partitions to n readers: as many neighbours to each where
// there are more partitions than readers, else one each to the first.
func pointwise(partitions, n int) []int {
	if partitions >= n {
		return even(partitions, n)
	}
	cuts := make([]int, n+1)
	for i := range cuts {
		cuts[i] = min(i, partitions)
	}
	return cuts
}

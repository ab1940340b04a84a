package window

import (
	"cmp"
	"fmt"
	"slices"
)

// A Merge says that some windows become one.
type Merge struct {
	Into Window
	From []Window // in order; Into may be one of them
}

// Overlapping tells how windows merge by the rule of sessions: intervals that
// share a time become one that spans them. Intervals that only touch don't.
// Windows that stay as they are aren't mentioned. The order of windows doesn't
// matter, and the result is in order.
func Overlapping(windows []Window) []Merge {
	sorted := slices.Clone(windows)
	slices.SortFunc(sorted, func(a, b Window) int {
		if c := cmp.Compare(a.Start, b.Start); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	sorted = slices.Compact(sorted)
	var merges []Merge
	for first := 0; first < len(sorted); {
		end, next := sorted[first].End, first+1
		for next < len(sorted) && sorted[next].Start < end {
			end = max(end, sorted[next].End)
			next++
		}
		if next > first+1 {
			from := slices.Clone(sorted[first:next])
			slices.SortFunc(from, Window.Compare)
			merges = append(merges, Merge{Into: Window{Start: sorted[first].Start, End: end}, From: from})
		}
		first = next
	}
	return merges
}

// Check tells whether merges can be what became of windows: each window
// becomes part of one other at most, none is made up, and no two that differ
// become the same without being merged. An SDK's own merging goes through it.
func Check(windows []Window, merges []Merge) error {
	const stays = -1
	merged := make(map[Window]int, len(windows)) // by window, the merge it is in
	for _, w := range windows {
		merged[w] = stays
	}
	into := make(map[Window]bool, len(merges))
	for i, m := range merges {
		if len(m.From) == 0 {
			return fmt.Errorf("merge_windows made %s of no window", m.Into)
		}
		if into[m.Into] {
			return fmt.Errorf("merge_windows made %s twice", m.Into)
		}
		into[m.Into] = true
		for _, w := range m.From {
			at, ok := merged[w]
			if !ok {
				return fmt.Errorf("merge_windows merged %s, which it was not given", w)
			}
			if at != stays {
				return fmt.Errorf("merge_windows merged %s twice", w)
			}
			merged[w] = i
		}
	}
	for i, m := range merges {
		if at, ok := merged[m.Into]; ok && at != i {
			return fmt.Errorf("merge_windows made %s, which it was given, of other windows", m.Into)
		}
	}
	return nil
}

package task

import (
	"slices"

	"trestle/coders"
	"trestle/runner/bundle"
	"trestle/runner/jobgraph"

	"github.com/cespare/xxhash/v2"
)

// A stage with user state waits for an answer with almost each element. Its
// bundles are cut by keys into parts that run at once, so that one works while
// another waits. Each key is in one part, with all that a bundle has of it and in
// its order: state and timers know nothing of it.

// mostApart is how many parts of a bundle run at once.
const mostApart = 16

// leastPart is how many elements or timers are worth a bundle of their own.
const leastPart = 16

// parts is how many parts so many elements or timers are worth, at least 1.
func (r *run) parts(n int) int {
	if r.prog.Node.Root != jobgraph.RootKeyed || !r.prog.Apart() || r.prog.Stream != nil && r.prog.Stream.Played {
		return 1 // what a test plays, it may want to see in order
	}
	return max(1, min(mostApart, n/leastPart))
}

// divide cuts n things of different keys into ranges, none where n is 0.
func (r *run) divide(n int) (ranges [][2]int) {
	parts := min(r.parts(n), n)
	for i := range parts {
		ranges = append(ranges, [2]int{i * n / parts, (i + 1) * n / parts})
	}
	return ranges
}

// split cuts a bundle's elements into parts. More than one are copies.
func (r *run) split(in *bundle.Input) ([]*bundle.Input, error) {
	n := r.parts(in.Elements)
	if n == 1 || len(in.Timers) > 0 || in.Items != nil {
		return []*bundle.Input{in}, nil
	}
	return splitByKey(in, r.prog.Input, n)
}

// keyBuckets is how many sets of keys are spread over the parts: by what there
// is of each, so that no part is much longer than others.
const keyBuckets = 64

func splitByKey(in *bundle.Input, w *coders.Windowed, n int) ([]*bundle.Input, error) {
	var sizes [keyBuckets]int
	bucketOf := make([]uint8, 0, in.Elements)
	var v coders.Value
	for _, chunk := range in.Chunks {
		for len(chunk) > 0 {
			var err error
			if chunk, err = w.Next(chunk, &v); err != nil {
				return nil, err
			}
			// The low bits: by the high ones tasks share keys.
			b := uint8(xxhash.Sum64(v.Key()) % keyBuckets)
			bucketOf = append(bucketOf, b)
			sizes[b]++
		}
	}
	partOf := spread(sizes[:], n)
	all := make([]bundle.Input, n)
	chunks := make([][]byte, n)
	at := 0
	for _, chunk := range in.Chunks {
		for len(chunk) > 0 {
			chunk, _ = w.Next(chunk, &v) // it went well before
			p := partOf[bucketOf[at]]
			at++
			chunks[p] = append(chunks[p], v.Raw...)
			all[p].Elements++
			all[p].Bytes += int64(len(v.Raw))
			if len(chunks[p]) >= chunkSize {
				all[p].Chunks = append(all[p].Chunks, chunks[p])
				chunks[p] = nil
			}
		}
	}
	var parts []*bundle.Input
	for p := range all {
		if len(chunks[p]) > 0 {
			all[p].Chunks = append(all[p].Chunks, chunks[p])
		}
		if all[p].Elements > 0 {
			parts = append(parts, &all[p])
		}
	}
	return parts, nil
}

// spread gives each size its place among n, those that are large first, each to
// where there is least.
func spread(sizes []int, n int) (place []int) {
	order := make([]int, len(sizes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return sizes[b] - sizes[a] })
	place = make([]int, len(sizes))
	sums := make([]int, n)
	for _, i := range order {
		least := 0
		for p := range sums {
			if sums[p] < sums[least] {
				least = p
			}
		}
		place[i] = least
		sums[least] += sizes[i]
	}
	return place
}

// A timerBundle collects the timers of a bundle.
type timerBundle struct {
	families  []bundle.Family
	perFamily [][]byte
	bytes     int64
}

func (b *timerBundle) add(family int, raw []byte) {
	if b.perFamily == nil {
		b.perFamily = make([][]byte, len(b.families))
	}
	b.perFamily[family] = append(b.perFamily[family], raw...)
	b.bytes += int64(len(raw))
}

func (b *timerBundle) input() *bundle.Input {
	in := &bundle.Input{Bytes: b.bytes}
	for i, raw := range b.perFamily {
		if len(raw) > 0 {
			in.Timers = append(in.Timers, bundle.TimerChunk{Transform: b.families[i].Transform, Family: b.families[i].ID, Bytes: raw})
		}
	}
	return in
}

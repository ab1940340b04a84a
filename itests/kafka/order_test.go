package kafka

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() { beam.RegisterType(reflect.TypeFor[orderFn]()) }

// A place is where a record stands.
type place struct {
	partition int32
	offset    int64
}

// ordered is what orderFn has seen in this process, a list for each bundle.
var ordered struct {
	sync.Mutex
	bundles [][]place
}

// orderFn notes in which order records come.
type orderFn struct{ seen []place }

func (f *orderFn) StartBundle(context.Context) { f.seen = nil }

func (f *orderFn) ProcessElement(m kafka.Message) {
	f.seen = append(f.seen, place{m.Partition, m.Offset})
}

func (f *orderFn) FinishBundle(context.Context) {
	ordered.Lock()
	defer ordered.Unlock()
	ordered.bundles = append(ordered.bundles, f.seen)
}

// TestOrder shows what is promised of the order: a partition is read in pieces,
// several at a time, and within a piece the records come as Kafka has them, none
// left out: so whoever stands behind the read in the same bundle sees ranges, and
// nothing else. The Java client is the oracle.
func TestOrder(t *testing.T) {
	b, tool := need(t)
	const partitions, each = 3, 300_000
	topic := newTopic(t, tool, partitions)
	do(t, tool, "producer ord linger.ms=20 batch.size=262144 compression.type=lz4\nproducer tx transactional.id=ord-"+topic)
	for p := range partitions {
		do(t, tool, strings.NewReplacer("TOPIC", topic, "PART", fmt.Sprint(p)).Replace(fmt.Sprintf(`
			bulk ord TOPIC PART %d 20 0
			flush ord
			begin tx
			bulk tx TOPIC PART 500 20 0
			abort tx
			bulk ord TOPIC PART %d 20 %d
			flush ord`, each/2, each/2, each/2)))
	}
	do(t, tool, "close ord\nclose tx")

	rank := map[place]int{} // of a record in its partition
	for p, lines := range oracle(t, tool, topic) {
		for i, l := range lines {
			var at place
			if _, err := fmt.Sscan(l, &at.partition, &at.offset); err != nil || at.partition != p {
				t.Fatal(l, err)
			}
			rank[at] = i
		}
	}
	ordered.bundles = nil
	pipeline, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, &orderFn{}, kafka.Replay{Source: source(b, topic)}.Messages(s))
	run(t, serve(t), pipeline)

	var pieces [partitions][][2]int // the ranks that a piece begins and ends with
	for _, seen := range ordered.bundles {
		for from := 0; from < len(seen); {
			to := from + 1
			for to < len(seen) && seen[to].partition == seen[from].partition && rank[seen[to]] == rank[seen[to-1]]+1 {
				to++
			}
			p := seen[from].partition
			pieces[p] = append(pieces[p], [2]int{rank[seen[from]], rank[seen[to-1]] + 1})
			from = to
		}
	}
	for p, all := range pieces {
		slices.SortFunc(all, func(a, b [2]int) int { return a[0] - b[0] })
		next := 0
		for _, piece := range all {
			if piece[0] != next {
				t.Fatalf("partition %d: a piece begins with record %d, the last one ended with %d", p, piece[0], next-1)
			}
			next = piece[1]
		}
		// More than that could only be records that came one by one.
		if next != each || len(all) > 200 {
			t.Errorf("partition %d: %d records in %d pieces, want %d in few", p, next, len(all), each)
		}
		t.Logf("partition %d came in %d pieces", p, len(all))
	}
}

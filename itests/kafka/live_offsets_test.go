package kafka

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeFor[noteFn]())
	register.Emitter2[beam.EventTime, kafka.Message]()
}

// notes are what noteFns of this process have seen, by their names.
var notes struct {
	mu    sync.Mutex
	seen  map[string][]string
	gates map[string]*gate
}

// A gate holds a bundle up, and then lets it fail.
type gate struct {
	reached, open chan struct{}
	once          sync.Once
}

var errGate = errors.New("the bundle was to fail")

// noteFn notes the keys of records, and stops at those that have a gate.
type noteFn struct{ Name string }

func (f *noteFn) ProcessElement(m kafka.Message) error {
	key := string(*m.Key)
	notes.mu.Lock()
	g := notes.gates[key]
	delete(notes.gates, key)
	if g == nil {
		if notes.seen == nil {
			notes.seen = map[string][]string{}
		}
		notes.seen[f.Name] = append(notes.seen[f.Name], key)
	}
	notes.mu.Unlock()
	if g == nil {
		return nil
	}
	close(g.reached)
	<-g.open
	return errGate
}

func seen(name string) []string {
	notes.mu.Lock()
	defer notes.mu.Unlock()
	return slices.Sorted(slices.Values(notes.seen[name]))
}

// newGate makes one at a key.
func newGate(t *testing.T, key string) *gate {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	notes.mu.Lock()
	defer notes.mu.Unlock()
	if notes.gates == nil {
		notes.gates = map[string]*gate{}
	}
	notes.gates[key] = g
	t.Cleanup(g.release)
	return g
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// noting is a pipeline that notes what it reads.
func noting(l kafka.Live, name string) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, &noteFn{name}, l.Messages(s))
	return p
}

// numbered are events from one number to another in each of the partitions, and
// their keys.
func numbered(partitions, from, to int) (all []event, keys []string) {
	for i := from; i < to; i++ {
		for p := range partitions {
			e := event{int32(p), yesterday().Add(time.Duration(i) * time.Second), fmt.Sprintf("%d:%04d", p, i)}
			all, keys = append(all, e), append(keys, e.key)
		}
	}
	slices.Sort(keys)
	return all, keys
}

// TestLiveOffsets commits offsets when bundles have been committed and not
// before, and a job that is started later goes on there. An independent client
// looks at the group.
func TestLiveOffsets(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	const partitions = 2
	topic := newTopic(t, tool, partitions)
	group := "group-" + topic
	l := live(b, topic)
	l.Source.Group, l.Commit, l.IdleAfter = group, true, -1
	committed := func(n int64) func() bool {
		return func() bool {
			return maps.Equal(groupOffsets(t, b, group, topic), map[int32]int64{0: n, 1: n})
		}
	}
	w := newWriter(t, b, topic)
	first, _ := numbered(partitions, 0, 100)
	w.write(first...)
	running := startLive(t, job, noting(l, topic))
	running.await(time.Minute, "100 records of each partition are committed", committed(100))

	// The bundle that has the gate's record is held up, and fails then. Nothing of
	// it counts before it has run again.
	g := newGate(t, "0:0120")
	more, _ := numbered(partitions, 100, 150)
	w.write(more...)
	<-g.reached
	held := groupOffsets(t, b, group, topic)[0]
	if held > 120 {
		t.Errorf("offset %d is committed, and record 120 is under way", held)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 30 { // longer than it takes to commit what may be
		<-tick.C
		if now := groupOffsets(t, b, group, topic)[0]; now > 120 {
			t.Fatalf("offset %d is committed while the bundle with record 120 is held up", now)
		}
	}
	g.release()
	running.await(time.Minute, "what failed has run again, and is committed", committed(150))

	last, _ := numbered(partitions, 150, 170)
	w.write(last...)
	_, want := numbered(partitions, 0, 170)
	running.await(time.Minute, "all is read", func() bool { return len(slices.Compact(seen(topic))) == len(want) })
	running.drain()
	await(t, 10*time.Second, "the end is committed", committed(170))
	mustBe(t, slices.Compact(seen(topic)), want)

	// Another job goes on where the group has left off; one that is not to commit
	// doesn't.
	rest, want := numbered(partitions, 170, 180)
	w.write(rest...)
	for i, commit := range []bool{false, true} {
		name := fmt.Sprintf("%s again %d", topic, i)
		again := l
		again.Commit, again.Source.Reset = commit, kafka.FromNowhere
		running := startLive(t, job, noting(again, name))
		running.await(time.Minute, "what is new is read", func() bool { return len(seen(name)) >= len(want) })
		if commit {
			running.await(time.Minute, "and committed", committed(180))
		}
		running.drain()
		mustBe(t, seen(name), want)
		if !commit && !committed(170)() {
			t.Errorf("offsets %v are committed, and nobody asked for it", groupOffsets(t, b, group, topic))
		}
	}
}

// TestLiveStarts says where reading begins, as Kafka's own clients have it.
func TestLiveStarts(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 2)
	events, _ := numbered(2, 0, 10)
	newWriter(t, b, topic).write(events...)
	do(t, tool, "delete "+topic+" 0 3")
	at := yesterday().Add(7 * time.Second).UnixMilli()
	starts := func(change func(*kafka.Live)) (map[int32]int64, kafka.Bounds, error) {
		l := live(b, topic)
		change(&l)
		bounds, err := l.Resolve(t.Context())
		all := map[int32]int64{}
		for _, r := range bounds.Ranges {
			all[r.Partition] = r.Start
		}
		return all, bounds, err
	}
	for name, test := range map[string]struct {
		change func(*kafka.Live)
		want   map[int32]int64
	}{
		"earliest":     {func(*kafka.Live) {}, map[int32]int64{0: 3, 1: 0}},
		"latest":       {func(l *kafka.Live) { l.Source.Reset = kafka.FromLatest }, map[int32]int64{0: 10, 1: 10}},
		"nothing said": {func(l *kafka.Live) { l.Source.Reset = "" }, map[int32]int64{0: 10, 1: 10}},
		"time":         {func(l *kafka.Live) { l.Source.Start.Time = &at }, map[int32]int64{0: 7, 1: 7}},
		"offsets":      {func(l *kafka.Live) { l.Source.Start.Offsets = map[string]int64{"1": 4} }, map[int32]int64{0: 3, 1: 4}},
		"a new group":  {func(l *kafka.Live) { l.Source.Group = "new" }, map[int32]int64{0: 3, 1: 0}},
	} {
		if got, bounds, err := starts(test.change); err != nil || !maps.Equal(got, test.want) || len(bounds.Warnings) > 0 {
			t.Errorf("%s: %v (%v, %v), want %v", name, got, bounds.Warnings, err, test.want)
		}
	}
	commitAs(t, b, "old", topic, map[int32]int64{0: 1, 1: 6})
	got, bounds, err := starts(func(l *kafka.Live) { l.Source.Group = "old" })
	if err != nil || !maps.Equal(got, map[int32]int64{0: 3, 1: 6}) || len(bounds.Warnings) != 1 {
		t.Errorf("a group whose offset is gone: %v, %v, %v", got, bounds.Warnings, err)
	}
	for want, change := range map[string]func(*kafka.Live){
		"has left off at 1, and the partition has the offsets from 3 to 10": func(l *kafka.Live) { l.Source.Group, l.Source.Reset = "old", kafka.FromNowhere },
		"no offset is known to start with":                                  func(l *kafka.Live) { l.Source.Reset = kafka.FromNowhere },
		"the records from 2 to 2 have been deleted":                         func(l *kafka.Live) { l.Source.Start.Offsets = map[string]int64{"0": 2} },
		"ends at offset 10 and is to be read from 11 on":                    func(l *kafka.Live) { l.Source.Start.Offsets = map[string]int64{"1": 11} },
		"no consumer group is named":                                        func(l *kafka.Live) { l.Commit = true },
		"has no stop":                                                       func(l *kafka.Live) { l.Source.Stop.Time = &at },
	} {
		if _, _, err := starts(change); err == nil || !containsText(err, want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// commitAs commits offsets for a group by an independent client.
func commitAs(t *testing.T, b *broker.Broker, group, topic string, offsets map[int32]int64) {
	t.Helper()
	answer, err := commitRequest(group, topic, offsets).RequestWith(t.Context(), client(t, b))
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range answer.Topics {
		for _, p := range of.Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("partition %d: error %d", p.Partition, p.ErrorCode)
			}
		}
	}
}

package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/transforms/kafka"
)

// TestKinds reads what records can be like: null and empty keys and values,
// headers that come twice and null ones, old times, every codec.
func TestKinds(t *testing.T) {
	b, tool := need(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := newTopic(t, tool, 1)
			do(t, tool, strings.NewReplacer("ID", "kinds-"+codec, "TOPIC", topic).Replace(`
				producer ID compression.type=`+codec+` linger.ms=50
				send ID TOPIC 0 1000 - `+word("null key")+`
				send ID TOPIC 0 999 `+word("null value")+` -
				send ID TOPIC 0 1001 - -
				send ID TOPIC 0 0 ~ ~
				send ID TOPIC 0 - `+word("now")+` `+word("now")+`
				send ID TOPIC 0 5 `+word("k")+` `+word(strings.Repeat("long ", 10000))+` h=`+word("1")+` h=`+word("2")+` n=- e=~ ü=`+word("ü")+`
				bulk ID TOPIC 0 3000 100 0
				close ID`))
			s := source(b, topic)
			got := readAll(t, s, resolve(t, s))
			mustEqual(t, got, oracle(t, tool, topic))
			if n := len(got[0]); n != 3006 {
				t.Errorf("%d records, want 3006", n)
			}
		})
	}
}

// TestLogAppendTime reads times that the broker has set.
func TestLogAppendTime(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1, "message.timestamp.type=LogAppendTime")
	do(t, tool, "producer lat\nbulk lat "+topic+" 0 100 10 0\nclose lat")
	s := source(b, topic)
	mustEqual(t, readAll(t, s, resolve(t, s)), oracle(t, tool, topic))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range resolve(t, s).Ranges {
		if err := kafka.ReadRange(ctx, s.Reading(), r, func(rec *kafka.Record) error {
			if !rec.ByLog {
				return fmt.Errorf("record %d doesn't say that its time is the log's", rec.Offset)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTransactions reads committed records only, from every offset on: aborted
// ones and markers are passed over, also at the end, where a reader that waits
// for a record would hang.
func TestTransactions(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1)
	do(t, tool, strings.ReplaceAll(`
		producer a transactional.id=TOPIC-a
		producer b transactional.id=TOPIC-b
		producer plain
		begin a
		begin b
		bulk a TOPIC 0 10 20 100
		flush a
		bulk b TOPIC 0 10 20 200
		flush b
		bulk plain TOPIC 0 5 20 300
		flush plain
		abort b
		begin b
		bulk b TOPIC 0 10 20 400
		flush b
		bulk a TOPIC 0 10 20 500
		commit a
		begin a
		bulk a TOPIC 0 7 20 600
		flush a
		commit b
		abort a
		close a
		close b
		close plain`, "TOPIC", topic))
	s := source(b, topic)
	bounds := resolve(t, s)
	want := oracle(t, tool, topic)
	mustEqual(t, readAll(t, s, bounds), want)
	whole := bounds.Ranges[0]
	if len(want[0]) != 35 || whole.End <= int64(len(want[0])) {
		t.Fatalf("%d records in %s: want 35, and gaps", len(want[0]), whole)
	}
	// However the range is cut, the pieces have what the whole has.
	for at := whole.Start; at <= whole.End; at++ {
		first, second := whole, whole
		first.End, second.Start = at, at
		mustEqual(t, readAll(t, s, kafka.Bounds{Ranges: []kafka.Range{first, second}}), want)
	}

	s.Uncommitted = true
	if n := len(readAll(t, s, resolve(t, s))[0]); n != 52 {
		t.Errorf("%d records with read_uncommitted, want 52", n)
	}
}

// TestOpenTransaction shows the three ways to deal with a transaction that has
// not ended.
func TestOpenTransaction(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, strings.ReplaceAll(`
		producer open transactional.id=TOPIC-open
		producer beside
		bulk beside TOPIC 0 5 20 0
		bulk beside TOPIC 1 5 20 0
		flush beside
		begin open
		bulk open TOPIC 0 5 20 100
		flush open
		bulk beside TOPIC 0 5 20 200
		flush beside`, "TOPIC", topic))
	s := source(b, topic)
	bounds := resolve(t, s)
	if len(bounds.Warnings) != 1 || !strings.Contains(bounds.Warnings[0], `partition 0 of topic "`+topic+`": a transaction is open since offset 5 (producer `) {
		t.Errorf("warnings %q", bounds.Warnings)
	}
	if want := []kafka.Range{{Topic: topic, Partition: 0, End: 5}, {Topic: topic, Partition: 1, End: 5}}; !slices.Equal(bounds.Ranges, want) {
		t.Errorf("ranges %v, want %v", bounds.Ranges, want)
	}
	mustEqual(t, readAll(t, s, bounds), oracle(t, tool, topic))

	s.OpenTransactions = kafka.Refuse
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := kafka.Resolve(ctx, s); err == nil || !strings.Contains(err.Error(), "a transaction is open since offset 5") {
		t.Errorf("error %v", err)
	}

	s.OpenTransactions = kafka.Await
	type result struct {
		bounds kafka.Bounds
		err    error
	}
	waited := make(chan result, 1)
	go func() {
		bounds, err := kafka.Resolve(ctx, s)
		waited <- result{bounds, err}
	}()
	do(t, tool, "commit open\nclose open\nclose beside")
	r := <-waited
	if r.err != nil {
		t.Fatal(r.err)
	}
	if n := len(readAll(t, s, r.bounds)[0]); n != 15 {
		t.Errorf("%d records after the wait, want 15", n)
	}
}

// TestCompacted reads a topic of which most records are gone, at the ends of
// batches and at the end of the partition, too.
func TestCompacted(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1, "cleanup.policy=compact", "segment.bytes=50000", "min.cleanable.dirty.ratio=0.001", "segment.ms=500", "delete.retention.ms=0")
	do(t, tool, "producer compact linger.ms=20 enable.idempotence=true")
	for range 30 {
		do(t, tool, "bulk compact "+topic+" 0 200 100 0\nflush compact")
	}
	s := source(b, topic)
	count := func() int { return len(readAll(t, s, resolve(t, s))[0]) }
	before := count()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for count() > before/3 {
		select {
		case <-tick.C:
			do(t, tool, "bulk compact "+topic+" 0 1 100 0\nflush compact") // rolls the segment
		case <-deadline:
			t.Fatalf("the broker has not compacted the topic: %d records", count())
		}
	}
	do(t, tool, "close compact")
	// The broker may compact between the two.
	for range 5 {
		got, want := readAll(t, s, resolve(t, s)), oracle(t, tool, topic)
		if slices.Equal(got[0], want[0]) {
			t.Logf("%d records of %d offsets", len(got[0]), resolve(t, s).Ranges[0].End)
			return
		}
	}
	t.Error("never what the Java consumer reads")
}

// TestDeleted begins where retention has eaten the start.
func TestDeleted(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1)
	do(t, tool, "producer del\nbulk del "+topic+" 0 100 20 0\nclose del")
	s := source(b, topic)
	before := resolve(t, s)
	do(t, tool, "delete "+topic+" 0 40")
	mustEqual(t, readAll(t, s, resolve(t, s)), oracle(t, tool, topic))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := kafka.ReadRange(ctx, s.Reading(), before.Ranges[0], func(*kafka.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "the records from 0 to 39 have been deleted") {
		t.Errorf("reading gave %v", err)
	}
	s.Start.Offsets = map[string]int64{"0": 10}
	if _, err := kafka.Resolve(ctx, s); err == nil || !strings.Contains(err.Error(), "the records from 10 to 39 have been deleted") {
		t.Errorf("resolving gave %v", err)
	}
	s.EarliestAvailable = true
	if bounds := resolve(t, s); len(bounds.Warnings) != 1 || bounds.Ranges[0].Start != 40 {
		t.Errorf("bounds %+v", bounds)
	}
	if n := len(readAll(t, s, before)[0]); n != 60 {
		t.Errorf("%d records of what is there, want 60", n)
	}
	do(t, tool, "delete "+topic+" 0 100")
	s.Start = kafka.Bound{}
	if bounds := resolve(t, s); len(bounds.Ranges) != 0 {
		t.Errorf("ranges of a topic that is empty now: %v", bounds.Ranges)
	}
}

// TestBounds says where ranges begin and end: by offset, by time, by number.
func TestBounds(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 3) // partition 2 stays empty
	do(t, tool, "producer bounds")
	for i := range 20 {
		do(t, tool, fmt.Sprintf("send bounds %s %d %d %s %s", topic, i%2, 1000*(i+1), word("k"), word(fmt.Sprint(i))))
	}
	do(t, tool, "close bounds")
	at := func(ms int64) kafka.Bound { return kafka.Bound{Time: &ms} }
	tests := []struct {
		name        string
		start, stop kafka.Bound
		most        int64
		want        map[int32]string
	}{
		{name: "all", want: map[int32]string{0: "0 2 4 6 8 10 12 14 16 18", 1: "1 3 5 7 9 11 13 15 17 19"}},
		{name: "start offsets", start: kafka.Bound{Offsets: map[string]int64{"1": 8}}, want: map[int32]string{0: "0 2 4 6 8 10 12 14 16 18", 1: "17 19"}},
		{name: "stop offsets", stop: kafka.Bound{Offsets: map[string]int64{topic + ":0": 2, "1": 0}}, want: map[int32]string{0: "0 2"}},
		{name: "start time", start: at(17001), want: map[int32]string{0: "18", 1: "17 19"}},
		{name: "stop time", stop: at(4000), want: map[int32]string{0: "0 2", 1: "1"}},
		{name: "a time past the end", stop: at(1 << 40), start: at(19500), want: map[int32]string{1: "19"}},
		{name: "nothing is that young", start: at(1 << 40), want: map[int32]string{}},
		{name: "most", most: 13, want: map[int32]string{0: "0 2 4 6 8 10 12 14 16 18", 1: "1 3 5"}},
		{name: "most of few", most: 5, start: at(15000), want: map[int32]string{0: "14 16 18", 1: "15 17"}},
		{name: "backwards", start: at(5000), stop: at(3000), want: map[int32]string{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := source(b, topic)
			s.Start, s.Stop, s.MaxRecords = test.start, test.stop, test.most
			got := readAll(t, s, resolve(t, s))
			for p := range int32(3) {
				if is := strings.Join(values(got[p]), " "); is != test.want[p] {
					t.Errorf("partition %d: %s, want %s", p, is, test.want[p])
				}
			}
		})
	}
}

// TestLarge reads records of 10 MB, which are larger than what is asked for at
// a time.
func TestLarge(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1, "max.message.bytes=20000000")
	do(t, tool, "producer large buffer.memory=100000000\nbulk large "+topic+" 0 4 10000000 0\nclose large")
	s := source(b, topic)
	s.FetchBytes = 1 << 20
	mustEqual(t, readAll(t, s, resolve(t, s)), oracle(t, tool, topic))
}

// TestManyPartitions resolves and reads 50 partitions, some of them empty.
func TestManyPartitions(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 50)
	do(t, tool, "producer many")
	for p := range 50 {
		if p%7 != 3 {
			do(t, tool, fmt.Sprintf("bulk many %s %d %d 50 0", topic, p, 10+p))
		}
	}
	do(t, tool, "close many")
	s := source(b, topic)
	mustEqual(t, readAll(t, s, resolve(t, s)), oracle(t, tool, topic))
}

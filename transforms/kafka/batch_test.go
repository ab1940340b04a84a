package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
)

// records are the records of all batches, as texts.
func records(t testing.TB, b []byte) []string {
	t.Helper()
	var all []string
	for len(b) > 0 {
		one, rest, err := cutBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := one.inflate(); err != nil {
			t.Fatal(err)
		}
		if err := one.each(func(r *Record) error {
			all = append(all, fmt.Sprintf("%d %d %q %q", r.Offset, r.Time, r.Key, r.Value))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b = rest
	}
	return all
}

// encoded is what kafka-go writes, without the size before it.
func encoded(t testing.TB, version int8, codec protocol.Attributes, n int) []byte {
	t.Helper()
	var list []protocol.Record
	for i := range n {
		list = append(list, protocol.Record{Time: time.UnixMilli(int64(1000 + i)), Key: protocol.NewBytes(fmt.Append(nil, "k", i)), Value: protocol.NewBytes(fmt.Append(nil, "v", i))})
	}
	set := protocol.RecordSet{Version: version, Attributes: codec, Records: protocol.NewRecordReader(list...)}
	var out bytes.Buffer
	if _, err := set.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()[4:]
}

// TestFormats reads what kafka-go writes: the format of today, and format 1 of
// old segments, in every codec.
func TestFormats(t *testing.T) {
	var want []string
	for i := range 5 {
		want = append(want, fmt.Sprintf("%d %d %q %q", i, 1000+i, fmt.Sprint("k", i), fmt.Sprint("v", i)))
	}
	for _, version := range []int8{1, 2} {
		for codec := range protocol.Attributes(5) {
			b := encoded(t, version, codec, 5)
			if version == 1 && codec != 0 {
				binary.BigEndian.PutUint64(b, 4) // brokers set it to the last record's offset
			}
			if got := records(t, b); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("format %d, %s: %q, want %q", version, codec, got, want)
			}
			for n := range len(b) {
				if _, _, err := cutBatch(b[:n]); version == 2 && !errors.Is(err, errCut) {
					t.Fatalf("format %d, %s, %d of %d bytes: %v", version, codec, n, len(b), err)
				}
			}
		}
	}
}

// TestOwnBatches reads what the producer writes.
func TestOwnBatches(t *testing.T) {
	for codec := range compress.Compression(5) {
		out := outBatch{first: 1000}
		out.add(1000, []byte("k"), nil, nil)
		out.add(1005, nil, []byte{}, []Header{{Key: "h", Value: []byte("1")}, {Key: "h"}})
		out.add(990, []byte{}, []byte("a clock that went back"), nil)
		b, err := out.encode(codec, 7, 1, 5)
		if err != nil {
			t.Fatal(err)
		}
		want := `[0 1000 "k" "" 1 1005 "" "" 2 990 "" "a clock that went back"]`
		if got := fmt.Sprint(records(t, b)); got != want {
			t.Errorf("%s: %s, want %s", codec, got, want)
		}
		set := protocol.RecordSet{}
		if _, err := set.ReadFrom(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))); err != nil {
			t.Errorf("%s: kafka-go reads it with %v", codec, err)
		}
	}
}

// TestMurmur2 chooses the partitions that Kafka's clients do.
func TestMurmur2(t *testing.T) {
	balancer := kafkago.Murmur2Balancer{}
	partitions := []int{0, 1, 2, 3, 4, 5, 6}
	for i := range 1000 {
		key := bytes.Repeat(fmt.Append(nil, i), 1+i%3)[:1+i%5%len(fmt.Append(nil, i))]
		if got, want := int(murmur2(key)%7), balancer.Balance(kafkago.Message{Key: key}, partitions...); got != want {
			t.Fatalf("key %q: partition %d, want %d", key, got, want)
		}
	}
}

// TestFlipped flips every bit of a batch: it is refused, or is still the batch.
func TestFlipped(t *testing.T) {
	b := encoded(t, 2, protocol.Snappy, 5)
	want := fmt.Sprint(records(t, b))
	for i := range 8 * len(b) {
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		one, _, err := cutBatch(flipped)
		if err != nil || i/8 < 8 { // the offset is not under the checksum
			continue
		}
		if err := one.inflate(); err != nil {
			t.Fatalf("bit %d: the checksum is right, and %v", i, err)
		}
		if got := fmt.Sprint(records(t, flipped)); i/8 >= 16 && got != want {
			t.Fatalf("bit %d: %s", i, got)
		}
	}
}

// FuzzBatch gives batches that anyone may have made: no panic, and no more
// memory than the bytes call for.
func FuzzBatch(f *testing.F) {
	for _, version := range []int8{1, 2} {
		for codec := range protocol.Attributes(5) {
			f.Add(encoded(f, version, codec, 3))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			// Give it the checksum that gets it further in.
			if len(b) > headV2 && b[16] == 2 {
				if n := int(binary.BigEndian.Uint32(b[8:])); n > headV2 && n <= len(b)-prefix {
					b = bytes.Clone(b)
					resum(b[:prefix+n])
				}
			}
			one, rest, err := cutBatch(b)
			if err != nil {
				return
			}
			if err := one.inflate(); err == nil {
				_ = one.each(func(*Record) error { return nil })
			}
			b = rest
		}
	})
}

// FuzzAnswer gives answers that anyone may have made.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		call := fetchCall{topic: "t"}
		for v := int16(oldestFetch); v <= newestFetch; v++ {
			_, _ = call.decode(v, b)
		}
	})
}

// resum sets the checksum.
func resum(b []byte) {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[checksummedV2:], castagnoli))
}

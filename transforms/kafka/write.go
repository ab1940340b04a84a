package kafka

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/segmentio/kafka-go/compress"
)

func init() {
	beam.RegisterType(reflect.TypeFor[writeFn]())
}

// A Sink says where to write.
type Sink struct {
	Connection Connection `json:"connection"`
	Topic      string     `json:"topic"`
	// Compression is none (or empty), gzip, snappy, lz4 or zstd.
	Compression string `json:"compression,omitempty"`
	// BatchBytes is how much of a partition is sent at a time; 512 KiB if 0.
	BatchBytes int `json:"batch_bytes,omitempty"`
}

// Write writes pairs of keys and values: bytes, strings, or integers as Kafka's
// serializers write them. All of a bundle is acknowledged before the bundle is
// done. A bundle that is tried again writes again: at least once.
func (k Sink) Write(s beam.Scope, pairs beam.PCollection) {
	beam.ParDo0(s.Scope("kafka.Write"), &writeFn{Sink: k}, pairs)
}

// producerKeys are what a producer config may have beside linkKeys.
var producerKeys = map[string]func(k *Sink, value string) error{
	"compression.type": func(k *Sink, v string) error {
		k.Compression = v
		return oneOf(v, "none", "gzip", "snappy", "lz4", "zstd")
	},
	"batch.size": func(k *Sink, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > 64<<20 {
			return errors.New("want a number of bytes, at most 67108864")
		}
		k.BatchBytes = max(n, 1<<10)
		return nil
	},
	// Acknowledged by all, whatever is asked: less could lose what a bundle wrote.
	"acks": func(_ *Sink, v string) error { return oneOf(v, "all", "-1", "1", "0") },
	"delivery.timeout.ms": func(k *Sink, v string) (err error) {
		k.Connection.Patience, err = parseMillis(v)
		return err
	},
	"buffer.memory": nil, "enable.idempotence": nil, "linger.ms": nil, "max.block.ms": nil, "retries": nil,
	"max.in.flight.requests.per.connection": nil, "max.request.size": nil, "key.serializer": nil, "value.serializer": nil,
	"metadata.max.idle.ms": nil, "compression.gzip.level": nil, "compression.lz4.level": nil, "compression.zstd.level": nil,
}

// ParseProducer reads a producer config. All that is wrong is in the error, and
// no value of a key that may be secret.
func ParseProducer(config map[string]string) (Sink, error) {
	var k Sink
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(config)) {
		set, known := producerKeys[key]
		switch {
		case set != nil:
			errs = append(errs, named("producer config", key, set(&k, config[key])))
		case known:
		case key == "transactional.id":
			errs = append(errs, fmt.Errorf("producer config %s: transactions are not supported yet; leave it out, and each element is written at least once", key))
		default:
			errs = append(errs, setLink("producer config", &k.Connection, key, config[key]))
		}
	}
	return k, errors.Join(errs...)
}

const defaultBatch = 512 << 10

// codec is the sink's compression.
func (k Sink) codec() (compress.Compression, error) {
	var c compress.Compression
	if err := c.UnmarshalText([]byte(cmp.Or(k.Compression, "none"))); err != nil {
		return 0, fmt.Errorf("compression %q is not known", k.Compression)
	}
	return c, nil
}

// writeFn writes pairs.
type writeFn struct {
	Sink Sink
	// Short writes integers of key and value with 4 bytes: they come as 64 bits,
	// whatever they were.
	Short [2]bool

	topicWriters
}

func (f *writeFn) Setup() error { return f.open(f.Sink) }

func (f *writeFn) Teardown() error { return f.closeAll() }

func (f *writeFn) StartBundle(ctx context.Context) error { return f.begin(ctx) }

func (f *writeFn) ProcessElement(ctx context.Context, key beam.T, value beam.U) error {
	k, err := serialize(key, f.Short[0])
	if err != nil {
		return fmt.Errorf("write to topic %q: key: %w", f.Sink.Topic, err)
	}
	v, err := serialize(value, f.Short[1])
	if err != nil {
		return fmt.Errorf("write to topic %q: value: %w", f.Sink.Topic, err)
	}
	return f.add(ctx, outRecord{key: k, value: v})
}

func (f *writeFn) FinishBundle(ctx context.Context) error { return f.flush(ctx) }

// topicWriters are the producers of one DoFn: one for the sink's topic, and for
// each that records name themselves.
type topicWriters struct {
	sink  Sink
	codec compress.Compression
	main  *producer
	more  map[string]*producer // by topic; at most mostTopics
}

// mostTopics bounds the topics that the records of one sink name.
const mostTopics = 1000

// open makes the sink's own producer, which connects when it is first used.
func (w *topicWriters) open(sink Sink) (err error) {
	w.sink, w.more = sink, map[string]*producer{}
	if w.codec, err = sink.codec(); err != nil {
		return err
	}
	w.main, err = w.to(sink.Topic)
	return err
}

func (w *topicWriters) to(topic string) (*producer, error) {
	if err := validTopic(topic); err != nil {
		return nil, err
	}
	c, err := dial(w.sink.Connection, topic)
	if err != nil {
		return nil, err
	}
	return &producer{client: c, topic: topic, codec: w.codec, batchBytes: cmp.Or(w.sink.BatchBytes, defaultBatch)}, nil
}

func (w *topicWriters) closeAll() error {
	if w.main != nil {
		w.main.client.close()
	}
	for _, p := range w.more {
		p.client.close()
	}
	return nil
}

// begin begins a bundle.
func (w *topicWriters) begin(ctx context.Context) error {
	for _, p := range w.more {
		if err := p.begin(ctx); err != nil {
			return err
		}
	}
	return w.main.begin(ctx)
}

// add takes a record for its topic.
func (w *topicWriters) add(ctx context.Context, r outRecord) error {
	if r.topic == "" || r.topic == w.sink.Topic {
		return w.main.add(ctx, &r)
	}
	p := w.more[r.topic]
	if p == nil {
		if len(w.more) == mostTopics {
			return fmt.Errorf("write to topic %q: records name more than %d topics", r.topic, mostTopics)
		}
		var err error
		if p, err = w.to(r.topic); err != nil {
			return err
		}
		if err := p.begin(ctx); err != nil {
			p.client.close()
			return err
		}
		w.more[r.topic] = p
	}
	return p.add(ctx, &r)
}

// flush returns when all is acknowledged.
func (w *topicWriters) flush(ctx context.Context) error {
	for _, p := range w.more {
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	return w.main.flush(ctx)
}

// serialize writes a value as Kafka's serializers do.
func serialize(v any, short bool) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	case int64:
		if short {
			if int64(int32(v)) != v {
				return nil, fmt.Errorf("%d is no 32-bit integer", v)
			}
			return binary.BigEndian.AppendUint32(nil, uint32(v)), nil
		}
		return binary.BigEndian.AppendUint64(nil, uint64(v)), nil
	case int32:
		return binary.BigEndian.AppendUint32(nil, uint32(v)), nil
	case nil:
		return nil, nil
	}
	return nil, fmt.Errorf("%T can't be written", v)
}

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

	producer *producer
}

func (f *writeFn) Setup() error {
	if err := validTopic(f.Sink.Topic); err != nil {
		return err
	}
	codec, err := f.Sink.codec()
	if err != nil {
		return err
	}
	c, err := dial(f.Sink.Connection, f.Sink.Topic)
	if err != nil {
		return err
	}
	f.producer = &producer{client: c, topic: f.Sink.Topic, codec: codec, batchBytes: cmp.Or(f.Sink.BatchBytes, defaultBatch)}
	return nil
}

func (f *writeFn) Teardown() error {
	if f.producer != nil {
		f.producer.client.close()
	}
	return nil
}

func (f *writeFn) StartBundle(ctx context.Context) error {
	return f.producer.begin(ctx)
}

func (f *writeFn) ProcessElement(ctx context.Context, key beam.T, value beam.U) error {
	k, err := serialize(key, f.Short[0])
	if err != nil {
		return fmt.Errorf("write to topic %q: key: %w", f.Sink.Topic, err)
	}
	v, err := serialize(value, f.Short[1])
	if err != nil {
		return fmt.Errorf("write to topic %q: value: %w", f.Sink.Topic, err)
	}
	return f.producer.add(ctx, k, v)
}

func (f *writeFn) FinishBundle(ctx context.Context) error {
	return f.producer.flush(ctx)
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

package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"golang.org/x/sync/errgroup"
)

// A producer writes to one topic. Every batch has the producer's id and a
// sequence number, so that the broker drops what it is sent twice because an
// answer was lost. It is for one goroutine.
type producer struct {
	client     *client
	topic      string
	codec      compress.Compression
	batchBytes int

	id         int64
	epoch      int16
	partitions []int32
	open       map[int32]*outBatch
	sequence   map[int32]int32
	sticky     int // index of the partition that records without a key go to now
	// unsure says that a batch may or may not have been written: its sequence
	// number can't be used again for another.
	unsure bool
}

// sendTogether bounds the batches that are under way at one time.
const sendTogether = 8

// begin makes the producer ready for a bundle.
func (p *producer) begin(ctx context.Context) error {
	p.open = map[int32]*outBatch{}
	if p.id != 0 && !p.unsure {
		return nil
	}
	partitions, err := p.client.partitions(ctx, p.topic)
	if err != nil {
		return err
	}
	if len(partitions) == 0 {
		return fmt.Errorf("topic %q has no partitions", p.topic)
	}
	p.partitions = partitions
	t := trial{client: p.client}
	for {
		answer, err := p.client.call(ctx, &identify{clientID: p.client.clientID})
		if err == nil {
			i := answer.(*identity)
			if i.code == 0 {
				p.id, p.epoch, p.sequence, p.unsure = i.id, i.epoch, map[int32]int32{}, false
				p.sticky = rand.IntN(len(partitions))
				return nil
			}
			err = kafkago.Error(i.code)
		}
		if err := t.again(ctx, err); err != nil {
			return fmt.Errorf("write to topic %q: get a producer id: %w", p.topic, explain(err, p.client.servers))
		}
	}
}

// An outRecord is to be written. Null keys and values are nil.
type outRecord struct {
	key, value []byte
	headers    []Header
	topic      string // "" is the sink's
	partition  *int32 // nil is where its key belongs
	at         *int64 // nil is now; in milliseconds since 1970
}

// add takes a record, and sends its batch when that is full.
func (p *producer) add(ctx context.Context, r *outRecord) error {
	key, value := r.key, r.value
	partition := p.partitions[p.sticky]
	switch {
	case r.partition != nil:
		if partition = *r.partition; !slices.Contains(p.partitions, partition) {
			return fmt.Errorf("write to %s: the topic has %d partitions, and this is none of them", partitionName(p.topic, partition), len(p.partitions))
		}
	case key != nil:
		partition = p.partitions[murmur2(key)%uint32(len(p.partitions))]
	}
	b := p.open[partition]
	if b != nil && b.size()+len(key)+len(value) > p.batchBytes {
		if key == nil && r.partition == nil {
			p.sticky = (p.sticky + 1) % len(p.partitions)
		}
		if err := p.send(ctx, partition, b); err != nil {
			return err
		}
		b = nil
	}
	at := time.Now().UnixMilli()
	if r.at != nil {
		at = *r.at
	}
	if b == nil {
		b = &outBatch{first: at, last: at}
		p.open[partition] = b
	}
	b.add(at, key, value, r.headers)
	return nil
}

// flush sends all that is open and returns when it has been acknowledged by all
// replicas in sync.
func (p *producer) flush(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sendTogether)
	for partition, b := range p.open {
		first := p.sequence[partition]
		p.sequence[partition] += b.count
		g.Go(func() error {
			data, err := b.encode(p.codec, p.id, p.epoch, first)
			if err != nil {
				return err
			}
			return p.deliver(ctx, partition, data)
		})
	}
	clear(p.open)
	err := g.Wait()
	p.unsure = p.unsure || err != nil
	return err
}

// send sends one batch.
func (p *producer) send(ctx context.Context, partition int32, b *outBatch) error {
	delete(p.open, partition)
	data, err := b.encode(p.codec, p.id, p.epoch, p.sequence[partition])
	if err != nil {
		return err
	}
	p.sequence[partition] += b.count
	if err := p.deliver(ctx, partition, data); err != nil {
		p.unsure = true
		return err
	}
	return nil
}

// Errors of the broker that concern sequence numbers.
const duplicateSequence = kafkago.DuplicateSequenceNumber

// deliver sends a batch until it is acknowledged.
func (p *producer) deliver(ctx context.Context, partition int32, data []byte) error {
	t := trial{client: p.client}
	for {
		answer, err := p.client.call(ctx, &produceCall{topic: p.topic, partition: partition, records: data, clientID: p.client.clientID})
		if err == nil {
			a := answer.(*produced)
			if a.code == 0 || kafkago.Error(a.code) == duplicateSequence {
				return nil
			}
			err = kafkago.Error(a.code)
			if a.message != "" {
				err = fmt.Errorf("%w: %s", err, a.message)
			}
		}
		if err := t.again(ctx, err); err != nil {
			return fmt.Errorf("write to %s: %w", partitionName(p.topic, partition), err)
		}
	}
}

// An outBatch collects records for a partition.
type outBatch struct {
	body        []byte
	count       int32
	first, last int64 // times
}

func (b *outBatch) size() int { return headV2 + len(b.body) }

func (b *outBatch) add(at int64, key, value []byte, headers []Header) {
	var head [40]byte
	h := append(head[:0], 0) // no attributes
	h = binary.AppendVarint(h, at-b.first)
	h = binary.AppendVarint(h, int64(b.count))
	var about []byte
	for _, x := range headers {
		about = appendField(appendField(about, []byte(x.Key)), x.Value)
	}
	length := len(h) + fieldSize(key) + fieldSize(value) + len(binary.AppendVarint(nil, int64(len(headers)))) + len(about)
	b.body = binary.AppendVarint(b.body, int64(length))
	b.body = append(b.body, h...)
	b.body = appendField(b.body, key)
	b.body = appendField(b.body, value)
	b.body = binary.AppendVarint(b.body, int64(len(headers)))
	b.body = append(b.body, about...)
	b.last = max(b.last, at)
	b.count++
}

func fieldSize(f []byte) int {
	if f == nil {
		return 1
	}
	var head [binary.MaxVarintLen64]byte
	return binary.PutVarint(head[:], int64(len(f))) + len(f)
}

func appendField(b, f []byte) []byte {
	if f == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(f))), f...)
}

// encode is the batch as it is sent.
func (b *outBatch) encode(codec compress.Compression, id int64, epoch int16, sequence int32) ([]byte, error) {
	body := b.body
	if c := codec.Codec(); c != nil {
		var out bytes.Buffer
		w := c.NewWriter(&out)
		if _, err := w.Write(body); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		body = out.Bytes()
	}
	w := callWriter{b: make([]byte, 0, headV2+len(body))}
	w.int64(0) // the broker sets the offset
	w.int32(int32(headV2 - prefix + len(body)))
	w.int32(-1) // and the leader's epoch
	w.b = append(w.b, 2)
	w.int32(0) // the checksum, below
	w.int16(int16(codec))
	w.int32(b.count - 1)
	w.int64(b.first)
	w.int64(b.last)
	w.int64(id)
	w.int16(epoch)
	w.int32(sequence)
	w.int32(b.count)
	w.b = append(w.b, body...)
	binary.BigEndian.PutUint32(w.b[17:], crc32.Checksum(w.b[checksummedV2:], castagnoli))
	return w.b, nil
}

// A produceCall sends one batch to a partition's leader, and waits until all
// replicas in sync have it.
type produceCall struct {
	topic        string
	partition    int32
	records      []byte
	clientID     string
	protoVersion int16
}

// A produced is the answer.
type produced struct {
	code    int16
	message string
}

func (*produceCall) ApiKey() protocol.ApiKey { return protocol.Produce }
func (*produced) ApiKey() protocol.ApiKey    { return protocol.Produce }

// Broker finds the partition's leader.
func (c *produceCall) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return leaderOf(cluster, c.topic, c.partition)
}

// Required says that the call is written here.
func (c *produceCall) Required(versions map[protocol.ApiKey]int16) bool {
	c.protoVersion = versions[protocol.Produce]
	return true
}

// RawExchange sends the call and reads the answer.
func (c *produceCall) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	v := min(c.protoVersion, 8)
	if v < 3 {
		return nil, permanentError{errors.New("the broker is older than Kafka 0.11, which is the oldest that can be written to")}
	}
	w := newCall(protocol.Produce, v, c.clientID)
	w.int16(-1) // no transaction
	w.int16(-1) // acknowledged by all
	w.int32(30_000)
	w.int32(1)
	w.string(c.topic)
	w.int32(1)
	w.int32(c.partition)
	w.int32(int32(len(c.records)))
	w.b = append(w.b, c.records...)
	if _, err := rw.Write(w.done()); err != nil {
		return nil, err
	}
	body, err := readAnswer(rw)
	if err != nil {
		return nil, err
	}
	r := answer{left: body}
	r.int32()
	topics, topic := r.int32(), r.string()
	partitions, partition := r.int32(), r.int32()
	if r.err == nil && (topics != 1 || partitions != 1 || topic != c.topic || partition != c.partition) {
		return nil, errors.New("produce answer for another partition")
	}
	out := &produced{code: r.int16()}
	r.int64()
	r.int64()
	if v >= 5 {
		r.int64()
	}
	if v >= 8 {
		for range r.int32() { // record errors, which the message sums up
			r.int32()
			r.string()
			if r.err != nil {
				break
			}
		}
		out.message = r.string()
	}
	return out, r.err
}

// An identify call asks any broker for a producer id. kafka-go's own would look
// for a transaction's coordinator first.
type identify struct{ clientID string }

// An identity is the answer.
type identity struct {
	code  int16
	id    int64
	epoch int16
}

func (*identify) ApiKey() protocol.ApiKey { return protocol.InitProducerId }
func (*identity) ApiKey() protocol.ApiKey { return protocol.InitProducerId }

// Required says that the call is written here, in the oldest version.
func (*identify) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange sends the call and reads the answer.
func (c *identify) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	w := newCall(protocol.InitProducerId, 0, c.clientID)
	w.int16(-1) // no transactional id
	w.int32(60_000)
	if _, err := rw.Write(w.done()); err != nil {
		return nil, err
	}
	body, err := readAnswer(rw)
	if err != nil {
		return nil, err
	}
	r := answer{left: body}
	r.int32()
	r.int32()
	return &identity{code: r.int16(), id: r.int64(), epoch: r.int16()}, r.err
}

// murmur2 is the hash by which Kafka's clients choose a key's partition, without
// its sign.
func murmur2(key []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(key[0])) * m
	}
	h = (h ^ h>>13) * m
	return (h ^ h>>15) & 0x7fffffff
}

package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// A fetchCall asks the leader of one partition for records. It writes and reads
// its own bytes on a connection of kafka-go's transport, which only routes it:
// so the batches come as they are, in one buffer.
type fetchCall struct {
	topic     string
	partition int32
	offset    int64
	committed bool
	clientID  string
	// maxBytes is what the answer may hold, unless its first batch is larger.
	maxBytes     int32
	minBytes     int32
	waitMillis   int32
	protoVersion int16 // chosen by the connection
}

// A fetched is the answer.
type fetched struct {
	code          int16
	throttled     bool
	highWatermark int64
	lastStable    int64
	logStart      int64
	aborted       []abortedTransaction
	batches       []byte
}

// An abortedTransaction is of a producer, whose records from first on, up to its
// next abort marker, don't count.
type abortedTransaction struct {
	producer int64
	first    int64
}

func (*fetchCall) ApiKey() protocol.ApiKey { return protocol.Fetch }
func (*fetched) ApiKey() protocol.ApiKey   { return protocol.Fetch }

// Broker finds the partition's leader.
func (f *fetchCall) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return leaderOf(cluster, f.topic, f.partition)
}

func leaderOf(cluster protocol.Cluster, topic string, partition int32) (protocol.Broker, error) {
	if len(cluster.Brokers) == 0 {
		return protocol.Broker{}, kafkago.BrokerNotAvailable // none has answered yet
	}
	t, ok := cluster.Topics[topic]
	if !ok {
		return protocol.Broker{}, kafkago.UnknownTopicOrPartition
	}
	p, ok := t.Partitions[partition]
	if !ok {
		return protocol.Broker{}, kafkago.UnknownTopicOrPartition
	}
	b, ok := cluster.Brokers[p.Leader]
	if !ok {
		return protocol.Broker{}, kafkago.LeaderNotAvailable
	}
	return b, nil
}

// Required says that the call is written here, in the version that the
// connection has agreed on.
func (f *fetchCall) Required(versions map[protocol.ApiKey]int16) bool {
	f.protoVersion = versions[protocol.Fetch]
	return true
}

// Versions of the fetch call that are understood: 4 brought the isolation level,
// and after 11 topics have ids.
const (
	oldestFetch = 4
	newestFetch = 11
)

// RawExchange sends the call and reads the answer.
func (f *fetchCall) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	v := min(f.protoVersion, newestFetch)
	if v < oldestFetch {
		return nil, permanentError{errors.New("the broker is older than Kafka 0.11, which is the oldest that can be replayed")}
	}
	if _, err := rw.Write(f.encode(v)); err != nil {
		return nil, err
	}
	body, err := readAnswer(rw)
	if err != nil {
		return nil, err
	}
	return f.decode(v, body)
}

// encode writes the request. It can't fail: topics' names are short.
func (f *fetchCall) encode(v int16) []byte {
	w := newCall(protocol.Fetch, v, f.clientID)
	w.int32(-1) // not a replica
	w.int32(f.waitMillis)
	w.int32(f.minBytes)
	w.int32(f.maxBytes)
	w.bool(f.committed)
	if v >= 7 {
		w.int32(0) // no session
		w.int32(-1)
	}
	w.int32(1)
	w.string(f.topic)
	w.int32(1)
	w.int32(f.partition)
	if v >= 9 {
		w.int32(-1) // any leader epoch
	}
	w.int64(f.offset)
	if v >= 5 {
		w.int64(-1) // the log start of followers only
	}
	w.int32(f.maxBytes)
	if v >= 7 {
		w.int32(0) // nothing forgotten
	}
	if v >= 11 {
		w.string("") // no rack
	}
	return w.done()
}

func (f *fetchCall) decode(v int16, body []byte) (*fetched, error) {
	r := answer{left: body}
	a := &fetched{lastStable: -1, logStart: -1}
	r.int32() // correlation: one call at a time on a connection
	a.throttled = r.int32() > 0
	if v >= 7 {
		if code := r.int16(); code != 0 {
			a.code = code
			return a, r.err
		}
		r.int32() // session
	}
	if topics := r.int32(); topics != 1 {
		return nil, fmt.Errorf("fetch answer with %d topics, want 1", topics)
	}
	topic := r.string()
	partitions := r.int32()
	partition := r.int32()
	if topic != f.topic || partitions != 1 || partition != f.partition {
		return nil, errors.New("fetch answer for another partition")
	}
	a.code = r.int16()
	a.highWatermark = r.int64()
	a.lastStable = r.int64()
	if v >= 5 {
		a.logStart = r.int64()
	}
	n := int(r.int32())
	if n > len(r.left)/16 {
		return nil, errors.New("fetch answer with an impossible number of aborted transactions")
	}
	for range n { // not at all if it is negative: null
		a.aborted = append(a.aborted, abortedTransaction{producer: r.int64(), first: r.int64()})
	}
	if v >= 11 {
		r.int32() // a replica that would be nearer
	}
	a.batches = r.bytes()
	return a, r.err
}

// largestAnswer bounds what a broker may answer.
const largestAnswer = 1 << 30

// readAnswer reads one answer after its size. Its memory grows with what has
// arrived, not with what was announced.
func readAnswer(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, noEOF(err)
	}
	n := int(int32(binary.BigEndian.Uint32(size[:])))
	if n < 4 || n > largestAnswer {
		return nil, fmt.Errorf("an answer of %d bytes: is this a Kafka broker, and does it want TLS?", n)
	}
	const step = 32 << 20
	body := make([]byte, min(n, step))
	for have := 0; ; {
		if _, err := io.ReadFull(r, body[have:]); err != nil {
			return nil, noEOF(err)
		}
		if have = len(body); have == n {
			return body, nil
		}
		grown := make([]byte, min(n, 2*have))
		copy(grown, body)
		body = grown
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// callWriter writes a request.
type callWriter struct{ b []byte }

func newCall(api protocol.ApiKey, version int16, clientID string) *callWriter {
	w := &callWriter{b: make([]byte, 4, 256)}
	w.int16(int16(api))
	w.int16(version)
	w.int32(1) // correlation: one call at a time on a connection
	w.string(clientID)
	return w
}

func (w *callWriter) int16(v int16) { w.b = binary.BigEndian.AppendUint16(w.b, uint16(v)) }
func (w *callWriter) int32(v int32) { w.b = binary.BigEndian.AppendUint32(w.b, uint32(v)) }
func (w *callWriter) int64(v int64) { w.b = binary.BigEndian.AppendUint64(w.b, uint64(v)) }

func (w *callWriter) bool(v bool) {
	if v {
		w.b = append(w.b, 1)
	} else {
		w.b = append(w.b, 0)
	}
}

func (w *callWriter) string(s string) {
	w.int16(int16(len(s)))
	w.b = append(w.b, s...)
}

// done puts the size before the request.
func (w *callWriter) done() []byte {
	binary.BigEndian.PutUint32(w.b, uint32(len(w.b)-4))
	return w.b
}

// answer reads an answer. After its end everything is zero and err is set.
type answer struct {
	left []byte
	err  error
}

func (r *answer) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.left) {
		if r.err == nil {
			r.err = io.ErrUnexpectedEOF
		}
		r.left = nil
		return nil
	}
	b := r.left[:n:n]
	r.left = r.left[n:]
	return b
}

func (r *answer) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *answer) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *answer) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// string is nullable; null is empty.
func (r *answer) string() string {
	n := r.int16()
	if n < 0 {
		return ""
	}
	return string(r.take(int(n)))
}

// bytes are nullable; null is nil.
func (r *answer) bytes() []byte {
	n := r.int32()
	if n < 0 {
		return nil
	}
	return r.take(int(n))
}

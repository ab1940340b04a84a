package metrics

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

var errPayload = errors.New("malformed payload")

// A cell is the folded value of one series.
type cell interface {
	// fold adds an encoded value. It reports whether there was room for all of
	// it. A malformed value leaves the cell as it was.
	fold(payload []byte) (whole bool, err error)
	// append encodes the folded value so that fold can read it.
	append(dst []byte) []byte
	text() string
}

// newCell makes an empty cell of a type.
var newCell = map[string]func() cell{
	"beam:metrics:sum_int64:v1":           func() cell { return &sum[int64]{codec: ints} },
	"beam:metrics:sum_double:v1":          func() cell { return &sum[float64]{codec: doubles} },
	"beam:metrics:distribution_int64:v1":  func() cell { return &distribution[int64]{codec: ints} },
	"beam:metrics:distribution_double:v1": func() cell { return &distribution[float64]{codec: doubles} },
	"beam:metrics:latest_int64:v1":        func() cell { return &latest[int64]{codec: ints, millis: math.MinInt64} },
	"beam:metrics:latest_double:v1":       func() cell { return &latest[float64]{codec: doubles, millis: math.MinInt64} },
	"beam:metrics:top_n_int64:v1":         func() cell { return &extremes[int64]{codec: ints, sign: -1} },
	"beam:metrics:top_n_double:v1":        func() cell { return &extremes[float64]{codec: doubles, sign: -1} },
	"beam:metrics:bottom_n_int64:v1":      func() cell { return &extremes[int64]{codec: ints, sign: 1} },
	"beam:metrics:bottom_n_double:v1":     func() cell { return &extremes[float64]{codec: doubles, sign: 1} },
	"beam:metrics:set_string:v1":          func() cell { return &stringSet{} },
	"beam:metrics:bounded_trie:v1":        func() cell { return &trie{} },
	"beam:metrics:histogram_int64:v1":     func() cell { return &histogram{} },
}

// typeOfURN holds the types that Beam's specification gives its metrics.
var typeOfURN = func() map[string]string {
	types := make(map[string]string)
	specs := pipepb.MonitoringInfoSpecs_Enum(0).Descriptor().Values()
	for i := range specs.Len() {
		spec, ok := proto.GetExtension(specs.Get(i).Options(), pipepb.E_MonitoringInfoSpec).(*pipepb.MonitoringInfoSpec)
		if ok {
			types[spec.GetUrn()] = spec.GetType()
		}
	}
	return types
}()

// A codec reads and writes numbers of one type.
type codec[N int64 | float64] struct {
	read   func(*payload) N
	append func([]byte, N) []byte
}

var (
	ints = codec[int64]{
		read:   (*payload).varint,
		append: func(dst []byte, v int64) []byte { return binary.AppendUvarint(dst, uint64(v)) },
	}
	doubles = codec[float64]{
		read:   (*payload).double,
		append: func(dst []byte, v float64) []byte { return binary.BigEndian.AppendUint64(dst, math.Float64bits(v)) },
	}
)

type sum[N int64 | float64] struct {
	codec[N]
	total N
}

func (c *sum[N]) fold(b []byte) (bool, error) {
	p := payload{b: b}
	v := c.read(&p)
	if p.bad {
		return true, errPayload
	}
	c.total += v
	return true, nil
}

func (c *sum[N]) append(dst []byte) []byte { return c.codec.append(dst, c.total) }
func (c *sum[N]) text() string             { return fmt.Sprint(c.total) }

type distribution[N int64 | float64] struct {
	codec[N]
	count           int64
	total, min, max N // min and max mean nothing while count is 0
}

func (c *distribution[N]) fold(b []byte) (bool, error) {
	p := payload{b: b}
	count := p.varint()
	if count == 0 && !p.bad { // some SDKs write nothing more then
		return true, nil
	}
	total, least, most := c.read(&p), c.read(&p), c.read(&p)
	if p.bad || count < 0 {
		return true, errPayload
	}
	if c.count == 0 {
		c.min, c.max = least, most
	}
	c.count += count
	c.total += total
	c.min, c.max = min(c.min, least), max(c.max, most)
	return true, nil
}

func (c *distribution[N]) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(c.count))
	for _, v := range [...]N{c.total, c.min, c.max} {
		dst = c.codec.append(dst, v)
	}
	return dst
}

func (c *distribution[N]) text() string {
	if c.count == 0 {
		return "count 0"
	}
	return fmt.Sprintf("count %d, sum %v, min %v, max %v, mean %.3g", c.count, c.total, c.min, c.max, float64(c.total)/float64(c.count))
}

// latest is a gauge.
type latest[N int64 | float64] struct {
	codec[N]
	millis int64 // since the epoch; of two values at one time the last one told stays
	value  N
}

func (c *latest[N]) fold(b []byte) (bool, error) {
	p := payload{b: b}
	millis, value := p.varint(), c.read(&p)
	if p.bad {
		return true, errPayload
	}
	if millis >= c.millis {
		c.millis, c.value = millis, value
	}
	return true, nil
}

func (c *latest[N]) append(dst []byte) []byte {
	return c.codec.append(binary.AppendUvarint(dst, uint64(c.millis)), c.value)
}
func (c *latest[N]) text() string { return fmt.Sprint(c.value) }

// extremes are the greatest or least values seen; as many as any one bundle
// told, for that is all that is known of the N in "top N".
type extremes[N int64 | float64] struct {
	codec[N]
	sign   int // 1 if ascending, -1 if descending
	values []N // sorted
}

func (c *extremes[N]) fold(b []byte) (bool, error) {
	p := payload{b: b}
	var values []N
	p.each(func() { values = append(values, c.read(&p)) })
	if p.bad {
		return true, errPayload
	}
	keep := max(len(values), len(c.values))
	values = append(values, c.values...)
	slices.SortFunc(values, func(a, b N) int {
		if a < b {
			return -c.sign
		}
		if a > b {
			return c.sign
		}
		return 0
	})
	c.values = values[:keep]
	return true, nil
}

func (c *extremes[N]) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.values)))
	for _, v := range c.values {
		dst = c.codec.append(dst, v)
	}
	return dst
}
func (c *extremes[N]) text() string { return fmt.Sprint(c.values) }

type stringSet struct {
	members map[string]struct{}
	bytes   int // of the members; at most maxPayloadBytes
}

func (c *stringSet) fold(b []byte) (whole bool, err error) {
	p := payload{b: b}
	var told []string
	p.each(func() { told = append(told, p.str()) })
	if p.bad {
		return true, errPayload
	}
	if c.members == nil {
		c.members = make(map[string]struct{}, len(told))
	}
	whole = true
	for _, m := range told {
		if _, ok := c.members[m]; ok {
			continue
		}
		size := len(m) + binary.MaxVarintLen32
		if c.bytes+size+4 > maxPayloadBytes {
			whole = false
			continue
		}
		c.bytes += size
		c.members[m] = struct{}{}
	}
	return whole, nil
}

func (c *stringSet) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.members)))
	for _, m := range slices.Sorted(maps.Keys(c.members)) {
		dst = appendText(dst, m)
	}
	return dst
}

func (c *stringSet) text() string {
	return "{" + strings.Join(slices.Sorted(maps.Keys(c.members)), ", ") + "}"
}

// A payload is read from its front. After bad is set, all reads give zero.
type payload struct {
	b   []byte
	bad bool
}

func (p *payload) varint() int64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return int64(v)
}

func (p *payload) double() float64 { return math.Float64frombits(p.fixed(8)) }

// fixed reads a big-endian number of n bytes.
func (p *payload) fixed(n int) (v uint64) {
	if len(p.b) < n {
		p.fail()
		return 0
	}
	for _, b := range p.b[:n] {
		v = v<<8 | uint64(b)
	}
	p.b = p.b[n:]
	return v
}

func (p *payload) str() string {
	n := p.varint()
	if n < 0 || n > int64(len(p.b)) {
		p.fail()
		return ""
	}
	s := string(p.b[:n])
	p.b = p.b[n:]
	return s
}

// each calls read for every element of an encoded iterable. No element is
// empty, so the bytes bound the number of calls.
func (p *payload) each(read func()) {
	many := func(n int64) {
		if n < 0 || n > int64(len(p.b)) {
			p.fail()
		}
		for i := int64(0); i < n && !p.bad; i++ {
			read()
		}
	}
	n := int32(p.fixed(4))
	if n != -1 {
		many(int64(n))
		return
	}
	for !p.bad { // unknown length: chunks, the last one empty
		chunk := p.varint()
		if chunk == 0 {
			return
		}
		many(chunk)
	}
}

func (p *payload) fail() { p.b, p.bad = nil, true }

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// Package coders finds where encoded elements begin and end.
//
// An element stays the bytes that an SDK wrote. A Coder, made from a
// pipeline's coder protos, tells how many bytes its first element takes, and a
// Windowed cuts the windowed values of a data stream into timestamp, windows,
// pane, key and value without copying any of them. Of the values themselves
// nothing is decoded.
//
// Coders whose bytes the runner can't cut (an SDK's own, and rows, whose
// fields SDKs don't all encode alike) must never reach it: WireID replaces
// such parts of a coder by length_prefix, and what the SDK is told must be
// what the runner cuts with.
//
// Bytes come from outside. Whatever they are, cutting ends with a result or an
// error, takes time linear in their length, and allocates nothing.
//
// What windows and panes mean is left to packages window and trigger.
package coders

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// The URNs of Beam's standard coders.
const (
	URNBytes               = "beam:coder:bytes:v1"
	URNStringUTF8          = "beam:coder:string_utf8:v1"
	URNBool                = "beam:coder:bool:v1"
	URNVarInt              = "beam:coder:varint:v1"
	URNDouble              = "beam:coder:double:v1"
	URNKV                  = "beam:coder:kv:v1"
	URNIterable            = "beam:coder:iterable:v1"
	URNStateBackedIterable = "beam:coder:state_backed_iterable:v1"
	URNTimer               = "beam:coder:timer:v1"
	URNLengthPrefix        = "beam:coder:length_prefix:v1"
	URNWindowedValue       = "beam:coder:windowed_value:v1"
	URNParamWindowedValue  = "beam:coder:param_windowed_value:v1"
	URNGlobalWindow        = "beam:coder:global_window:v1"
	URNIntervalWindow      = "beam:coder:interval_window:v1"
	URNCustomWindow        = "beam:coder:custom_window:v1"
	URNShardedKey          = "beam:coder:sharded_key:v1"
	URNNullable            = "beam:coder:nullable:v1"
	URNRow                 = "beam:coder:row:v1"
)

// ErrMalformed says that bytes are no encoding of the coder, however they go
// on. Bytes that merely end too early are io.ErrUnexpectedEOF.
var ErrMalformed = errors.New("malformed encoding")

// kind selects how a coder's elements are cut.
type kind uint8

const (
	fixedSize     kind = iota // fixed bytes
	prefixed                  // varint length, bytes
	varint                    // varint
	pair                      // a, b
	interval                  // timestamp, varint
	iterable                  // int32 count, elements, or chunks
	stateIterable             // as iterable; chunks may end with a token
	timer                     // key a, tag, windows b, then by the clear bit
	windowedValue             // timestamp, windows b, pane, element a
	customWindow              // timestamp, window a
	shardedKey                // bytes, key a
	nullable                  // presence byte, maybe a
)

// A shape is what is known of a coder URN.
type shape struct {
	kind       kind
	fixed      int // size if kind is fixedSize
	components int
}

var shapes = map[string]shape{
	URNBytes:               {kind: prefixed},
	URNStringUTF8:          {kind: prefixed},
	URNLengthPrefix:        {kind: prefixed, components: 1},
	URNBool:                {kind: fixedSize, fixed: 1},
	URNDouble:              {kind: fixedSize, fixed: 8},
	URNVarInt:              {kind: varint},
	URNGlobalWindow:        {kind: fixedSize, fixed: 0},
	URNIntervalWindow:      {kind: interval},
	URNKV:                  {kind: pair, components: 2},
	URNIterable:            {kind: iterable, components: 1},
	URNStateBackedIterable: {kind: stateIterable, components: 1},
	URNTimer:               {kind: timer, components: 2},
	URNWindowedValue:       {kind: windowedValue, components: 2},
	URNParamWindowedValue:  {kind: pair, components: 2},
	URNCustomWindow:        {kind: customWindow, components: 1},
	URNShardedKey:          {kind: shardedKey, components: 1},
	URNNullable:            {kind: nullable, components: 1},
}

// Coders of what is part of other encodings and has no proto.
var (
	timestampPart = &Coder{kind: fixedSize, fixed: timestampBytes, least: timestampBytes}
	nothingPart   = &Coder{kind: fixedSize, fixed: 0}
)

// Bounds on what a pipeline may ask for: deeper or bigger coders are refused,
// so that cutting can neither exhaust the stack nor overflow.
const (
	maxDepth = 100
	maxFixed = 1 << 28
)

// A Coder knows the extent of encoded elements. It is immutable and safe for
// concurrent use.
type Coder struct {
	id, urn string
	kind    kind
	fixed   int // bytes of every encoding, or -1 if they vary; then least >= 1
	least   int // bytes of the shortest encoding
	a, b    *Coder
	depth   int
}

// ID is the coder's id in its pipeline.
func (c *Coder) ID() string { return c.id }

// URN is the coder's URN.
func (c *Coder) URN() string { return c.urn }

// Fixed is the number of bytes of every encoding, or -1 if they vary.
func (c *Coder) Fixed() int { return c.fixed }

// IsKV reports whether elements are a key followed by a value.
func (c *Coder) IsKV() bool { return c.urn == URNKV }

// Key is the key's coder of a kv coder, else nil.
func (c *Coder) Key() *Coder {
	if !c.IsKV() {
		return nil
	}
	return c.a
}

// Value is the value's coder of a kv coder, else nil.
func (c *Coder) Value() *Coder {
	if !c.IsKV() {
		return nil
	}
	return c.b
}

// Element is the element's coder of an iterable or nullable coder, else nil.
func (c *Coder) Element() *Coder {
	switch c.kind {
	case iterable, stateIterable, nullable:
		return c.a
	}
	return nil
}

// A Table makes Coders from a pipeline's coder protos. It is safe for
// concurrent use as long as nobody changes the map.
type Table struct {
	protos map[string]*pipepb.Coder

	mu    sync.Mutex
	built map[string]*Coder
}

// NewTable returns a table of these coders. It keeps the map.
func NewTable(protos map[string]*pipepb.Coder) *Table {
	return &Table{protos: protos, built: make(map[string]*Coder)}
}

// Coder returns the coder with that id. It fails if the coder or a part of it
// is missing, unknown to the runner, malformed or part of itself.
func (t *Table) Coder(id string) (*Coder, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.build(id, nil)
}

// build makes the coder; path holds the ids of the coders it is part of.
func (t *Table) build(id string, path []string) (*Coder, error) {
	if c, ok := t.built[id]; ok {
		if c == nil {
			return nil, fmt.Errorf("coder %q is part of itself: %s", id, strings.Join(append(path, id), " > "))
		}
		return c, nil
	}
	proto, ok := t.protos[id]
	if !ok || proto == nil {
		return nil, fmt.Errorf("coder %q%s does not exist", id, within(path))
	}
	urn := proto.GetSpec().GetUrn()
	sh, ok := shapes[urn]
	if !ok {
		return nil, fmt.Errorf("coder %q%s (%s) can't be cut by the runner; it must be length prefixed", id, within(path), urn)
	}
	ids := proto.GetComponentCoderIds()
	if len(ids) != sh.components {
		return nil, fmt.Errorf("coder %q%s (%s) must have %d component coders, but has %d", id, within(path), urn, sh.components, len(ids))
	}
	if len(path) >= maxDepth {
		return nil, fmt.Errorf("coder %q is nested more than %d deep", path[0], maxDepth)
	}
	c := &Coder{id: id, urn: urn, kind: sh.kind, fixed: -1}
	if sh.kind == fixedSize {
		c.fixed = sh.fixed
	}
	if urn != URNLengthPrefix { // whose component needn't be understood
		t.built[id] = nil // under way
		err := t.buildParts(c, ids, append(path, id))
		delete(t.built, id)
		if err != nil {
			return nil, err
		}
	}
	if c.depth > maxDepth {
		return nil, fmt.Errorf("coder %q is nested more than %d deep", id, maxDepth)
	}
	if c.measure(); c.least > maxFixed {
		return nil, fmt.Errorf("coder %q has elements of more than %d bytes at least", id, maxFixed)
	}
	t.built[id] = c
	return c, nil
}

func (t *Table) buildParts(c *Coder, ids, path []string) error {
	parts := [2]*Coder{}
	for i, id := range ids {
		p, err := t.build(id, path)
		if err != nil {
			return err
		}
		parts[i] = p
		c.depth = max(c.depth, p.depth+1)
	}
	c.a, c.b = parts[0], parts[1]
	if c.urn == URNParamWindowedValue { // only the element is there
		c.b = nothingPart
	}
	return nil
}

// measure sets fixed and least from the parts.
func (c *Coder) measure() {
	switch c.kind {
	case fixedSize:
		c.least = c.fixed
	case prefixed, varint, nullable:
		c.least = 1
	case interval:
		c.least = timestampBytes + 1
	case iterable, stateIterable:
		c.least = countBytes
	case timer:
		c.least = c.a.least + 1 + countBytes + 1
	case windowedValue:
		c.least = timestampBytes + countBytes + 1 + c.a.least
	case shardedKey:
		c.least = 1 + c.a.least
	case customWindow:
		c.least = timestampBytes + c.a.least
		if c.a.fixed >= 0 {
			c.fixed = c.least
		}
	case pair:
		c.least = c.a.least + c.b.least
		if c.a.fixed >= 0 && c.b.fixed >= 0 {
			c.fixed = c.least
		}
	}
	if c.fixed >= 0 {
		c.kind = fixedSize
	}
}

func within(path []string) string {
	if len(path) == 0 {
		return ""
	}
	return fmt.Sprintf(" (part of %q)", path[0])
}

package coders

import (
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Cuttable reports whether Table.Coder would succeed: whether the runner knows
// every part of the coder that it must cut.
func Cuttable(protos map[string]*pipepb.Coder, id string) bool {
	_, err := NewTable(protos).Coder(id)
	return err == nil
}

// WireID returns the id of a coder that the runner can cut and that encodes
// what the coder id does: each part that the runner doesn't know is replaced
// by length_prefix of that part. A kv stays a kv, an iterable an iterable. It
// adds the coders it makes to protos, under ids that follow from the ids they
// stand for, so that equal pipelines get equal coders. A coder that is cuttable
// keeps its id, thus WireID of a wire id is that id.
//
// A coder that is missing or part of itself comes back unchanged; Table.Coder
// tells what is wrong with it.
func WireID(protos map[string]*pipepb.Coder, id string) string {
	w := wiring{protos: protos, done: make(map[string]string)}
	wired, ok := w.wire(id, 0)
	if !ok {
		return id
	}
	return wired
}

// WindowWireID is WireID for the coder of a windowing strategy's windows. An
// unknown one becomes custom_window<length_prefix<…>>, which tells the runner
// each window's last timestamp.
func WindowWireID(protos map[string]*pipepb.Coder, id string) string {
	switch protos[id].GetSpec().GetUrn() {
	case URNGlobalWindow, URNIntervalWindow, URNCustomWindow:
		return WireID(protos, id)
	}
	if _, ok := protos[id]; !ok {
		return id
	}
	return compose(protos, "custom_window("+id+")", URNCustomWindow, WireID(protos, id))
}

// LengthPrefixID returns the id of length_prefix of the coder, adding it to
// protos unless id is one already.
func LengthPrefixID(protos map[string]*pipepb.Coder, id string) string {
	if protos[id].GetSpec().GetUrn() == URNLengthPrefix {
		return id
	}
	return compose(protos, "lp("+id+")", URNLengthPrefix, id)
}

// WindowedID returns the id of windowed_value<elem, window>, adding it to protos.
func WindowedID(protos map[string]*pipepb.Coder, elem, window string) string {
	return compose(protos, "windowed("+elem+","+window+")", URNWindowedValue, elem, window)
}

// StateBackedID returns the id of the coder that kv<K, iterable<V>> becomes if
// the runner may leave the tail of the values to be asked for over the state
// API: kv<K, state_backed_iterable<V>>. Another coder keeps its id.
func StateBackedID(protos map[string]*pipepb.Coder, id string) string {
	kv := protos[id]
	parts := kv.GetComponentCoderIds()
	if kv.GetSpec().GetUrn() != URNKV || len(parts) != 2 {
		return id
	}
	values := protos[parts[1]]
	if values.GetSpec().GetUrn() != URNIterable || len(values.GetComponentCoderIds()) != 1 {
		return id
	}
	backed := compose(protos, "state_backed("+parts[1]+")", URNStateBackedIterable, values.GetComponentCoderIds()[0])
	return compose(protos, "state_backed("+id+")", URNKV, parts[0], backed)
}

// compose adds a coder that has no payload.
func compose(protos map[string]*pipepb.Coder, id, urn string, parts ...string) string {
	return add(protos, id, &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: parts})
}

// add puts c under the id, or where the pipeline uses that for something else,
// under the id with primes.
func add(protos map[string]*pipepb.Coder, id string, c *pipepb.Coder) string {
	for {
		old, ok := protos[id]
		if ok && proto.Equal(old, c) {
			return id
		}
		if !ok {
			protos[id] = c
			return id
		}
		id += "'"
	}
}

// A wiring replaces what the runner can't cut.
type wiring struct {
	protos map[string]*pipepb.Coder
	done   map[string]string // "" while under way
}

// wire returns the wire id, and false if the coder can't be had at all.
func (w *wiring) wire(id string, depth int) (string, bool) {
	if wired, ok := w.done[id]; ok {
		return wired, wired != ""
	}
	c, ok := w.protos[id]
	if !ok || c == nil || depth > maxDepth {
		return "", false
	}
	urn := c.GetSpec().GetUrn()
	sh, known := shapes[urn]
	if !known || len(c.GetComponentCoderIds()) != sh.components {
		w.done[id] = LengthPrefixID(w.protos, id)
		return w.done[id], true
	}
	w.done[id] = ""
	wired, ok := id, true
	if urn != URNLengthPrefix {
		wired, ok = w.wireParts(id, c, depth)
	}
	if ok {
		w.done[id] = wired
	}
	return wired, ok
}

func (w *wiring) wireParts(id string, c *pipepb.Coder, depth int) (string, bool) {
	parts := make([]string, len(c.GetComponentCoderIds()))
	for i, part := range c.GetComponentCoderIds() {
		wired, ok := w.wire(part, depth+1)
		if !ok {
			return "", false
		}
		parts[i] = wired
	}
	if slices.Equal(parts, c.GetComponentCoderIds()) {
		return id, true
	}
	return add(w.protos, "wire("+id+")", &pipepb.Coder{Spec: c.GetSpec(), ComponentCoderIds: parts}), true
}

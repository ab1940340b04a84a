package graphtest

import (
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// standard are the names of Beam's coders that are written without "beam:coder".
var standard = map[string]bool{
	"bytes": true, "string_utf8": true, "bool": true, "varint": true, "double": true, "kv": true, "iterable": true,
	"lp": true, "nullable": true, "row": true, "timer": true, "global_window": true, "interval_window": true,
	"windowed_value": true, "sharded_key": true,
}

// coder adds the coder that is written as text, under that as its id.
func (b *builder) coder(text string) string {
	if b.c.Coders[text] != nil {
		return text
	}
	name, _, _ := strings.Cut(text, "<")
	urn := "test:coder:" + name
	switch {
	case name == "lp":
		urn = "beam:coder:length_prefix:v1"
	case standard[name]:
		urn = "beam:coder:" + name + ":v1"
	}
	c := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}}
	b.c.Coders[text] = c
	for _, part := range components(text) {
		c.ComponentCoderIds = append(c.ComponentCoderIds, b.coder(part))
	}
	return text
}

// components are the parts between the outermost brackets.
func components(text string) []string {
	_, inner, ok := strings.Cut(text, "<")
	if !ok {
		return nil
	}
	inner = strings.TrimSuffix(inner, ">")
	var parts []string
	depth, from := 0, 0
	for i, c := range inner {
		switch {
		case c == '<':
			depth++
		case c == '>':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, inner[from:i])
			from = i + 1
		}
	}
	return append(parts, inner[from:])
}

var windowFns = map[string]string{
	"global":   "beam:window_fn:global_windows:v1",
	"fixed":    "beam:window_fn:fixed_windows:v1",
	"sliding":  "beam:window_fn:sliding_windows:v1",
	"sessions": "beam:window_fn:session_windows:v1",
}

// windowing adds the strategy that a collection's line asks for.
func (b *builder) windowing(l line) string {
	fn, trigger, mode := l.value("window"), l.value("trigger"), l.value("mode")
	if fn == "" {
		fn = "global"
	}
	id := strings.TrimSuffix(strings.Join([]string{fn, trigger, mode}, "."), ".")
	id = strings.TrimSuffix(id, ".")
	w := &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: windowFns[fn]},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		WindowCoderId:    b.coder("interval_window"),
	}
	switch fn {
	case "global":
		w.WindowCoderId = b.coder("global_window")
	case "sessions":
		w.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	case "fixed", "sliding":
	default: // one of an SDK's own; "merging-" in front says that it merges
		w.WindowFn.Urn = "test:window_fn:" + fn
		w.WindowCoderId = b.coder(fn + "_window")
		if strings.HasPrefix(fn, "merging-") {
			w.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
		}
	}
	switch trigger {
	case "default":
		w.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
	case "count":
		w.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 3}}}
	}
	switch mode {
	case "retracting":
		w.AccumulationMode = pipepb.AccumulationMode_RETRACTING
	case "accumulating":
		w.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	}
	b.c.WindowingStrategies[id] = w
	return id
}

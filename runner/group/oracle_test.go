package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/element"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// cutter cuts kv<bytes, bytes> in windows of a coder.
func cutter(t testing.TB, windowURN string) *coders.Windowed {
	t.Helper()
	spec := func(urn string, parts ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: parts}
	}
	table := coders.NewTable(map[string]*pipepb.Coder{
		"bytes": spec(coders.URNBytes), "kv": spec(coders.URNKV, "bytes", "bytes"), "w": spec(windowURN),
	})
	kv, err := table.Coder("kv")
	if err != nil {
		t.Fatal(err)
	}
	w, err := table.Coder("w")
	if err != nil {
		t.Fatal(err)
	}
	return coders.NewWindowed(kv, w)
}

// An elem is an element as tests write it.
type elem struct {
	key     string
	value   string
	ts      element.Timestamp
	windows []element.Interval // nil: the global window
}

func (e elem) String() string { return fmt.Sprintf("%s=%.20q@%d%v", e.key, e.value, e.ts, e.windows) }

func appendBytes(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func encode(dst []byte, e elem) []byte {
	var windows []byte
	n := 1
	if e.windows != nil {
		n = len(e.windows)
	}
	for _, w := range e.windows {
		windows = coders.AppendInterval(windows, w)
	}
	dst = coders.AppendHeader(dst, e.ts, n, windows, coders.NoFiring)
	return appendBytes(appendBytes(dst, e.key), e.value)
}

// A result is a group as tests read it.
type result struct {
	key    string
	window string
	ts     element.Timestamp
	values []string
}

func (r result) String() string {
	return fmt.Sprintf("%s %s @%d: %s", r.key, r.window, r.ts, strings.Join(r.values, "|"))
}

// decode decodes one element that Next gave, and what follows it.
func decode(b []byte, interval bool, large *Large) (r result, rest []byte, err error) {
	r.window = "global"
	if r.ts, err = coders.DecodeTimestamp(b); err != nil {
		return r, nil, err
	}
	if n := binary.BigEndian.Uint32(b[8:]); n != 1 {
		return r, nil, fmt.Errorf("%d windows", n)
	}
	b = b[12:]
	if interval {
		w, n, err := coders.DecodeInterval(b)
		if err != nil {
			return r, nil, err
		}
		r.window = fmt.Sprintf("[%d,%d)", w.Start, w.End)
		b = b[n:]
	}
	if p, n, err := coders.DecodePane(b); err != nil || p != element.OnlyFiring {
		return r, nil, fmt.Errorf("pane %v, %w", p, err)
	} else {
		b = b[n:]
	}
	r.key, b = cutBytes(b)
	count := int64(int32(binary.BigEndian.Uint32(b)))
	b = b[4:]
	if count >= 0 {
		for range count {
			var v string
			v, b = cutBytes(b)
			r.values = append(r.values, v)
		}
		return r, b, nil
	}
	for {
		c, n := binary.Uvarint(b)
		b = b[n:]
		switch count = int64(c); {
		case count == 0:
			return r, b, nil
		case count == -1:
			var token string
			token, b = cutBytes(b)
			r.values, err = readTail(r.values, large, []byte(token))
			return r, b, err
		}
		for range count {
			var v string
			v, b = cutBytes(b)
			r.values = append(r.values, v)
		}
	}
}

func cutBytes(b []byte) (string, []byte) {
	n, m := binary.Uvarint(b)
	return string(b[m:][:n]), b[m:][n:]
}

// readTail reads a tail twice, as an SDK may, and wants it to be the same.
func readTail(values []string, large *Large, token []byte) ([]string, error) {
	var reads [2][]byte
	for i := range reads {
		var cont []byte
		for {
			page, next, err := large.Get(token, cont)
			if err != nil {
				return nil, err
			}
			for rest := page; len(rest) > 0; { // whole values
				_, rest = cutBytes(rest)
			}
			reads[i] = append(reads[i], page...)
			if cont = next; next == nil {
				break
			}
		}
	}
	if !bytes.Equal(reads[0], reads[1]) {
		return nil, errors.New("the tail differs when it is read again")
	}
	for rest := reads[0]; len(rest) > 0; {
		var v string
		v, rest = cutBytes(rest)
		values = append(values, v)
	}
	return values, nil
}

// all reads every group.
func all(g *Grouper, interval bool) ([]string, error) {
	var got []string
	var buf []byte
	for {
		out, n, err := g.Next(buf)
		if errors.Is(err, io.EOF) {
			sort.Strings(got)
			return got, nil
		}
		if err != nil {
			return got, err
		}
		buf = out
		if n == 0 != g.More() {
			return got, fmt.Errorf("count %d, more %t", n, g.More())
		}
		if n == 0 {
			continue
		}
		for len(buf) > 0 {
			r, rest, err := decode(buf, interval, g.Large())
			if err != nil {
				return got, err
			}
			n--
			buf = rest
			got = append(got, r.String())
		}
		if n != 0 {
			return got, fmt.Errorf("%d elements more or less than said", n)
		}
		buf = buf[:0]
	}
}

// noWindow is the end of what stands for the global window.
const noWindow = element.Timestamp(-1 << 62)

// oracle groups as one would on paper.
func oracle(elems []elem, cfg Config) []string {
	type group struct {
		key string
		w   element.Interval
		all []elem
	}
	var groups []*group
	byID := map[string]*group{}
	for _, e := range elems {
		windows := e.windows
		if windows == nil {
			windows = []element.Interval{{Start: 1, End: noWindow}}
		}
		for _, w := range windows {
			id := fmt.Sprint(e.key, "/", w)
			if cfg.Merging {
				id = fmt.Sprint(e.key, "/", w, len(byID)) // each alone
			}
			if byID[id] == nil {
				byID[id] = &group{key: e.key, w: w}
				groups = append(groups, byID[id])
			}
			byID[id].all = append(byID[id].all, e)
		}
	}
	for cfg.Merging { // any two that overlap, until there are none
		i, j := overlapping(len(groups), func(i, j int) bool {
			a, b := groups[i], groups[j]
			return a.key == b.key && (a.w == b.w || a.w.Start < b.w.End && b.w.Start < a.w.End)
		})
		if i < 0 {
			break
		}
		a, b := groups[i], groups[j]
		a.w = element.Interval{Start: min(a.w.Start, b.w.Start), End: max(a.w.End, b.w.End)}
		a.all = append(a.all, b.all...)
		groups = append(groups[:j], groups[j+1:]...)
	}
	var want []string
	for _, gr := range groups {
		r := result{key: gr.key, window: fmt.Sprintf("[%d,%d)", gr.w.Start, gr.w.End), ts: gr.w.End - 1}
		if gr.w.End == noWindow {
			r.window, r.ts = "global", element.EndOfGlobalWindow
		}
		if cfg.Timestamp != EndOfWindow {
			r.ts = gr.all[0].ts
		}
		for _, e := range gr.all {
			switch cfg.Timestamp {
			case Earliest:
				r.ts = min(r.ts, e.ts)
			case Latest:
				r.ts = max(r.ts, e.ts)
			}
			r.values = append(r.values, e.value)
		}
		want = append(want, r.String())
	}
	sort.Strings(want)
	return want
}

func overlapping(n int, overlap func(i, j int) bool) (int, int) {
	for i := range n {
		for j := i + 1; j < n; j++ {
			if overlap(i, j) {
				return i, j
			}
		}
	}
	return -1, -1
}

// sortValues makes the order of a session's values not count.
func sortValues(results []string) []string {
	for i, r := range results {
		head, values, _ := strings.Cut(r, ": ")
		v := strings.Split(values, "|")
		sort.Strings(v)
		results[i] = head + ": " + strings.Join(v, "|")
	}
	sort.Strings(results)
	return results
}

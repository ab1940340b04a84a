package group

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"
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

func drawElem(t *rapid.T, interval, merging bool) elem {
	e := elem{
		key:   rapid.SampledFrom([]string{"", "a", "b", "cc", "a longer key than the others", strings.Repeat("k", 5000)}).Draw(t, "key"),
		value: strings.Repeat(string(rapid.ByteRange('a', 'z').Draw(t, "v")), rapid.SampledFrom([]int{0, 1, 7, 100, 3000, 20_000}).Draw(t, "len")),
		ts:    element.Timestamp(rapid.IntRange(-50, 50).Draw(t, "ts")),
	}
	if rapid.Bool().Draw(t, "many keys") {
		e.key = fmt.Sprint(rapid.IntRange(0, 1000).Draw(t, "n"))
	}
	if !interval {
		return e
	}
	for range rapid.IntRange(1, 3).Draw(t, "windows") {
		start := element.Timestamp(rapid.IntRange(-100, 100).Draw(t, "start"))
		w := element.Interval{Start: start, End: start + 10}
		if merging {
			w.End = start + element.Timestamp(rapid.IntRange(1, 20).Draw(t, "span"))
		} else {
			w.Start = w.Start / 10 * 10
			w.End = w.Start + 10
		}
		e.windows = append(e.windows, w)
	}
	return e
}

// TestGroup compares groupers of any memory with an oracle.
func TestGroup(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name              string
		interval, merging bool
	}{{"global", false, false}, {"intervals", true, false}, {"sessions", true, true}} {
		urn := coders.URNGlobalWindow
		if c.interval {
			urn = coders.URNIntervalWindow
		}
		input := cutter(t, urn)
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				cfg := Config{
					Input: input, Merging: c.merging, Dir: dir,
					Timestamp:   Combiner(rapid.IntRange(0, 2).Draw(t, "combiner")),
					StateBacked: rapid.Bool().Draw(t, "state backed"),
					LargeBytes:  rapid.SampledFrom([]int64{1, 1000, 1 << 20}).Draw(t, "large"),
					Memory:      rapid.SampledFrom([]int64{1, 100_000, 1 << 20}).Draw(t, "memory"),
					Budget:      membudget.New(1 << 30),
				}
				elems := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) elem {
					return drawElem(t, c.interval, c.merging)
				}), 0, 100).Draw(t, "elems")
				g := New(cfg)
				defer g.Large().Close()
				defer g.Close()
				for _, e := range elems {
					if err := g.Add(encode(nil, e)); err != nil {
						t.Fatal(err)
					}
				}
				if err := g.Finish(context.Background()); err != nil {
					t.Fatal(err)
				}
				got, err := all(g, c.interval)
				if err != nil {
					t.Fatal(err)
				}
				want := oracle(elems, cfg)
				if c.merging {
					got, want = sortValues(got), sortValues(want)
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("got  %.1000q\nwant %.1000q", got, want)
				}
				g.Close()
				if used := cfg.Budget.Used(); used != 0 {
					t.Fatalf("%d bytes of the budget are still taken", used)
				}
			})
		})
	}
}

// fill adds n elements of k keys.
func fill(t testing.TB, g *Grouper, n, keys, valueLen int) {
	t.Helper()
	var chunk []byte
	value := strings.Repeat("v", valueLen)
	for i := range n {
		chunk = encode(chunk, elem{key: fmt.Sprint(i % keys), value: value[:valueLen-1-i%2]})
		if len(chunk) > 64<<10 || i == n-1 {
			if err := g.Add(chunk); err != nil {
				t.Fatal(err)
			}
			chunk = chunk[:0]
		}
	}
	if err := g.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Elements of one key come one after another and as they were, also when the
// key comes in pieces and from many runs.
func TestKeyed(t *testing.T) {
	for _, memory := range []int64{1 << 30, 500_000, 1} {
		budget := membudget.New(1 << 30)
		input := cutter(t, coders.URNGlobalWindow)
		g := New(Config{Input: input, Keyed: true, Budget: budget, Memory: memory, Dir: t.TempDir()})
		fill(t, g, 9000, 3, 1000)
		seen := map[string]int{}
		last := ""
		more := false
		for {
			out, n, err := g.Next(nil)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(out) > 3<<20 {
				t.Errorf("a piece of %d bytes", len(out))
			}
			var v coders.Value
			for rest := out; len(rest) > 0; n-- {
				if rest, err = input.Next(rest, &v); err != nil {
					t.Fatal(err)
				}
				key := string(v.Key())
				if key != last && (seen[key] > 0 || more) {
					t.Fatalf("key %q comes again, or in the midst of %q", key, last)
				}
				last = key
				more = false
				seen[key]++
			}
			if n != 0 {
				t.Fatalf("%d elements more or less than said", n)
			}
			more = g.More()
		}
		if len(seen) != 3 || seen[last] != 3000 {
			t.Fatalf("memory %d: %v", memory, seen)
		}
		g.Close()
		if budget.Used() != 0 {
			t.Errorf("%d bytes are still taken", budget.Used())
		}
	}
}

// One key with far more values than memory: its element is small, its tail
// comes by pages, and the budget is kept.
func TestHugeKey(t *testing.T) {
	for _, stateBacked := range []bool{true, false} {
		budget := membudget.New(8 << 20)
		g := New(Config{
			Input: cutter(t, coders.URNGlobalWindow), Budget: budget, StateBacked: stateBacked, Dir: t.TempDir(),
		})
		const n, size = 60_000, 1000
		fill(t, g, n, 1, size)
		if len(g.runs) < 2 {
			t.Fatalf("%d runs", len(g.runs))
		}
		from := g.Large().Mark()
		elem, most := []byte(nil), 0
		for {
			out, count, err := g.Next(nil)
			if err != nil {
				t.Fatal(err)
			}
			elem = append(elem, out...)
			most = max(most, len(out))
			if used := budget.Used(); used > budget.Limit() {
				t.Errorf("%d bytes taken", used)
			}
			if count == 1 {
				break
			}
		}
		if most > defaultLarge+2*recordBytes {
			t.Errorf("a piece of %d bytes", most)
		}
		r, rest, err := decode(elem, false, g.Large())
		if err != nil || len(rest) != 0 || len(r.values) != n {
			t.Fatalf("%d values, %d bytes too many, %v", len(r.values), len(rest), err)
		}
		if _, _, err := g.Next(nil); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		g.Close()
		to := g.Large().Mark()
		if stateBacked != (to == from+1) {
			t.Fatalf("marks %d to %d", from, to)
		}
		g.Large().Release(from, to)
		if _, _, err := g.Large().Get(make([]byte, 8), nil); err == nil {
			t.Error("a released tail must be gone")
		}
		if budget.Used() != 0 {
			t.Errorf("%d bytes are still taken", budget.Used())
		}
	}
}

func TestGetRefusesWhatItDidNotGive(t *testing.T) {
	l := newLarge(membudget.New(1<<20), t.TempDir())
	w, err := l.newTail()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.add([]byte{1, 'x'}, 1); err != nil {
		t.Fatal(err)
	}
	tail, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	token, err := l.put(tail)
	if err != nil {
		t.Fatal(err)
	}
	if v, next, err := l.Get(token, nil); err != nil || next != nil || string(v) != "\x01x" {
		t.Fatalf("%q %x %v", v, next, err)
	}
	for _, c := range [][2][]byte{{nil, nil}, {[]byte("short"), nil}, {token, []byte("short")},
		{token, bytes.Repeat([]byte{255}, 8)}, {bytes.Repeat([]byte{255}, 8), nil}} {
		if _, _, err := l.Get(c[0], c[1]); err == nil {
			t.Errorf("Get(%x, %x) must fail", c[0], c[1])
		}
	}
	l.Close()
	if _, _, err := l.Get(token, nil); err == nil {
		t.Error("a closed Large must refuse")
	}
}

// Runs that are too many to be read at once are merged before.
func TestManyRuns(t *testing.T) {
	budget := membudget.New(1 << 30)
	g := New(Config{Input: cutter(t, coders.URNGlobalWindow), Budget: budget, Memory: 30_000, Dir: t.TempDir()})
	const n, keys = 20_000, 500
	fill(t, g, n, keys, 100)
	got, err := all(g, false)
	if err != nil {
		t.Fatal(err)
	}
	values := 0
	for _, r := range got {
		values += strings.Count(r, "|") + 1
	}
	if len(got) != keys || values != n {
		t.Fatalf("%d groups, %d values", len(got), values)
	}
	g.Close()
	if budget.Used() != 0 {
		t.Errorf("%d bytes are still taken", budget.Used())
	}
}

// A run that has changed on disk is an error.
func TestDamagedRun(t *testing.T) {
	for at := range int64(60) {
		g := New(Config{Input: cutter(t, coders.URNGlobalWindow), Budget: membudget.New(1 << 30), Memory: 1, Dir: t.TempDir()})
		chunk := []byte(nil)
		for i := range 100 {
			chunk = encode(chunk, elem{key: fmt.Sprint(i), value: strings.Repeat("x", 100)})
		}
		if err := g.Add(chunk); err != nil {
			t.Fatal(err)
		}
		if g.file == nil {
			t.Fatal("nothing was spilled")
		}
		var b [1]byte
		if _, err := g.file.f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := g.file.f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		err := g.Finish(context.Background())
		if err == nil {
			_, err = all(g, false)
		}
		if err == nil {
			t.Errorf("byte %d changed: no error", at)
		}
		g.Close()
	}
}

func TestMalformedInput(t *testing.T) {
	g := New(Config{Input: cutter(t, coders.URNGlobalWindow), Budget: membudget.New(1 << 20), Dir: t.TempDir()})
	defer g.Close()
	whole := encode(nil, elem{key: "k", value: "v"})
	if err := g.Add(whole[:len(whole)-1]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

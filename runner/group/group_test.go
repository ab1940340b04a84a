package group

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"

	"pgregory.net/rapid"
)

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
	e.windows = []element.Interval{} // also none: between windows that slide by more than their size
	for range rapid.IntRange(0, 3).Draw(t, "windows") {
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

package side

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// blocks is a Source.
type blocks [][]byte

func (b *blocks) Next(context.Context) ([]byte, int, error) {
	if len(*b) == 0 {
		return nil, 0, io.EOF
	}
	first := (*b)[0]
	*b = (*b)[1:]
	return first, 0, nil
}

func cutter(t testing.TB, window string) *coders.Windowed {
	protos := map[string]*pipepb.Coder{
		"bytes": {Spec: &pipepb.FunctionSpec{Urn: coders.URNBytes}},
		"kv":    {Spec: &pipepb.FunctionSpec{Urn: coders.URNKV}, ComponentCoderIds: []string{"bytes", "bytes"}},
		"win":   {Spec: &pipepb.FunctionSpec{Urn: window}},
	}
	table := coders.NewTable(protos)
	kv, err := table.Coder("kv")
	if err != nil {
		t.Fatal(err)
	}
	win, err := table.Coder("win")
	if err != nil {
		t.Fatal(err)
	}
	return coders.NewWindowed(kv, win)
}

func text(s string) []byte { return append(binary.AppendUvarint(nil, uint64(len(s))), s...) }

func interval(i int) []byte {
	return coders.AppendInterval(nil, element.Interval{Start: element.Timestamp(i) * 10, End: element.Timestamp(i)*10 + 10})
}

// A world is what a side input holds, told as plainly as can be.
type world struct {
	blocks blocks
	elems  map[string][]byte            // window: elements in order
	values map[string]map[string][]byte // window, key: values in order
	counts map[string]int               // window and key: number of values
}

// add puts an element into windows 0..n-1 from the given one on.
func (w *world) add(key, value string, windows ...int) {
	if w.elems == nil {
		w.elems, w.values, w.counts = map[string][]byte{}, map[string]map[string][]byte{}, map[string]int{}
	}
	var wins []byte
	elem := append(text(key), text(value)...)
	for _, i := range windows {
		win := interval(i)
		wins = append(wins, win...)
		w.elems[string(win)] = append(w.elems[string(win)], elem...)
		if w.values[string(win)] == nil {
			w.values[string(win)] = map[string][]byte{}
		}
		w.values[string(win)][string(text(key))] = append(w.values[string(win)][string(text(key))], text(value)...)
		w.counts[string(win)+string(text(key))]++
	}
	raw := append(coders.AppendHeader(nil, 5, len(windows), wins, coders.NoFiring), elem...)
	if n := len(w.blocks); n > 0 && len(w.blocks[n-1]) < 8<<10 {
		w.blocks[n-1] = append(w.blocks[n-1], raw...)
	} else {
		w.blocks = append(w.blocks, raw)
	}
}

func (w *world) build(t testing.TB, access Access, opt Options) *View {
	t.Helper()
	src := slices.Clone(w.blocks)
	v, err := Build(context.Background(), &src, cutter(t, coders.URNIntervalWindow), access, opt)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// pages asks for all pages. No page may be longer than allowed, unless it is
// one element.
func pages(t testing.TB, v *View, read func(token []byte) ([]byte, []byte, error)) (all []byte) {
	t.Helper()
	var token []byte
	for {
		data, next, err := read(token)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
		if next == nil {
			return all
		}
		if len(data) == 0 {
			t.Fatal("an empty page with a successor")
		}
		token = next
	}
}

func (w *world) checkIterable(t *testing.T, v *View) {
	t.Helper()
	for win, want := range w.elems {
		key := &fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{Window: []byte(win)}}}
		if got := pages(t, v, func(tok []byte) ([]byte, []byte, error) { return v.Read(key, tok) }); !bytes.Equal(got, want) {
			t.Errorf("window %x: %d bytes, want %d", win, len(got), len(want))
		}
	}
}

func (w *world) checkMultimap(t *testing.T, v *View) {
	t.Helper()
	for win, keys := range w.values {
		for key, want := range keys {
			sk := &fnpb.StateKey{Type: &fnpb.StateKey_MultimapSideInput_{
				MultimapSideInput: &fnpb.StateKey_MultimapSideInput{Window: []byte(win), Key: []byte(key)}}}
			if got := pages(t, v, func(tok []byte) ([]byte, []byte, error) { return v.Read(sk, tok) }); !bytes.Equal(got, want) {
				t.Errorf("window %x, key %.20q: %d bytes, want %d", win, key, len(got), len(want))
			}
		}
		sk := &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysSideInput_{
			MultimapKeysSideInput: &fnpb.StateKey_MultimapKeysSideInput{Window: []byte(win)}}}
		got := map[string]int{}
		for all := pages(t, v, func(tok []byte) ([]byte, []byte, error) { return v.Read(sk, tok) }); len(all) > 0; {
			n, size := binary.Uvarint(all)
			got[string(all[:int(n)+size])]++
			all = all[int(n)+size:]
		}
		for key := range keys {
			if got[key] != 1 {
				t.Errorf("window %x: key %.20q is there %d times", win, key, got[key])
			}
		}
		if len(got) != len(keys) {
			t.Errorf("window %x: %d keys, want %d", win, len(got), len(keys))
		}
		w.checkBulk(t, v, win)
	}
}

// checkBulk decodes each page by itself, as SDKs do.
func (w *world) checkBulk(t *testing.T, v *View, win string) {
	t.Helper()
	sk := &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysValuesSideInput_{
		MultimapKeysValuesSideInput: &fnpb.StateKey_MultimapKeysValuesSideInput{Window: []byte(win)}}}
	left := len(w.values[win])
	pages(t, v, func(tok []byte) ([]byte, []byte, error) {
		data, next, err := v.Read(sk, tok)
		for all := data; len(all) > 0; left-- {
			n, size := binary.Uvarint(all)
			key := string(all[:int(n)+size])
			count := int32(binary.BigEndian.Uint32(all[len(key):]))
			all = all[len(key)+4:]
			chunked := count < 0
			total := 0
			var values []byte
			for {
				if chunked {
					c, size := binary.Uvarint(all)
					all, count = all[size:], int32(c)
				}
				total += int(count)
				for range count {
					n, size := binary.Uvarint(all)
					values = append(values, all[:int(n)+size]...)
					all = all[int(n)+size:]
				}
				if !chunked || count == 0 {
					break
				}
			}
			if !bytes.Equal(values, w.values[win][key]) || total != w.counts[win+key] {
				t.Errorf("bulk read, key %.20q: %d values, want %d", key, total, w.counts[win+key])
			}
		}
		return data, next, err
	})
	if left != 0 {
		t.Errorf("bulk read misses %d keys", left)
	}
}

func someWorld(seed uint64) *world {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := &world{}
	for range 20_000 {
		key := fmt.Sprint("key", rnd.IntN(500))
		if rnd.IntN(3) == 0 {
			key = "hot"
		}
		first := rnd.IntN(3)
		windows := []int{first, first + 1, first + 2}[:rnd.IntN(4)]
		w.add(key, strings.Repeat("v", rnd.IntN(30)), windows...)
	}
	w.add("hot", strings.Repeat("long", 500_000), 1)
	w.add("", "value of the empty key", 1)
	w.add("last", "", 0, 4)
	return w
}

// A view holds the same whether in memory, on disk in one or many runs, and
// whatever the hash.
func TestView(t *testing.T) {
	w := someWorld(1)
	bad := func(key []byte) uint64 { return uint64(len(key)) }
	for _, test := range []struct {
		name string
		opt  Options
	}{
		{"memory", Options{Budget: membudget.New(1 << 30)}},
		{"memory, small pages", Options{Budget: membudget.New(1 << 30), PageBytes: 100}},
		{"memory, bad hash", Options{Budget: membudget.New(1 << 30), hash: bad}},
		{"disk", Options{Budget: membudget.New(0), leastRun: 100 << 10}},
		{"disk, small pages", Options{Budget: membudget.New(0), leastRun: 100 << 10, PageBytes: 100}},
		{"disk, bad hash", Options{Budget: membudget.New(200 << 10), leastRun: 1, PageBytes: 1000, hash: bad}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.opt.Dir = t.TempDir()
			for _, access := range []Access{Iterable, Multimap} {
				v := w.build(t, access, test.opt)
				if _, onDisk := v.store.(*file); onDisk != strings.HasPrefix(test.name, "disk") {
					t.Fatalf("store is a %T", v.store)
				}
				if access == Iterable {
					w.checkIterable(t, v)
				} else {
					w.checkMultimap(t, v)
				}
				for _, read := range []func(win, tok []byte) ([]byte, []byte, error){v.Keys, v.KeysValues,
					func(win, tok []byte) ([]byte, []byte, error) { return v.Values(win, text("hot"), tok) }} {
					if data, next, err := read(interval(99), nil); len(data) > 0 || next != nil || err != nil {
						t.Errorf("unknown window: %d bytes, %v, %v", len(data), next, err)
					}
				}
				if used := test.opt.Budget.Used(); used != v.Bytes() {
					t.Errorf("%d bytes taken, the view has %d", used, v.Bytes())
				}
				v.Close()
				if used := test.opt.Budget.Used(); used != 0 {
					t.Errorf("%d bytes are still taken", used)
				}
			}
		})
	}
}

// Many runs are merged in several passes, and values keep their order.
func TestManyRuns(t *testing.T) {
	w := &world{}
	budget := membudget.New(0)
	for i := range 80 {
		w.add(fmt.Sprint("key", i%7), fmt.Sprint(i, strings.Repeat("x", 100<<10)), 0)
	}
	src := slices.Clone(w.blocks)
	v, err := Build(context.Background(), &src, cutter(t, coders.URNIntervalWindow), Multimap, Options{Budget: budget, Dir: t.TempDir(), leastRun: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	w.checkMultimap(t, v)
}

func TestGlobalWindow(t *testing.T) {
	elem := append(text("k"), text("v")...)
	src := blocks{append(coders.AppendHeader(nil, 5, 1, nil, coders.NoFiring), elem...)}
	v, err := Build(context.Background(), &src, cutter(t, coders.URNGlobalWindow), Iterable, Options{Budget: membudget.New(1 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	if data, next, err := v.Values(nil, nil, nil); !bytes.Equal(data, elem) || next != nil || err != nil {
		t.Errorf("got %q, %v, %v", data, next, err)
	}
}

// Tokens come back from outside.
func TestTokens(t *testing.T) {
	w := someWorld(2)
	for _, limit := range []int64{1 << 30, 0} {
		v := w.build(t, Multimap, Options{Budget: membudget.New(limit), Dir: t.TempDir(), PageBytes: 100, leastRun: 1 << 20})
		win, key := interval(1), text("hot")
		_, good, err := v.Values(win, key, nil)
		if err != nil || good == nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{{}, {0x80}, binary.AppendUvarint(nil, 1<<61), binary.AppendUvarint(nil, 1<<63), append(good, 0)} {
			if _, _, err := v.Values(win, key, bad); !errors.Is(err, errToken) {
				t.Errorf("token %x: %v", bad, err)
			}
			v.Keys(win, bad) // must not panic
			v.KeysValues(win, bad)
		}
		if _, _, err := v.Values(win, text("key1"), good); !errors.Is(err, errToken) {
			t.Errorf("another key's token: %v", err)
		}
		for i := range uint64(3000) {
			v.Values(win, key, binary.AppendUvarint(nil, i))
			v.Keys(win, binary.AppendUvarint(nil, i))
		}
		v.Close()
	}
}

// A flipped bit is never served.
func TestCorruption(t *testing.T) {
	w := someWorld(3)
	v := w.build(t, Iterable, Options{Budget: membudget.New(0), Dir: t.TempDir(), leastRun: 1 << 20})
	defer v.Close()
	f := v.store.(*file).f
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 400; off++ {
		var old [1]byte
		if off == 200 {
			off = size - 200
		}
		f.ReadAt(old[:], off)
		f.WriteAt([]byte{old[0] ^ 4}, off)
		found := false
		for win := range w.elems {
			for token := []byte(nil); ; {
				_, next, err := v.Values([]byte(win), nil, token)
				if found = found || err != nil; next == nil {
					break
				}
				token = next
			}
		}
		if !found {
			t.Fatalf("a flipped bit at %d was not found", off)
		}
		f.WriteAt(old[:], off)
	}
}

func TestBuildErrors(t *testing.T) {
	budget := membudget.New(1 << 20)
	for name, src := range map[string]Source{
		"malformed": &blocks{[]byte("garbage")},
		"source":    failing{},
	} {
		if _, err := Build(context.Background(), src, cutter(t, coders.URNIntervalWindow), Multimap, Options{Budget: budget}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if budget.Used() != 0 {
		t.Errorf("%d bytes are still taken", budget.Used())
	}
	v := someWorld(4).build(t, Iterable, Options{Budget: membudget.New(1 << 30)})
	key := &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysSideInput_{}}
	if _, _, err := v.Read(key, nil); err == nil || !strings.Contains(err.Error(), "iterable") {
		t.Errorf("keys of an iterable: %v", err)
	}
}

type failing struct{}

func (failing) Next(context.Context) ([]byte, int, error) { return nil, 0, errors.New("disk is gone") }

func BenchmarkBuild(b *testing.B) {
	w := &world{}
	const n = 200_000
	for i := range n {
		w.add(fmt.Sprintf("key%08d", rand.IntN(n/4)), strings.Repeat("v", 80), i%2)
	}
	for _, access := range []Access{Iterable, Multimap} {
		for name, limit := range map[string]int64{"memory": 1 << 30, "disk": 0} {
			b.Run(name+"/"+strings.Split(string(access), ":")[2], func(b *testing.B) {
				for range b.N {
					w.build(b, access, Options{Budget: membudget.New(limit), Dir: b.TempDir()}).Close()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/elem")
			})
		}
	}
}

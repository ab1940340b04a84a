package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"trestle/internal/membudget"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/cockroachdb/datadriven"
)

func bagKey(state, key string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: "t", UserStateId: state, Key: []byte(key)}}}
}

func mapKey(state, key, mapKey string) *fnpb.StateKey {
	if mapKey == "*" {
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{
			TransformId: "t", UserStateId: state, Key: []byte(key)}}}
	}
	return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapUserState_{MultimapUserState: &fnpb.StateKey_MultimapUserState{
		TransformId: "t", UserStateId: state, Key: []byte(key), MapKey: []byte(mapKey)}}}
}

func listKey(state, key string, lo, hi int64) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_OrderedListUserState_{OrderedListUserState: &fnpb.StateKey_OrderedListUserState{
		TransformId: "t", UserStateId: state, Key: []byte(key), Range: &fnpb.OrderedListRange{Start: lo, End: hi}}}}
}

func listEntry(sortKey int64, value string) []byte {
	b := binary.AppendUvarint(nil, uint64(sortKey))
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// read returns all pages.
func read(t testing.TB, b *Bundle, key *fnpb.StateKey) (all []byte, pages int) {
	t.Helper()
	var token []byte
	for {
		data, next, err := b.Get(context.Background(), key, &fnpb.StateGetRequest{ContinuationToken: token})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
		pages++
		if token = next; next == nil {
			return all, pages
		}
	}
}

// TestState runs requests of bundles as in testdata: what each reads is what a
// worker would see.
func TestState(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		budget := membudget.New(1 << 20)
		batch := NewBatch(Options{Budget: budget, Declared: map[string][]string{"t": {"bag", "map", "list"}}})
		defer batch.Close()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "reset" {
				if err := batch.Reset(); err != nil {
					return err.Error()
				}
				return fmt.Sprintf("%d bytes taken", budget.Used())
			}
			b := batch.Bundle()
			var out strings.Builder
			for _, line := range strings.Split(d.Input, "\n") {
				step(t, &out, b, strings.Fields(line))
			}
			if d.Cmd == "abort" {
				b.Abort()
			} else if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			if len(batch.cells) == 0 && budget.Used() != 0 {
				t.Errorf("%s: no state, but %d bytes taken", d.Pos, budget.Used())
			}
			return out.String()
		})
	})
}

// step runs a request: "read|append|clear KIND KEY [MAPKEY|LO HI] [VALUES…]".
func step(t *testing.T, out *strings.Builder, b *Bundle, f []string) {
	num := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var key *fnpb.StateKey
	rest := f[3:]
	data := func() []byte { return []byte(strings.Join(rest, "")) }
	switch {
	case f[1] == "map":
		key, rest = mapKey("map", f[2], f[3]), f[4:]
	case f[1] == "list" && f[0] == "append":
		key = listKey("list", f[2], 0, 0)
		data = func() (all []byte) {
			for _, e := range rest {
				at, value, _ := strings.Cut(e, "=")
				all = append(all, listEntry(num(at), value)...)
			}
			return all
		}
	case f[1] == "list":
		key = listKey("list", f[2], num(f[3]), num(f[4]))
	default:
		key = bagKey(f[1], f[2])
	}
	ctx := context.Background()
	var err error
	switch f[0] {
	case "append":
		err = b.Append(ctx, key, data())
	case "clear":
		err = b.Clear(ctx, key)
	case "read":
		got, _, gerr := b.Get(ctx, key, nil)
		if err = gerr; err == nil && len(got) == 0 {
			got = []byte("nothing")
			f[1] = ""
		}
		if f[1] == "list" {
			for err == nil && len(got) > 0 {
				at, n := binary.Uvarint(got)
				size, m := binary.Uvarint(got[n:])
				fmt.Fprintf(out, "%d=%s ", int64(at), got[n+m:n+m+int(size)])
				got = got[n+m+int(size):]
			}
		}
		if err == nil {
			fmt.Fprintf(out, "%s\n", got)
		}
	}
	if err != nil {
		fmt.Fprintln(out, err)
	}
}

// Bags of any size are read back in pages that end where appends end, from
// memory or disk.
func TestBigBags(t *testing.T) {
	for _, limit := range []int64{1 << 30, 100 << 10} {
		budget := membudget.New(limit)
		batch := NewBatch(Options{Budget: budget, Dir: t.TempDir(), PageBytes: 50 << 10})
		ctx := context.Background()
		var want []byte
		for i := range 3 { // each bundle goes on where the last one ended
			lost := batch.Bundle()
			lost.Append(ctx, bagKey("bag", "k"), []byte("lost"))
			lost.Abort()
			b := batch.Bundle()
			for j := range 1000 {
				data := bytes.Repeat([]byte{byte(i*7 + j)}, 1+j)
				if err := b.Append(ctx, bagKey("bag", "k"), data); err != nil {
					t.Fatal(err)
				}
				if err := b.Append(ctx, mapKey("map", "k", "m"), data); err != nil {
					t.Fatal(err)
				}
				want = append(want, data...)
			}
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			if onDisk := batch.spill.file != nil; onDisk != (limit < 1<<30) {
				t.Errorf("limit %d: on disk: %v", limit, onDisk)
			}
			if over := budget.Used() - limit; over > 200<<10 {
				t.Errorf("limit %d: %d bytes taken", limit, budget.Used())
			}
		}
		b := batch.Bundle()
		for _, key := range []*fnpb.StateKey{bagKey("bag", "k"), mapKey("map", "k", "m")} {
			if got, pages := read(t, b, key); !bytes.Equal(got, want) || pages < 10 {
				t.Errorf("limit %d: %d bytes in %d pages, want %d bytes", limit, len(got), pages, len(want))
			}
		}
		b.Abort()
		if err := batch.Reset(); err != nil {
			t.Fatal(err)
		}
		b = batch.Bundle()
		if got, _ := read(t, b, bagKey("bag", "k")); len(got) > 0 || budget.Used() != 0 {
			t.Errorf("after reset: %d bytes of state, %d bytes taken", len(got), budget.Used())
		}
		batch.Close()
	}
}

// A flipped bit on disk fails the request.
func TestCorruptFile(t *testing.T) {
	batch := NewBatch(Options{Budget: membudget.New(0), Dir: t.TempDir(), PageBytes: 100})
	defer batch.Close()
	b := batch.Bundle()
	for range 5 {
		b.Append(context.Background(), bagKey("bag", "k"), bytes.Repeat([]byte("x"), 200))
	}
	batch.spill.file.WriteAt([]byte("y"), 7)
	if _, _, err := b.Get(context.Background(), bagKey("bag", "k"), nil); err != errCorrupt {
		t.Errorf("got %v", err)
	}
}

// Small pages of keys and lists together are the whole, and name the same
// place even if the state changes in between.
func TestPages(t *testing.T) {
	batch := NewBatch(Options{Budget: membudget.New(1 << 30), PageBytes: 20})
	defer batch.Close()
	b := batch.Bundle()
	ctx := context.Background()
	var keys, entries []byte
	for i := range 50 {
		key := fmt.Sprintf("key%02d", i)
		b.Append(ctx, mapKey("map", "k", key), []byte("v"))
		keys = append(keys, key...)
		e := listEntry(int64(i/10), key)
		b.Append(ctx, listKey("list", "k", 0, 0), e)
		entries = append(entries, e...)
	}
	if got, pages := read(t, b, mapKey("map", "k", "*")); !bytes.Equal(got, keys) || pages != 13 {
		t.Errorf("%d pages of keys: %s", pages, got)
	}
	all := listKey("list", "k", math.MinInt64, math.MaxInt64)
	if got, pages := read(t, b, all); !bytes.Equal(got, entries) || pages < 10 {
		t.Errorf("%d pages of entries: %s", pages, got)
	}
	data, token, _ := b.Get(ctx, all, nil)
	b.Clear(ctx, listKey("list", "k", -5, 0)) // nothing there
	b.Append(ctx, all, listEntry(-9, "before"))
	rest, _, _ := b.Get(ctx, all, &fnpb.StateGetRequest{ContinuationToken: token})
	if whole := append(data, rest...); !bytes.HasPrefix(entries, whole) || len(rest) == 0 {
		t.Errorf("second page is %q after %q", rest, data)
	}
	for _, token := range [][]byte{{}, {0x80}, {7, 7, 7}, bytes.Repeat([]byte{0xff}, 20)} {
		for _, key := range []*fnpb.StateKey{bagKey("bag", "k"), mapKey("map", "k", "*"), all} {
			b.Get(ctx, key, &fnpb.StateGetRequest{ContinuationToken: token}) // must not panic
		}
	}
}

func TestRefusals(t *testing.T) {
	batch := NewBatch(Options{Budget: membudget.New(1 << 20), Declared: map[string][]string{"t": {"count"}}})
	defer batch.Close()
	b := batch.Bundle()
	ctx := context.Background()
	for _, test := range []struct {
		key  *fnpb.StateKey
		want string
	}{
		{bagKey("seen", "k"), `unknown user state "seen" of transform "t", which declares [count]`},
		{&fnpb.StateKey{}, "state request of a kind that is not known"},
		{&fnpb.StateKey{Type: &fnpb.StateKey_Runner_{}}, "state request for no user state"},
	} {
		for _, err := range []error{b.Append(ctx, test.key, nil), b.Clear(ctx, test.key)} {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		}
	}
	b.Abort()
	b.Abort()
	if err := b.Append(ctx, bagKey("count", "k"), nil); err == nil {
		t.Error("a bundle that has ended takes requests")
	}
	if err := b.Commit(); err == nil {
		t.Error("an aborted bundle commits")
	}
}

// FuzzList appends hostile bytes to an ordered list: they are refused or
// sorted, and nothing is lost.
func FuzzList(f *testing.F) {
	f.Add(slices.Concat(listEntry(5, "a"), listEntry(-1, "b"), listEntry(5, "c")))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := list(nil).with(data)
		if err != nil {
			return
		}
		n := 0
		for i, e := range l {
			n += len(e.enc)
			if i > 0 && l[i-1].sortKey > e.sortKey {
				t.Fatalf("%v is not sorted", l)
			}
		}
		if n != len(data) {
			t.Fatalf("%d bytes of %d", n, len(data))
		}
	})
}

// However appends and clears are spread over bundles that commit or abort, the
// state is that of the committed ones.
func TestAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	budget := membudget.New(2000)
	batch := NewBatch(Options{Budget: budget, Dir: os.TempDir(), PageBytes: 64})
	model := map[string]string{}
	keysOf := func(m map[string]string) (keys []string) {
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return keys
	}
	ctx := context.Background()
	for i := range 400 {
		b := batch.Bundle()
		staged := map[string]string{}
		for k, v := range model {
			staged[k] = v
		}
		for range rnd.IntN(20) {
			k := fmt.Sprint("m", rnd.IntN(5))
			switch rnd.IntN(10) {
			case 0:
				b.Clear(ctx, mapKey("map", "k", "*"))
				clear(staged)
			case 1, 2:
				b.Clear(ctx, mapKey("map", "k", k))
				delete(staged, k)
			default:
				v := strings.Repeat(fmt.Sprint(i%10), 1+rnd.IntN(60))
				b.Append(ctx, mapKey("map", "k", k), []byte(v))
				staged[k] += v
			}
		}
		if got, _ := read(t, b, mapKey("map", "k", "*")); string(got) != strings.Join(keysOf(staged), "") {
			t.Fatalf("bundle %d: keys %s, want %v", i, got, keysOf(staged))
		}
		for k := range 5 {
			if got, _ := read(t, b, mapKey("map", "k", fmt.Sprint("m", k))); string(got) != staged[fmt.Sprint("m", k)] {
				t.Fatalf("bundle %d: m%d is %s, want %s", i, k, got, staged[fmt.Sprint("m", k)])
			}
		}
		if rnd.IntN(3) == 0 {
			b.Abort()
			continue
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		model = staged
	}
	if batch.Close(); budget.Used() != 0 {
		t.Errorf("%d bytes are still taken", budget.Used())
	}
}

package state

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"trestle/element"
	"trestle/internal/membudget"
)

// A word is what the tests keep: a text, and two times for which it waits.
type word struct {
	Entry
	text  string
	waits [2]element.Timestamp
}

// words is a Pager that knows which words are out.
type words struct{ out map[string]*word }

func (p words) Leave(dst []byte, w *word, times []element.Timestamp) []byte {
	p.out[w.Key()] = w
	copy(times, w.waits[:])
	for _, at := range w.waits {
		dst = binary.BigEndian.AppendUint64(dst, uint64(at))
	}
	return append(dst, w.text...)
}

func (p words) Enter(key string, record []byte) (*word, int64, error) {
	delete(p.out, key)
	w := &word{text: string(record[16:])}
	for i := range w.waits {
		w.waits[i] = element.Timestamp(binary.BigEndian.Uint64(record[8*i:]))
	}
	return w, int64(len(w.text)), nil
}

// least is the first time for which a word that is out waits.
func (p words) least(calendar int) element.Timestamp {
	least := element.MaxTimestamp
	for _, w := range p.out {
		least = min(least, w.waits[calendar])
	}
	return least
}

func evenGroups(key []byte) uint16 { return uint16(key[len(key)-1]) % 8 }

// A table with next to no memory is the same as a map: whatever is added,
// changed, removed and woken, all keys are there as they were left, and those on
// disk are found by the times for which they wait.
func TestTable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	budget := membudget.New(1 << 20)
	dir := t.TempDir()
	store := NewStore(dir, budget)
	pager := words{map[string]*word{}}
	tab := NewTable(store, Pager[*word](pager), TableOptions{Group: evenGroups, Calendars: 2, Last: lastWord})
	model := map[string]word{}
	for i := range 30_000 {
		key := fmt.Sprint("key", rnd.IntN(20_000))
		w, ok, err := tab.Get([]byte(key))
		want, known := model[key]
		if err != nil || ok != known || ok && (w.text != want.text || w.waits != want.waits || w.Key() != key) {
			t.Fatalf("step %d: %s is %v, %v, %v, want %v, %v", i, key, w, ok, err, want, known)
		}
		switch {
		case !ok:
			w = &word{text: fmt.Sprint("text", i), waits: randomWaits(rnd)}
			tab.Add(key, w, int64(len(w.text)))
			model[key] = *w
		case rnd.IntN(3) == 0:
			if err := tab.Remove(w); err != nil {
				t.Fatal(err)
			}
			delete(model, key)
		default:
			w.text, w.waits = w.text+"+", randomWaits(rnd)
			tab.Resize(w, int64(len(w.text)))
			model[key] = *w
		}
		if i%500 == 0 {
			checkTable(t, tab, pager, rnd)
		}
		if tab.Len() != len(model) {
			t.Fatalf("step %d: %d keys, want %d", i, tab.Len(), len(model))
		}
	}
	if len(pager.out) == 0 || budget.SpilledBytes() == 0 {
		t.Error("nothing was ever on disk")
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if files, _ := os.ReadDir(dir); budget.Used() != 0 || len(files) > 0 {
		t.Errorf("%d bytes are still taken, %d files left", budget.Used(), len(files))
	}
}

// lastWord is the time for which many words wait.
const lastWord = 60_000

// randomWaits are times of which some are never.
func randomWaits(rnd *rand.Rand) (waits [2]element.Timestamp) {
	for i := range waits {
		waits[i] = element.Timestamp(rnd.IntN(2_000_000) - 1_000_000)
		if rnd.IntN(4) == 0 {
			waits[i] = element.MaxTimestamp
		}
	}
	if rnd.IntN(3) == 0 {
		waits[0] = lastWord
	}
	return waits
}

// checkTable trims the table, and looks at what is on disk; now and then it
// wakes some of that.
func checkTable(t *testing.T, tab *Table[*word], pager words, rnd *rand.Rand) {
	t.Helper()
	if err := tab.Trim(); err != nil {
		t.Fatal(err)
	}
	for c := range 2 {
		if at, err := tab.Next(c); err != nil || at != pager.least(c) {
			t.Fatalf("calendar %d: next is %s, %v, want %s", c, at, err, pager.least(c))
		}
	}
	if rnd.IntN(10) > 0 {
		return
	}
	c, until := rnd.IntN(2), element.Timestamp(rnd.IntN(1_000_000)-900_000)
	want := 0
	for _, w := range pager.out {
		if w.waits[c] <= until {
			want++
		}
	}
	if n, err := tab.Wake(c, until, 1<<30); err != nil || n != want || pager.least(c) <= until {
		t.Fatalf("%d keys woke by %s, %v, want %d", n, until, err, want)
	}
}

// Records stand in the order of their key groups.
func TestRecordsByGroup(t *testing.T) {
	tab := NewTable(NewStore("", membudget.New(1)), Pager[*word](words{}), TableOptions{Group: evenGroups})
	var names [][]byte
	for i := range 50 {
		key := fmt.Sprint(i)
		names = append(names, slices.Clone(tab.recordName(evenGroups([]byte(key)), key)))
	}
	slices.SortFunc(names, slices.Compare)
	last := uint16(0)
	for _, n := range names {
		key := string(n[len(tab.prefix)+3:])
		g := evenGroups([]byte(key))
		if g < last {
			t.Errorf("key %s of group %d comes behind group %d", key, g, last)
		}
		last = g
	}
}

package state

import (
	"fmt"
	"testing"

	"trestle/element"
	"trestle/internal/membudget"
)

// counted counts what comes back from disk.
type counted struct {
	words
	entered *int
}

func (p counted) Enter(key string, record []byte) (*word, int64, error) {
	*p.entered++
	return p.words.Enter(key, record)
}

// When time moves on, the keys whose time has come are looked at, however many
// others there are.
func TestWakeLooksAtDueKeysOnly(t *testing.T) {
	const keys, due = 20_000, 10
	entered := 0
	budget := membudget.New(1 << 20)
	store := NewStore(t.TempDir(), budget)
	tab := NewTable(store, Pager[*word](counted{words{map[string]*word{}}, &entered}), TableOptions{Group: evenGroups, Calendars: 2})
	for i := range keys {
		// Those that are due are anywhere among the others, and others wait with
		// their second time only.
		w := &word{waits: [2]element.Timestamp{element.Timestamp(1000 + i), element.Timestamp(i)}}
		if i%(keys/due) == 7 {
			w.waits[0] = element.Timestamp(i % 100)
		}
		tab.Add(fmt.Sprint("key", i), w, 100)
	}
	for range 2 {
		if err := tab.turn(); err != nil {
			t.Fatal(err)
		}
	}
	for until := element.Timestamp(0); until < 1000; until += 10 {
		if _, err := tab.Wake(0, until, keys); err != nil {
			t.Fatal(err)
		}
	}
	if entered != due {
		t.Errorf("%d keys were looked at, %d were due", entered, due)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

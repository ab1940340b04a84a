package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"trestle/element"
	"trestle/internal/membudget"
)

// A phrase is made of words, and waits until the first time of theirs.
type phrase struct {
	Entry
	text string
	wait element.Timestamp
}

type phrases struct{}

func (phrases) Leave(dst []byte, p *phrase, times []element.Timestamp) []byte {
	times[0] = p.wait
	return append(binary.BigEndian.AppendUint64(dst, uint64(p.wait)), p.text...)
}

func (phrases) Enter(_ string, record []byte) (*phrase, int64, error) {
	p := &phrase{wait: element.Timestamp(binary.BigEndian.Uint64(record)), text: string(record[8:])}
	return p, int64(len(p.text)), nil
}

func (phrases) Join(p *phrase, record []byte) (int64, error) {
	p.wait = min(p.wait, element.Timestamp(binary.BigEndian.Uint64(record)))
	p.text += string(record[8:])
	return int64(len(p.text)), nil
}

// What is added to keys in parts that don't look at the disk is there, in its
// order, when the whole is wanted or its first time has come.
func TestParts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 1))
	budget := membudget.New(1 << 20)
	store := NewStore(t.TempDir(), budget)
	tab := NewTable(store, Pager[*phrase](phrases{}), TableOptions{Group: evenGroups, Calendars: 1, Last: 4000})
	model := map[string]phrase{}
	fetched := 0
	for i := range 30_000 {
		key := fmt.Sprint("key", rnd.IntN(3000))
		want, known := model[key]
		switch rnd.IntN(20) {
		case 0: // the whole
			p, ok, err := tab.Get([]byte(key))
			if err != nil || ok != known || ok && (p.text != want.text || p.wait != want.wait || tab.IsPart(p)) {
				t.Fatalf("step %d: %s is %v, %v, %v, want %v, %v", i, key, p, ok, err, want, known)
			}
			if fetched++; ok && rnd.IntN(2) == 0 {
				if err := tab.Remove(p); err != nil {
					t.Fatal(err)
				}
				delete(model, key)
			}
		default:
			word, at := fmt.Sprint(i, " "), element.Timestamp(rnd.IntN(5000))
			if len(key)%2 == 0 {
				at = 4000
			}
			p, ok := tab.Part([]byte(key))
			if !ok {
				p = &phrase{wait: element.MaxTimestamp}
				tab.AddPart(key, p, 0)
			}
			p.text, p.wait = p.text+word, min(p.wait, at)
			tab.Resize(p, 400+int64(len(p.text)))
			if !known {
				want.wait = element.MaxTimestamp
			}
			model[key] = phrase{text: want.text + word, wait: min(want.wait, at)}
		}
		if i%500 == 0 {
			if err := tab.Trim(); err != nil {
				t.Fatal(err)
			}
		}
		if i%4000 == 0 {
			wakePhrases(t, tab, model, element.Timestamp(rnd.IntN(300)))
		}
	}
	wakePhrases(t, tab, model, 5000)
	if tab.Len() != 0 || len(model) != 0 || fetched == 0 || budget.SpilledBytes() == 0 {
		t.Errorf("%d keys are left, want %d", tab.Len(), len(model))
	}
	if err := errors.Join(tab.Close(), store.Close()); err != nil {
		t.Error(err)
	}
}

// wakePhrases takes all out that wait for a time or an earlier one: from disk by
// their dates, and from memory, where nothing but a look at all tells.
func wakePhrases(t *testing.T, tab *Table[*phrase], model map[string]phrase, until element.Timestamp) {
	t.Helper()
	for {
		var due []*phrase
		for _, held := range []map[string]*phrase{tab.young, tab.old} {
			for _, p := range held {
				if p.wait <= until {
					due = append(due, p)
				}
			}
		}
		for _, p := range due {
			p, err := tab.Whole(p)
			if want := model[p.Key()]; err != nil || p.text != want.text || p.wait != want.wait {
				t.Fatalf("%s is %q until %s, %v, want %q, %s", p.Key(), p.text, p.wait, err, want.text, want.wait)
			}
			if err := tab.Remove(p); err != nil {
				t.Fatal(err)
			}
			delete(model, p.Key())
		}
		n, err := tab.Wake(0, until, 100)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 && len(due) == 0 {
			break
		}
	}
	for key, p := range model {
		if p.wait <= until {
			t.Fatalf("%s still waits for %s", key, p.wait)
		}
	}
}

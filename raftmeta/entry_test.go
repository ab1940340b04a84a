package raftmeta

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"trestle/raftmeta/catalog"

	"github.com/hashicorp/raft"
)

// large are records that together don't fit into one entry.
func large(n int) (records []catalog.Record) {
	for i := range n {
		r := accept(fmt.Sprintf("big%d", i)).(*catalog.JobAccepted)
		noise := make([]byte, 200<<10)
		for i := range noise {
			noise[i] = byte('a' + rand.IntN(16)) // not to be deflated to nothing
		}
		r.Name = string(noise)
		records = append(records, r)
	}
	return records
}

// A batch of several entries comes through Raft as one.
func TestLargeBatch(t *testing.T) {
	peers := grouped(t, 3, nil)
	appended(t, peers, large(12)...)
	appended(t, peers, accept("small"))
	agree(t, peers)
	l := leaderOf(t, peers)
	if s := l.Status(); s.Records != 13 || s.Entries < 3 || s.AppliedBatches != 2 {
		t.Errorf("%+v", s)
	}
}

// What a leader of before still hands over is void, a batch larger than an
// entry comes whole or not at all, and a snapshot keeps a batch's beginning.
func TestBatches(t *testing.T) {
	f := newFold(nil, slogDiscard(), func(err error) { t.Error(err) })
	records := large(8)
	entries, err := encodeBatch(3, records)
	if err != nil || len(entries) < 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	index := uint64(0)
	apply := func(f *fold, term uint64, data []byte) error {
		index++
		err, _ := f.Apply(&raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data}).(error)
		return err
	}
	jobs := func(f *fold) int { return len(f.state.Jobs()) }
	for _, e := range entries {
		if len(e) > 512<<10 {
			t.Errorf("an entry of %d bytes", len(e))
		}
		if err := apply(f, 4, e); !errors.Is(err, ErrNotLeader) {
			t.Errorf("an entry of term 3 in term 4: %v", err)
		}
	}
	for _, e := range entries[:len(entries)-1] { // its leader dies
		if err := apply(f, 3, e); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := apply(f, 4, entries[len(entries)-1]); err == nil || jobs(f) != 0 {
		t.Errorf("the end of a batch of another term: %v, %d jobs", err, jobs(f))
	}
	small, err := encodeBatch(4, []catalog.Record{accept("small")})
	if err != nil || len(small) != 1 {
		t.Fatal(err)
	}
	if err := apply(f, 4, small[0]); err != nil || jobs(f) != 1 {
		t.Errorf("%v, %d jobs", err, jobs(f))
	}
	again := newFold(nil, slogDiscard(), func(err error) { t.Error(err) })
	store, _, err := openSnapshots(t.TempDir(), func(uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := store.Create(1, index, 3, raft.Configuration{}, 1, nil)
	if err == nil {
		err = snap.Persist(sink)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, in, err := store.Open(sink.ID())
	if err == nil {
		err = errors.Join(again.Restore(in), in.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := apply(again, 3, entries[len(entries)-1]); err != nil || jobs(again) != len(records) {
		t.Errorf("after a snapshot in its midst: %v, %d jobs", err, jobs(again))
	}
}

// One record may be larger than an entry, such as what the sources of a job are to
// read: it travels in several, none of which holds up the log.
func TestLargeRecord(t *testing.T) {
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	entries, err := encodeBatch(3, []catalog.Record{&catalog.InputBound{Job: "j", Stage: "s1", Bounds: noise}})
	if err != nil {
		t.Fatal(err)
	}
	var payload []byte
	for i, data := range entries {
		if len(data) > 512<<10 {
			t.Errorf("an entry of %d bytes", len(data))
		}
		e, err := decodeEntry(data)
		if err != nil || int(e.part) != i || e.first != (i == 0) || e.last != (i == len(entries)-1) {
			t.Fatalf("entry %d of %d: part %d, %v", i, len(entries), e.part, err)
		}
		payload = append(payload, e.payload...)
	}
	records, err := decodeBatch(payload)
	if err != nil || len(records) != 1 || !bytes.Equal(records[0].(*catalog.InputBound).Bounds, noise) {
		t.Errorf("%d records, %v", len(records), err)
	}
}

package raftmeta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"trestle/raftmeta/catalog"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// written is the directory of a group of one that has run a while.
func written(t *testing.T, entries int) string {
	t.Helper()
	p := &peer{id: "one", dir: t.TempDir(), tune: func(c *Config) { c.TrailingEntries = 20 }}
	p.start(t)
	found(t, []*peer{p})
	for i := range entries {
		appended(t, []*peer{p}, accept(fmt.Sprintf("j%d", i)))
		if i == entries/2 {
			if err := p.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.stop(t)
	return p.dir
}

// contents tells all that is in a store's file, or what is wrong with it.
func contents(path string, mark lowMark) (string, error) {
	if err := checkPages(path); err != nil {
		return "", err
	}
	b, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{ReadOnly: true}})
	if err != nil {
		return "", err
	}
	defer b.Close()
	s := &store{path: path, bolt: b, mark: &mark}
	if err := s.scan(); err != nil {
		return "", err
	}
	var out strings.Builder
	for i := s.first.Load(); i > 0 && i <= s.last.Load(); i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "%d %d %s %x\n", l.Index, l.Term, l.Type, l.Data)
	}
	for _, key := range slices.Sorted(mapKeys(stableKeys)) {
		v, err := s.Get([]byte(key))
		if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return "", err
		}
		fmt.Fprintf(&out, "%s %x\n", key, v)
	}
	return out.String(), nil
}

func commonPrefix(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Whatever bit of the store's file flips, and wherever the file is cut, the
// damage is found and told, or it was in a place that nothing lives in.
func TestStoreFileDamaged(t *testing.T) {
	dir := written(t, 60)
	whole, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := openLowMark(filepath.Join(dir, "last"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	used := (len(bytes.TrimRight(whole, "\x00"))/4096 + 2) * 4096
	t.Logf("%d bytes, %d of them used", len(whole), used)
	whole = whole[:used]
	path := filepath.Join(t.TempDir(), "raft.db")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := contents(path, *m)
	if err != nil {
		t.Fatal(err)
	}
	found, harmless := 0, 0
	judge := func(what string, err error) {
		t.Helper()
		got, rerr := contents(path, *m)
		var damaged *DamagedError
		switch {
		case err != nil:
			t.Fatal(err)
		case errors.As(rerr, &damaged):
			found++
		case rerr != nil:
			t.Fatalf("%s: not told as damage: %v", what, rerr)
		case got != want:
			t.Fatalf("%s: it reads otherwise, from here on: %.300s", what, got[commonPrefix(got, want):])
		default:
			harmless++
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for at := 0; at < used; at += 1 + rand.IntN(25) {
		bit := byte(1) << rand.IntN(8)
		_, err := file.WriteAt([]byte{whole[at] ^ bit}, int64(at))
		judge(fmt.Sprintf("bit %#x of byte %d", bit, at), err)
		if _, err := file.WriteAt(whole[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("flipped bits: %d found, %d harmless", found, harmless)
	found, harmless = 0, 0
	for cut := used - 1; cut > 0; cut -= 1 + rand.IntN(200) {
		judge(fmt.Sprintf("cut at %d", cut), file.Truncate(int64(cut)))
	}
	t.Logf("cut: %d found, %d harmless", found, harmless)
	if found == 0 {
		t.Error("no cut was found")
	}
}

// A page that bbolt takes for a newer one is whole; only the mark tells.
func TestOlderStoreIsFound(t *testing.T) {
	p := &peer{id: "one", dir: t.TempDir()}
	p.start(t)
	found(t, []*peer{p})
	appended(t, []*peer{p}, accept("a"))
	p.stop(t)
	older, err := os.ReadFile(filepath.Join(p.dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	appended(t, []*peer{p}, accept("b"))
	p.stop(t)
	if err := os.WriteFile(filepath.Join(p.dir, "raft.db"), older, 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if err := p.tryStart(t); !errors.As(err, &damaged) {
		t.Errorf("an older store: %v", err)
	}
	if err := os.Remove(filepath.Join(p.dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	if err := p.tryStart(t); !errors.As(err, &damaged) {
		t.Errorf("no store: %v", err)
	}
}

// A node doesn't open with any file of its directory damaged; the error names
// the file.
func TestNodeRefusesDamage(t *testing.T) {
	dir := written(t, 60)
	snaps, err := filepath.Glob(filepath.Join(dir, "snapshots", "*"))
	if err != nil || len(snaps) != 1 {
		t.Fatalf("%v, %v", snaps, err)
	}
	for _, path := range []string{snaps[0], filepath.Join(dir, "last")} {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, data []byte) {
			t.Helper()
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			p := &peer{id: "one", dir: dir}
			err := p.tryStart(t)
			var damaged *DamagedError
			if !errors.As(err, &damaged) || damaged.File != path {
				t.Fatalf("%s of %s: %v", what, path, err)
			}
		}
		for at := 0; at < len(whole); at += 1 + rand.IntN(len(whole)/40+1) {
			data := slices.Clone(whole)
			data[at] ^= 1 << rand.IntN(8)
			check(fmt.Sprintf("byte %d flipped", at), data)
		}
		for cut := 1; cut < len(whole); cut += 1 + rand.IntN(len(whole)/40+1) {
			check(fmt.Sprintf("cut at %d", cut), whole[:cut])
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(snaps[0]); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if err := (&peer{id: "one", dir: dir}).tryStart(t); !errors.As(err, &damaged) {
		t.Errorf("without its snapshot: %v", err)
	}
}

// Entries that were damaged on their way, or after the store was opened, are
// neither stored nor applied.
func TestSeals(t *testing.T) {
	var told error
	s, err := openStore(t.TempDir(), func(err error) { told = err })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	l := &raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte("abc")}
	if err := s.StoreLog(l); err != nil || len(l.Extensions) != sealBytes {
		t.Fatalf("%v, %x", err, l.Extensions)
	}
	next := *l
	next.Index = 2
	if err := s.StoreLog(&next); !errors.Is(err, errEntryChecksum) {
		t.Errorf("an entry with another's seal: %v", err)
	}
	if err := s.StoreLog(&raft.Log{Index: 3, Term: 1}); err == nil {
		t.Error("a gap was stored")
	}
	l.Data = []byte("abd")
	if err := s.bolt.StoreLog(l); err != nil { // behind its back
		t.Fatal(err)
	}
	var got raft.Log
	if err := s.GetLog(1, &got); err != nil || got.Type != raft.LogNoop || told == nil {
		t.Errorf("%v, %+v, told %v", err, got, told)
	}
	if s.scan() == nil {
		t.Error("a wrong seal was not seen")
	}
}

// An image of the state is checked by itself, too: it comes from other nodes.
func TestImageDamaged(t *testing.T) {
	s := catalog.NewState()
	for _, id := range []string{"a", "b"} {
		if err := s.Apply(accept(id)); err != nil {
			t.Fatal(err)
		}
	}
	im := &image{index: 7, parts: parts{term: 3, next: 2, payload: []byte("part")}, state: s}
	var out bytes.Buffer
	if err := im.write(&out); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	back, err := readImage(bytes.NewReader(whole))
	if err != nil || back.index != 7 || back.parts.term != 3 || string(back.parts.payload) != "part" || back.state.Hash() != s.Hash() {
		t.Fatalf("%v, %+v", err, back)
	}
	for at := range whole {
		data := slices.Clone(whole)
		data[at] ^= 1 << rand.IntN(8)
		if _, err := readImage(bytes.NewReader(data)); err == nil {
			t.Fatalf("byte %d flipped, and nothing found", at)
		}
		if _, err := readImage(bytes.NewReader(whole[:at])); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", at, err)
		}
	}
}

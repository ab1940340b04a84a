package catalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/runner/jobgraph"

	"github.com/google/go-cmp/cmp"
)

// story is a job with everything in it that can be recorded.
func story() []Record {
	g := &jobgraph.Graph{
		Stages: []*jobgraph.Stage{
			{ID: "s1", Name: "Read", Root: jobgraph.RootImpulse, Outputs: []jobgraph.DatasetID{"d1"}},
			{ID: "s2", Name: "Count", Environment: "go", Root: jobgraph.RootGroup, Inputs: []jobgraph.DatasetID{"d1"}},
		},
		Datasets: []*jobgraph.Dataset{{ID: "d1", Collection: "c", Producer: "s1", Consumers: []jobgraph.StageID{"s2"}, Partitioning: jobgraph.ByKey, Exchange: jobgraph.Blocking}},
		Regions:  []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}, Pointwise: true}, {ID: "r2", Stages: []jobgraph.StageID{"s2"}, Pointwise: true}},
	}
	second := Instant(time.Second)
	task := func(stage jobgraph.StageID, index int, attempt uint32) TaskID { return TaskID{stage, index, attempt} }
	oops := Failure{Kind: FailureUser, Task: task("s1", 0, 0), TaskManager: "a", At: 3 * second, Message: "oops"}
	return []Record{
		&JobAccepted{
			Job: "j", Name: "words", At: second, Options: json.RawMessage(`{"runner":"universal"}`), Pipeline: "aa", Plan: "bb",
			Graph: g, Priority: 1, KeyGroups: 4, Restart: RestartStrategy{Kind: RestartFixedDelay, Attempts: 2, Delay: time.Second},
		},
		&ParallelismChosen{Job: "j", Region: "r1", At: second, Slots: 2, Why: "s1: 1", Stages: []StageChoice{
			{Stage: "s1", Parallelism: 1, Outputs: []OutputChoice{{"d1", 4}}},
		}},
		&TasksReset{Job: "j", At: 3 * second, Tasks: []TaskRange{{"s1", 0, 1}}, Blamed: []TaskRange{{"s1", 0, 1}}, Queues: []jobgraph.StageID{"s1"}, Failure: oops, Delay: time.Second},
		&TaskFinished{
			Job: "j", Task: task("s1", 0, 1), TaskManager: "a", Slot: 1, Started: 4 * second, Ended: 5 * second,
			Outputs: []Output{{"d1", 100, 10, SketchOf([]int64{10, 0, 50, 40}), OnDisk}},
			InBytes: 1, OutBytes: 100, InElements: 1, OutElements: 10, Metrics: []byte{1, 2, 3},
		},
		&ParallelismChosen{Job: "j", Region: "r2", At: 5 * second, Slots: 2, Stages: []StageChoice{
			{Stage: "s2", Parallelism: 2, InputBytes: 100, Inputs: []InputChoice{{"d1", ReadRange, []int{0, 2, 4}}}},
		}},
		&TaskFinished{Job: "j", Task: task("s2", 1, 0), TaskManager: "a", Ended: 6 * second},
		&StopRequested{Job: "j", At: 7 * second, Mode: StopCancel},
		&JobEnded{Job: "j", At: 8 * second, State: Cancelled},
		&JobAccepted{Job: "k", Name: "failing", At: 9 * second, Plan: "bb", Graph: g, KeyGroups: 4},
		&JobEnded{Job: "k", At: 9 * second, State: Failed, Failure: &oops},
		&JobForgotten{Job: "k"},
	}
}

// managers is what can be recorded of TaskManagers, and a job with a stage that
// is declared deterministic.
func managers() []Record {
	second := Instant(time.Second)
	accepted := *story()[0].(*JobAccepted)
	g := *accepted.Graph
	g.Stages = slices.Clone(g.Stages)
	s1 := *g.Stages[0]
	s1.Deterministic = true
	g.Stages[0], accepted.Graph = &s1, &g
	return []Record{
		&TaskManagerJoined{Name: "b", At: second, Slots: 2},
		&accepted,
		&TaskManagerJoined{Name: "a", At: 2 * second, Slots: 1},
		&TaskManagerLost{Name: "b", At: 3 * second},
		&TaskManagerJoined{Name: "c", At: 4 * second, Slots: 3},
		&TaskManagerJoined{Name: "a", At: 5 * second, Slots: 4},
	}
}

// doubled is a job whose tasks are run twice at once: of one the second attempt
// is first, of the other the first; and both run again.
func doubled() []Record {
	second := Instant(time.Second)
	finished := func(index int, attempt uint32) *TaskFinished {
		return &TaskFinished{Job: "j", Task: TaskID{"s2", index, attempt}, TaskManager: "a", Ended: 9 * second}
	}
	return append(slices.Clone(story()[:5]),
		&TaskDoubled{Job: "j", Task: TaskID{"s2", 0, 1}, At: 8 * second, Why: "it is slow"},
		&TaskDoubled{Job: "j", Task: TaskID{"s2", 1, 1}, At: 8 * second},
		finished(0, 1),
		&TasksReset{Job: "j", At: 9 * second, Tasks: []TaskRange{{"s2", 0, 2}}},
		&TaskDoubled{Job: "j", Task: TaskID{"s2", 1, 3}, At: 9 * second},
		finished(1, 2),
		finished(0, 2),
	)
}

// sourced is a job that begins with a source, which is bound before its first
// task.
func sourced() []Record {
	second := Instant(time.Second)
	accepted := *story()[0].(*JobAccepted)
	g := *accepted.Graph
	g.Stages = slices.Clone(g.Stages)
	s1 := *g.Stages[0]
	s1.Bind = "trestle:bound_input:kafka:v1"
	g.Stages[0], accepted.Graph = &s1, &g
	return append([]Record{
		&accepted,
		&InputBound{Job: "j", Stage: "s1", At: 2 * second, Bounds: []byte(`{"ranges":[]}`), Notes: []string{"nothing is there"}},
	}, story()[1:5]...)
}

func fold(t testing.TB, records []Record) *State {
	t.Helper()
	s := NewState()
	for _, r := range records {
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestFold(t *testing.T) {
	records := story()
	for n, want := range map[int]string{
		5: `job j "words" RUNNING restarts=1
  r1 s1 1 of 1: 0#1 done
  r2 s2 0 of 2: 0-1#0
`,
		7: `job j "words" CANCELLING restarts=1
  r1 s1 1 of 1: 0#1 done
  r2 s2 1 of 2: 0#0, 1#0 done
`,
		10: `job j "words" CANCELLED restarts=1
  r1 s1 1 of 1: 0#1 done
  r2 s2 1 of 2: 0#0, 1#0 done
job k "failing" FAILED: user s1[0]#0 on a: oops
  r1 s1 undecided
  r2 s2 undecided
`,
		11: `job j "words" CANCELLED restarts=1
  r1 s1 1 of 1: 0#1 done
  r2 s2 1 of 2: 0#0, 1#0 done
`,
	} {
		if diff := cmp.Diff(want, fold(t, records[:n]).String()); diff != "" {
			t.Errorf("after %d records: %s", n, diff)
		}
	}
}

// Of two attempts the one that finishes first counts, and the other never does.
func TestDoubled(t *testing.T) {
	records := doubled()
	for n, want := range map[int]string{
		7:  "  r2 s2 0 of 2: 0-1#0+1\n",
		8:  "  r2 s2 1 of 2: 0#1 done, 1#0+1\n",
		9:  "  r2 s2 0 of 2: 0-1#2\n",
		11: "  r2 s2 1 of 2: 0#2, 1#2+3 done\n",
	} {
		if got := fold(t, records[:n]).String(); !strings.HasSuffix(got, want) {
			t.Errorf("after %d records:\n%swant\n%s", n, got, want)
		}
	}
	s := fold(t, records[:11])
	late := *records[10].(*TaskFinished)
	late.Task.Attempt = 3
	for want, r := range map[string]Record{
		"attempt is 2": &late,
		"has finished": &TaskDoubled{Job: "j", Task: TaskID{"s2", 1, 3}},
		"no stage s3":  &TaskDoubled{Job: "j", Task: TaskID{"s3", 0, 1}},
	} {
		if err := s.Apply(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r, err, want)
		}
	}
}

// What a source is bound to is said once, and stays whatever runs again.
func TestBound(t *testing.T) {
	records := sourced()
	s := fold(t, records)
	if got := string(s.Job("j").Stages[0].Bounds); got != `{"ranges":[]}` || s.Job("j").Stages[0].Tasks[0].Attempt != 1 {
		t.Errorf("bounds %q", got)
	}
	other := &InputBound{Job: "j", Stage: "s1", Bounds: []byte("x")}
	for want, r := range map[string]Record{
		"bound before":  other,
		"has no source": &InputBound{Job: "j", Stage: "s2", Bounds: []byte("x")},
		"no stage s3":   &InputBound{Job: "j", Stage: "s3", Bounds: []byte("x")},
		"no job x":      &InputBound{Job: "x", Stage: "s1", Bounds: []byte("x")},
	} {
		if err := s.Apply(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r, err, want)
		}
	}
	if err := fold(t, records[:1]).Apply(&InputBound{Job: "j", Stage: "s1"}); err == nil {
		t.Error("a source was bound to nothing")
	}
}

// A state is the same whether its records came at once, by way of the journal
// or by way of a snapshot, and goes on the same.
func TestRoundTrips(t *testing.T) {
	roundTrips(t, slices.Concat(story(), managers()[:1], managers()[2:]))
	roundTrips(t, doubled())
	roundTrips(t, sourced())
}

func roundTrips(t *testing.T, records []Record) {
	t.Helper()
	for n := range records {
		straight, coded := NewState(), NewState()
		for _, r := range records[:n] {
			if err := errors.Join(straight.Apply(r), coded.Apply(recode(t, r))); err != nil {
				t.Fatal(err)
			}
		}
		restored := NewState()
		for r := range straight.Snapshot() {
			if err := restored.Apply(recode(t, r)); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range records[n:] {
			if err := errors.Join(straight.Apply(r), coded.Apply(r), restored.Apply(r)); err != nil {
				t.Fatal(err)
			}
			if straight.Hash() != coded.Hash() || straight.Hash() != restored.Hash() {
				t.Fatalf("after %d and %s:\n%s\n%s\n%s", n, r, straight, coded, restored)
			}
		}
	}
}

func recode(t *testing.T, r Record) Record {
	t.Helper()
	data, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// What doesn't fit changes nothing: leaders that were replaced may still write.
func TestMisfits(t *testing.T) {
	records := story()
	s := fold(t, records[:5])
	before := s.Hash()
	finished := *records[3].(*TaskFinished)
	stale := finished
	stale.Task.Attempt = 0
	for want, r := range map[string]Record{
		"accepted before":         records[0],
		"tasks of stage s1 have":  records[1],
		"has finished before":     &finished,
		"attempt is 1":            &stale,
		"there is no job x":       &StopRequested{Job: "x", Mode: StopCancel},
		"there is no region":      &ParallelismChosen{Job: "j", Region: "r9"},
		"has 2 tasks":             &TaskFinished{Job: "j", Task: TaskID{"s2", 2, 0}},
		"there are no tasks":      &TasksReset{Job: "j", Tasks: []TaskRange{{"s1", 0, 1}, {"s2", 1, 3}}},
		"RUNNING is no end":       &JobEnded{Job: "j", State: Running},
		"no ended job":            &JobForgotten{Job: "j"},
		"has no graph":            &JobAccepted{Job: "y", KeyGroups: 1},
		"can't have 999999 tasks": &ParallelismChosen{Job: "j", Region: "r2", Stages: []StageChoice{{Stage: "s2", Parallelism: 999_999}}},
		"don't make 1 parts":      &ParallelismChosen{Job: "j", Region: "r2", Stages: []StageChoice{{Stage: "s2", Parallelism: 1, Inputs: []InputChoice{{"d1", ReadRange, []int{3, 2}}}}}},
	} {
		if err := s.Apply(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r, err, want)
		}
	}
	if s.Hash() != before {
		t.Error("a record without effect had one")
	}
	ended := fold(t, records[:8])
	if err := ended.Apply(&JobEnded{Job: "j", State: Done}); err == nil {
		t.Error("a job ended twice")
	}
}

// TestGolden opens records as earlier versions wrote them. A file is never
// written again, or it would prove nothing: what changes the records needs
// another file, made with TRESTLE_GOLDEN=write, and those before it must still
// be opened.
func TestGolden(t *testing.T) {
	for name, want := range map[string][]Record{
		"records.v1":      withSnapshot(t, story()),
		"taskmanagers.v1": withSnapshot(t, managers()),
		"doubled.v1":      withSnapshot(t, doubled()),
		"bound.v1":        withSnapshot(t, sourced()),
	} {
		t.Run(name, func(t *testing.T) { openGolden(t, filepath.Join("testdata", name), want) })
	}
}

func openGolden(t *testing.T, path string, want []Record) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && os.Getenv("TRESTLE_GOLDEN") == "write" {
		for _, r := range want {
			b, err := Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			data = append(binary.LittleEndian.AppendUint32(data, uint32(len(b))), b...)
		}
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	var got []Record
	for len(data) > 0 {
		n := binary.LittleEndian.Uint32(data)
		r, err := Decode(data[4 : 4+n])
		if err != nil {
			t.Fatal(err)
		}
		got, data = append(got, r), data[4+n:]
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		a, errA := json.Marshal(got[i])
		b, errB := json.Marshal(want[i])
		if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
			t.Errorf("record %d: %v\n%s\n%s", i, err, a, b)
		}
	}
}

// withSnapshot is a story and the snapshot of its end.
func withSnapshot(t testing.TB, records []Record) []Record {
	return slices.AppendSeq(records, fold(t, records).Snapshot())
}

// A state knows which TaskManagers may have something, whatever their order.
func TestTaskManagers(t *testing.T) {
	s := fold(t, managers())
	var got []string
	for _, m := range s.TaskManagers() {
		got = append(got, fmt.Sprintf("%s since %v with %d slots", m.Name, m.Joined.Sub(0), m.Slots))
	}
	if want := "[a since 5s with 4 slots c since 4s with 3 slots]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if _, there := s.TaskManager("b"); there {
		t.Error("b was lost and is there")
	}
	for want, r := range map[string]Record{
		"no TaskManager b": &TaskManagerLost{Name: "b"},
		"has no name":      &TaskManagerJoined{},
	} {
		if err := s.Apply(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r, err, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(&JobForgotten{Job: "j"})
	if err != nil {
		t.Fatal(err)
	}
	seal := func(b []byte) []byte {
		return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	}
	for want, data := range map[string][]byte{
		"checksum":      append(slices.Clone(good[:5]), good[6:]...),
		"too short":     good[:4],
		"version 9":     seal([]byte{9, byte(kindJobForgotten), 0, '{', '}'}),
		"kind 77":       seal([]byte{version, 77, 0, '{', '}'}),
		"flags 0x80":    seal([]byte{version, byte(kindJobForgotten), 0x80, '{', '}'}),
		"invalid char":  seal([]byte{version, byte(kindJobForgotten), 0, '?'}),
		"has no job":    seal([]byte{version, byte(kindJobRestored), 0, '{', '}'}),
		"flate: corrup": seal([]byte{version, byte(kindJobForgotten), flagDeflated, 0xff, 0xff}),
	} {
		if _, err := Decode(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for i := range good {
		flipped := slices.Clone(good)
		flipped[i] ^= 4
		if _, err := Decode(flipped); !errors.Is(err, ErrChecksum) {
			t.Errorf("bit flipped in byte %d: %v", i, err)
		}
	}
}

func TestLargeRecordsAreDeflated(t *testing.T) {
	r := &JobAccepted{Job: "j", KeyGroups: 1, Graph: &jobgraph.Graph{}}
	for range 1000 {
		r.Graph.Stages = append(r.Graph.Stages, &jobgraph.Stage{ID: "s", Name: "A name/of some/length"})
	}
	data, err := Encode(r)
	if err != nil || len(data) > 8<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if back := recode(t, r).(*JobAccepted); len(back.Graph.Stages) != 1000 {
		t.Errorf("%d stages", len(back.Graph.Stages))
	}
}

func TestSketch(t *testing.T) {
	for _, n := range []int{1, 7, 128, 1000} {
		bySub := make([]int64, n)
		for i := range bySub {
			bySub[i] = int64(i) * 1000
		}
		sum := NewSketchSum(n)
		sum.Add(SketchOf(bySub))
		sum.Add(SketchOf(bySub))
		var got, want int64
		for i, b := range sum.BySub() {
			got, want = got+b, want+2*bySub[i]
			if off := b - 2*bySub[i]; n <= SketchRanges && (off > bySub[i]/5 || off < -bySub[i]/5) {
				t.Errorf("sub-partition %d of %d: %d for %d", i, n, b, 2*bySub[i])
			}
		}
		if off := got - want; off > want/20 || off < -want/20 {
			t.Errorf("%d sub-partitions: %d in all for %d", n, got, want)
		}
	}
	if b := sketchEncode(1); b == 0 {
		t.Error("what holds something is told as empty")
	}
	if got := sketchDecode[sketchEncode(1<<62)]; got < 200<<30 {
		t.Errorf("the greatest is %d", got)
	}
}

// FuzzDecode feeds bytes with a right checksum, so that what lies behind it is
// reached; whatever comes out must be foldable without harm.
func FuzzDecode(f *testing.F) {
	for _, r := range slices.Concat(withSnapshot(f, story()), managers(), doubled()) {
		data, err := Encode(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:len(data)-checksumBytes])
	}
	f.Fuzz(func(t *testing.T, inside []byte) {
		r, err := Decode(binary.LittleEndian.AppendUint32(slices.Clone(inside), crc32.Checksum(inside, castagnoli)))
		if err != nil {
			return
		}
		if _, err := Encode(r); err != nil {
			t.Fatalf("what was decoded can't be encoded: %v", err)
		}
		s := NewState()
		for _, before := range story()[:5] {
			if err := s.Apply(before); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.Apply(r) // may fit or not
		_ = s.String()
		_ = s.Hash()
	})
}

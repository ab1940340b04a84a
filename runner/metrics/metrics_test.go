package metrics_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"trestle/runner/metrics"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// The encodings of values as SDKs write them.
func varints(vs ...int64) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func doubles(vs ...float64) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

func list(n int, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(n)), body...)
}

func texts(vs ...string) []byte {
	var b []byte
	for _, v := range vs {
		b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
	}
	return b
}

func path(segments ...string) []byte {
	return marshal(&pipepb.BoundedTrie{Bound: 3, Singleton: segments})
}

func buckets(width float64, counts ...int64) []byte {
	var n int64
	for _, c := range counts {
		n += c
	}
	options := &pipepb.HistogramValue_BucketOptions{BucketType: &pipepb.HistogramValue_BucketOptions_Linear_{
		Linear: &pipepb.HistogramValue_BucketOptions_Linear{Width: &width}}}
	return marshal(&pipepb.HistogramValue{Count: &n, BucketCounts: counts, BucketOptions: options})
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func user(kind, transform, name string, payload []byte) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: "beam:metric:user:" + kind + ":v1", Type: "beam:metrics:" + kind + ":v1", Payload: payload,
		Labels: map[string]string{"PTRANSFORM": transform, "NAMESPACE": "ns", "NAME": name},
	}
}

func count(collection string, n int64) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{ // no type: the URN implies it
		Urn: "beam:metric:element_count:v1", Payload: varints(n), Labels: map[string]string{"PCOLLECTION": collection},
	}
}

func add(t testing.TB, s *metrics.Set, infos ...*pipepb.MonitoringInfo) {
	t.Helper()
	if err := s.Add(infos, nil); err != nil {
		t.Fatal(err)
	}
}

// TestFold gives each type some bundles' values and wants one text, however
// they are put together.
func TestFold(t *testing.T) {
	for _, test := range []struct {
		kind    string
		bundles [][]byte
		want    string
	}{
		{"sum_int64", [][]byte{varints(5), varints(-2)}, "3"},
		{"sum_double", [][]byte{doubles(0.5), doubles(0.25)}, "0.75"},
		{"distribution_int64", [][]byte{varints(0), varints(2, 5, -1, 6), varints(1, 3, 3, 3)}, "count 3, sum 8, min -1, max 6, mean 2.67"},
		{"distribution_int64", [][]byte{varints(0)}, "count 0"},
		{"distribution_double", [][]byte{
			append(varints(1), doubles(2, 2, 2)...), append(varints(1), doubles(4, 4, 4)...)}, "count 2, sum 6, min 2, max 4, mean 3"},
		{"latest_int64", [][]byte{varints(100, 1), varints(300, 3), varints(200, 2)}, "3"},
		{"latest_double", [][]byte{append(varints(9), doubles(1.5)...), append(varints(9), doubles(2.5)...)}, "2.5"},
		{"top_n_int64", [][]byte{list(2, varints(5, 1)), list(2, varints(3, -1))}, "[5 3]"},
		{"bottom_n_int64", [][]byte{list(2, varints(5, 1)), list(2, varints(3, -1))}, "[-1 1]"},
		{"top_n_double", [][]byte{list(1, doubles(1)), list(1, doubles(2))}, "[2]"},
		{"bottom_n_double", [][]byte{list(1, doubles(1)), list(1, doubles(2))}, "[1]"},
		{"set_string", [][]byte{list(2, texts("b", "a")), list(-1, append(append(varints(1), texts("c")...), 0)), list(1, texts("a"))}, "{a, b, c}"},
		{"bounded_trie", [][]byte{path("f/", "x"), path("g/", "y"), path("f/", "x")}, "{f/x, g/y}"},
		{"bounded_trie", [][]byte{path("f/", "x"), path("f/", "y"), path("f/", "z"), path("g/", "y")}, "{f/*, g/y}"},
		{"histogram_int64", [][]byte{buckets(10, 1, 2), buckets(10, 1, 0, 4)}, "count 8, buckets [2 2 4]"},
	} {
		t.Run(test.kind, func(t *testing.T) {
			var one, merged metrics.Set
			for _, b := range test.bundles {
				add(t, &one, user(test.kind, "t", "m", b))
				var part, again metrics.Set
				add(t, &part, user(test.kind, "t", "m", b))
				if err := again.Unmarshal(part.Marshal(1 << 20)); err != nil {
					t.Fatal(err)
				}
				merged.Merge(&again)
			}
			for how, s := range map[string]*metrics.Set{"added": &one, "merged": &merged} {
				infos := s.Infos()
				if len(infos) != 1 || s.Dropped() != 0 {
					t.Fatalf("%s: %d series, %d dropped", how, len(infos), s.Dropped())
				}
				if got := metrics.Text(infos[0]); got != test.want {
					t.Errorf("%s: %s, want %s", how, got, test.want)
				}
			}
		})
	}
}

func TestLabelsMakeTheSeries(t *testing.T) {
	var s metrics.Set
	add(t, &s, user("sum_int64", "t1", "a", varints(1)), user("sum_int64", "t1", "b", varints(1)),
		user("sum_int64", "t2", "a", varints(1)), user("sum_int64", "t1", "a", varints(1)), count("c", 7), count("c", 3))
	if s.Len() != 4 {
		t.Errorf("%d series", s.Len())
	}
	if n, ok := s.ElementCount("c"); n != 10 || !ok {
		t.Errorf("element count %d, %v", n, ok)
	}
	if _, ok := s.ElementCount("d"); ok {
		t.Error("d has an element count")
	}
}

// Clones of one transform are told by the one that the user wrote; what the
// runner put in is not told.
func TestRename(t *testing.T) {
	rename := func(id string) string { return map[string]string{"clone1": "orig", "clone2": "orig"}[id] }
	var s metrics.Set
	infos := []*pipepb.MonitoringInfo{user("sum_int64", "clone1", "a", varints(1)), user("sum_int64", "clone2", "a", varints(2)),
		user("sum_int64", "source", "a", varints(4)), count("c", 1)}
	if err := s.Add(infos, rename); err != nil {
		t.Fatal(err)
	}
	got := s.Infos()
	if len(got) != 2 || got[1].GetLabels()["PTRANSFORM"] != "orig" || metrics.Text(got[1]) != "3" {
		t.Errorf("got %v", got)
	}
	if infos[0].GetLabels()["PTRANSFORM"] != "clone1" {
		t.Error("the worker's info was changed")
	}
}

func TestNotFolded(t *testing.T) {
	var s metrics.Set
	add(t, &s, &pipepb.MonitoringInfo{Urn: "beam:metric:ptransform_progress:completed:v1", Type: "beam:metrics:progress:v1", Payload: list(1, doubles(1))},
		&pipepb.MonitoringInfo{Urn: "beam:metric:data_channel:read_index:v1", Type: "beam:metrics:sum_int64:v1", Payload: varints(1)},
		&pipepb.MonitoringInfo{Urn: "my:metric", Type: "my:type", Payload: varints(1)})
	if s.Len() != 0 {
		t.Errorf("%d series", s.Len())
	}
}

// A malformed value is told, changes nothing, and keeps the others from nothing.
func TestMalformed(t *testing.T) {
	var s metrics.Set
	add(t, &s, user("distribution_int64", "t", "d", varints(1, 2, 2, 2)))
	err := s.Add([]*pipepb.MonitoringInfo{user("distribution_int64", "t", "d", varints(1, 2)), count("c", 1)}, nil)
	if err == nil || !strings.Contains(err.Error(), "beam:metric:user:distribution_int64:v1: malformed payload") {
		t.Errorf("error %v", err)
	}
	if n, _ := s.ElementCount("c"); n != 1 {
		t.Errorf("element count %d", n)
	}
	if got := metrics.Text(s.Infos()[1]); got != "count 1, sum 2, min 2, max 2, mean 2" {
		t.Errorf("distribution %s", got)
	}
}

func TestShortIDs(t *testing.T) {
	names := metrics.NewNames(func(id string) string { return "user-" + id })
	data := map[string][]byte{"1": varints(2), "2": varints(3), "3": list(1, doubles(1))}
	if got := fmt.Sprint(names.Unknown(data)); got != "[1 2 3]" {
		t.Errorf("unknown %s", got)
	}
	names.Learn(map[string]*pipepb.MonitoringInfo{"1": user("sum_int64", "t", "a", nil), "2": count("c", 0),
		"3": {Urn: "beam:metric:ptransform_progress:completed:v1"}})
	if got := names.Unknown(data); got != nil {
		t.Errorf("still unknown %s", got)
	}
	var s metrics.Set
	for range 2 {
		if err := s.AddShort(data, names); err != nil {
			t.Fatal(err)
		}
	}
	add(t, &s, user("sum_int64", "user-t", "a", varints(1))) // long and short name one series
	infos := s.Infos()
	if n, _ := s.ElementCount("c"); n != 6 || len(infos) != 2 || metrics.Text(infos[1]) != "5" || s.Dropped() != 0 {
		t.Errorf("got %v, %d dropped", infos, s.Dropped())
	}
	if s.AddShort(map[string][]byte{"9": nil}, names); s.Dropped() != 1 {
		t.Errorf("%d dropped", s.Dropped())
	}
}

// A record has room for so much. Numbers are kept before sets, and what is
// lost is told.
func TestMarshalIsBounded(t *testing.T) {
	var s metrics.Set
	add(t, &s, count("c", 4), user("sum_int64", "t", "n", varints(1)),
		user("set_string", "t", "s", list(1, texts(strings.Repeat("x", 5000)))))
	for i := range 200 {
		add(t, &s, &pipepb.MonitoringInfo{Urn: "beam:metric:pardo_execution_time:process_bundle_msecs:v1", Payload: varints(1),
			Labels: map[string]string{"PTRANSFORM": fmt.Sprint("t", i)}})
	}
	b := s.Marshal(4000)
	if len(b) > 4000 || string(b) != string(s.Marshal(4000)) {
		t.Errorf("%d bytes", len(b))
	}
	var got metrics.Set
	if err := got.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	if n, _ := got.ElementCount("c"); n != 4 || got.Dropped() == 0 || got.Len()+int(got.Dropped()) != s.Len() {
		t.Errorf("%d series of %d, %d dropped", got.Len(), s.Len(), got.Dropped())
	}
	for _, info := range got.Infos() {
		if strings.Contains(info.GetUrn(), "set_string") {
			t.Error("the long set was kept")
		}
	}
	for i := range b {
		new(metrics.Set).Unmarshal(b[:i]) // must not panic
	}
}

func TestSetsAreBounded(t *testing.T) {
	var s metrics.Set
	for i := range 30 {
		add(t, &s, user("set_string", "t", "s", list(1, texts(strings.Repeat("x", 50_000)+fmt.Sprint(i)))))
	}
	if size := len(s.Infos()[0].GetPayload()); size > 1<<20 || s.Dropped() == 0 {
		t.Errorf("%d bytes, %d dropped", size, s.Dropped())
	}
	var many metrics.Set
	for i := range 21_000 {
		add(t, &many, count(fmt.Sprint(i), 1))
	}
	if many.Len() != 20_000 || many.Dropped() != 1000 {
		t.Errorf("%d series, %d dropped", many.Len(), many.Dropped())
	}
}

// FuzzFold gives every type hostile payloads; what was folded must survive
// another round.
func FuzzFold(f *testing.F) {
	kinds := []string{"sum_int64", "sum_double", "distribution_int64", "latest_double", "top_n_int64", "bottom_n_double", "set_string", "bounded_trie", "histogram_int64"}
	for i := range kinds {
		f.Add(byte(i), list(-1, append(append(varints(1), texts("c")...), 0)))
		f.Add(byte(i), path("a", "b"))
		f.Add(byte(i), buckets(1, 2, 3))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		kind := kinds[int(which)%len(kinds)]
		var s, copied metrics.Set
		if s.Add([]*pipepb.MonitoringInfo{user(kind, "t", "m", b)}, nil) != nil {
			return
		}
		if err := copied.Unmarshal(s.Marshal(4 << 20)); err != nil {
			t.Fatal(err)
		}
		for i, info := range s.Infos() {
			if got, want := metrics.Text(copied.Infos()[i]), metrics.Text(info); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
		s.Merge(&copied)
	})
}

func BenchmarkAdd(b *testing.B) {
	var infos []*pipepb.MonitoringInfo
	short := map[string][]byte{}
	long := map[string]*pipepb.MonitoringInfo{}
	for i := range 20 {
		infos = append(infos, user("sum_int64", fmt.Sprint("transform", i), "metric", varints(1000)))
		short[fmt.Sprint(i)], long[fmt.Sprint(i)] = varints(1000), infos[i]
	}
	b.Run("long", func(b *testing.B) {
		var s metrics.Set
		b.ReportAllocs()
		for range b.N {
			add(b, &s, infos...)
		}
	})
	b.Run("short", func(b *testing.B) {
		var s metrics.Set
		names := metrics.NewNames(nil)
		names.Learn(long)
		b.ReportAllocs()
		for range b.N {
			s.AddShort(short, names)
		}
	})
}

// How far a transform has read is told in full or by a short id, and is no metric
// of the user's.
func TestReadIndex(t *testing.T) {
	info := func(transform string, n ...int64) *pipepb.MonitoringInfo {
		return &pipepb.MonitoringInfo{
			Urn: "beam:metric:data_channel:read_index:v1", Labels: map[string]string{"PTRANSFORM": transform}, Payload: varints(n...),
		}
	}
	if n, ok := metrics.ReadIndex("source", []*pipepb.MonitoringInfo{info("other", 3), info("source", 300)}, nil, nil); n != 300 || !ok {
		t.Errorf("%d, %v", n, ok)
	}
	names := metrics.NewNames(nil)
	names.Learn(map[string]*pipepb.MonitoringInfo{"1": info("other"), "2": info("source")})
	if n, ok := metrics.ReadIndex("source", nil, map[string][]byte{"1": varints(3), "2": varints(7)}, names); n != 7 || !ok {
		t.Errorf("%d, %v", n, ok)
	}
	if _, ok := metrics.ReadIndex("source", nil, map[string][]byte{"1": varints(3), "2": nil}, names); ok {
		t.Error("nothing was told")
	}
}

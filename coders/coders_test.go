package coders_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/element"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// urn turns the short name of a coder, as tests write it, into its URN: names
// with a dot are an SDK's own.
func urn(name string) string {
	if strings.Contains(name, ".") {
		return "beam:coder:" + name + ":v9"
	}
	return "beam:coder:" + name + ":v1"
}

func short(urn string) string { return strings.Split(urn, ":")[2] }

// parse adds the coders of an expression like kv(bytes, iterable(varint)) to
// protos and returns the outermost's id, which is the expression itself.
func parse(protos map[string]*pipepb.Coder, expr string) string {
	expr = strings.ReplaceAll(expr, " ", "")
	name, args, _ := strings.Cut(strings.TrimSuffix(expr, ")"), "(")
	if !strings.HasSuffix(expr, ")") {
		name, args = expr, ""
	}
	c := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn(name)}}
	depth, from := 0, 0
	for i, r := range args + "," {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 && i > from {
				c.ComponentCoderIds = append(c.ComponentCoderIds, parse(protos, args[from:i]))
				from = i + 1
			}
		}
	}
	protos[expr] = c
	return expr
}

func mustParse(t testing.TB, expr string) *coders.Coder {
	t.Helper()
	protos := map[string]*pipepb.Coder{}
	c, err := coders.NewTable(protos).Coder(parse(protos, expr))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// print writes the coder back as an expression, long ids and all forgotten.
func print(protos map[string]*pipepb.Coder, id string) string {
	c := protos[id]
	parts := make([]string, len(c.GetComponentCoderIds()))
	for i, p := range c.GetComponentCoderIds() {
		parts[i] = print(protos, p)
	}
	name := short(c.GetSpec().GetUrn())
	if len(parts) == 0 {
		return name
	}
	return name + "(" + strings.Join(parts, ", ") + ")"
}

// checkExtent checks that c finds enc whatever follows it, and that every
// proper prefix of enc ends too early.
func checkExtent(t *testing.T, c *coders.Coder, enc []byte) {
	t.Helper()
	for _, tail := range []string{"", "\x00", "\xff\xff\xff\xff", "abc"} {
		n, err := c.Skip(append(bytes.Clone(enc), tail...))
		if err != nil || n != len(enc) {
			t.Errorf("Skip(%q + %q) = %d, %v; want %d", enc, tail, n, err, len(enc))
		}
	}
	for i := range enc {
		if n, err := c.Skip(enc[:i]); err != io.ErrUnexpectedEOF {
			t.Errorf("Skip(%q) = %d, %v; want unexpected EOF (it is %d bytes of %q)", enc[:i], n, err, i, enc)
		}
	}
}

func TestSkip(t *testing.T) {
	for _, test := range []struct{ coder, enc string }{
		{"bytes", "\x00"},
		{"bytes", "\x05hello"},
		{"bytes", "\x80\x01" + strings.Repeat("x", 128)},
		{"string_utf8", "\x03a\u00ff"},
		{"length_prefix(my.own)", "\x02hi"},
		{"bool", "\x01"},
		{"double", "\x3f\xb9\x99\x99\x99\x99\x99\x9a"},
		{"varint", "\x00"},
		{"varint", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"kv(bytes, varint)", "\x03key\xac\x02"},
		{"kv(double, bool)", "12345678\x01"},
		{"kv(kv(varint, varint), nullable(bytes))", "\x01\x02\x01\x01z"},
		{"nullable(varint)", "\x00"},
		{"iterable(varint)", "\x00\x00\x00\x02\x01\xac\x02"},
		{"iterable(double)", "\x00\x00\x00\x0212345678abcdefgh"},
		{"iterable(global_window)", "\x7f\xff\xff\xff"},
		{"iterable(bytes)", "\xff\xff\xff\xff\x01\x01a\x02\x00\x01b\x00"},
		{"iterable(iterable(varint))", "\x00\x00\x00\x02\x00\x00\x00\x00\xff\xff\xff\xff\x01\x07\x00"},
		{"state_backed_iterable(varint)", "\xff\xff\xff\xff\x01\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x05token"},
		{"interval_window", "\x80\x00\x00\x00\x00\x00\x00\x00\x80\x01"},
		{"custom_window(length_prefix(my.own))", "\x80\x00\x00\x00\x00\x00\x00\x00\x02hi"},
		{"custom_window(global_window)", "\x80\x00\x00\x00\x00\x00\x00\x00"},
		{"sharded_key(bytes)", "\x02id\x03key"},
		{"timer(bytes, global_window)", "\x01k\x03tag\x00\x00\x00\x01\x01"},
		{"timer(bytes, interval_window)", "\x01k\x00\x00\x00\x00\x02" +
			"\x80\x00\x00\x00\x00\x00\x00\x00\x01" + "\x80\x00\x00\x00\x00\x00\x00\x00\x80\x01" +
			"\x00" + "\x80\x00\x00\x00\x00\x00\x00\x00" + "\x80\x00\x00\x00\x00\x00\x00\x01" + "\x21\x05\x06"},
		{"windowed_value(bytes, global_window)", "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x0f\x01a"},
		{"windowed_value(global_window, global_window)", "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x15\x80\x01"},
		{"param_windowed_value(varint, global_window)", "\xac\x02"},
	} {
		t.Run(test.coder, func(t *testing.T) {
			checkExtent(t, mustParse(t, test.coder), []byte(test.enc))
		})
	}
}

// What is wrong however it goes on must be told from what ends too early, or a
// reader would wait for more for ever.
func TestSkipMalformed(t *testing.T) {
	for _, test := range []struct{ coder, enc string }{
		{"varint", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"},
		{"varint", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"bytes", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01abc"},
		{"nullable(bytes)", "\x02"},
		{"iterable(bytes)", "\xff\xff\xff\xfe"},
		{"iterable(bytes)", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x05token"},
		{"windowed_value(bytes, global_window)", "12345678\x7f\xff\xff\xff\x0f\x00"},
		{"windowed_value(bytes, global_window)", "12345678\xff\xff\xff\xff\x0f\x00"},
		{"windowed_value(bytes, global_window)", "12345678\x00\x00\x00\x01\x3f\x00"},
		{"timer(bytes, global_window)", "\x00\x00\x00\x00\x00\x01\x02"},
	} {
		if n, err := mustParse(t, test.coder).Skip([]byte(test.enc)); !errors.Is(err, coders.ErrMalformed) {
			t.Errorf("%s: Skip(%q) = %d, %v; want malformed", test.coder, test.enc, n, err)
		}
	}
}

func TestSkipDoesNotAllocate(t *testing.T) {
	c := mustParse(t, "kv(bytes, iterable(kv(varint, nullable(string_utf8))))")
	enc := []byte("\x01k\x00\x00\x00\x02\x05\x00\x06\x01\x02hi")
	if n := testing.AllocsPerRun(100, func() { c.Skip(enc) }); n != 0 {
		t.Errorf("Skip allocates %v times", n)
	}
}

func TestTableErrors(t *testing.T) {
	protos := map[string]*pipepb.Coder{}
	set := func(id, name string, parts ...string) {
		protos[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn(name)}, ComponentCoderIds: parts}
	}
	set("c1", "bytes")
	set("own", "my.own")
	set("loop", "kv", "c1", "loop2")
	set("loop2", "iterable", "loop")
	set("hole", "kv", "c1", "nowhere")
	set("thin", "kv", "c1")
	set("outer", "iterable", "own")
	protos["nil"] = nil
	deep := "c1"
	for i := range 1000 {
		id := fmt.Sprintf("deep%d", i)
		set(id, "iterable", deep)
		deep = id
	}
	wide := parse(protos, "double")
	for i := range 40 {
		id := fmt.Sprintf("wide%d", i)
		set(id, "kv", wide, wide)
		wide = id
	}
	table := coders.NewTable(protos)
	for _, test := range []struct{ id, want string }{
		{"loop", `coder "loop" is part of itself: loop > loop2 > loop`},
		{"hole", `coder "nowhere" (part of "hole") does not exist`},
		{"nil", `coder "nil" does not exist`},
		{"thin", `coder "thin" (beam:coder:kv:v1) must have 2 component coders, but has 1`},
		{"outer", `coder "own" (part of "outer") (beam:coder:my.own:v9) can't be cut by the runner; it must be length prefixed`},
		{deep, `coder "deep999" is nested more than 100 deep`},
		{wide, `coder "wide25" has elements of more than 268435456 bytes at least`},
	} {
		for range 2 { // the second time must not find leavings of the first
			if _, err := table.Coder(test.id); err == nil || err.Error() != test.want {
				t.Errorf("Coder(%q): %v\nwant %s", test.id, err, test.want)
			}
		}
		if coders.Cuttable(protos, test.id) {
			t.Errorf("%q is cuttable", test.id)
		}
	}
	for i := range 1000 { // built from the inside, each is one deeper
		if _, err := table.Coder(fmt.Sprintf("deep%d", i)); (err == nil) != (i < 100) {
			t.Fatalf("deep%d: %v", i, err)
		}
	}
}

func TestWireID(t *testing.T) {
	for _, test := range []struct{ coder, want string }{
		{"kv(bytes, varint)", "kv(bytes, varint)"},
		{"my.own", "length_prefix(my.own)"},
		{"row", "length_prefix(row)"},
		{"length_prefix(my.own)", "length_prefix(my.own)"},
		{"kv(my.own, bytes)", "kv(length_prefix(my.own), bytes)"},
		{"kv(my.own, iterable(my.own))", "kv(length_prefix(my.own), iterable(length_prefix(my.own)))"},
		{"nullable(kv(my.own(bytes), my.other))", "nullable(kv(length_prefix(my.own(bytes)), length_prefix(my.other)))"},
		{"windowed_value(my.own, interval_window)", "windowed_value(length_prefix(my.own), interval_window)"},
		{"kv(bytes)", "length_prefix(kv(bytes))"},
	} {
		protos := map[string]*pipepb.Coder{}
		id := parse(protos, test.coder)
		wired := coders.WireID(protos, id)
		if got := print(protos, wired); got != test.want {
			t.Errorf("%s: wired as %s, want %s", test.coder, got, test.want)
		}
		if !coders.Cuttable(protos, wired) {
			t.Errorf("%s: wired as %s, which is not cuttable", test.coder, test.want)
		}
		size := len(protos)
		if again := coders.WireID(protos, id); again != wired || len(protos) != size {
			t.Errorf("%s: wired as %s, then as %s", test.coder, wired, again)
		}
		if again := coders.WireID(protos, wired); again != wired {
			t.Errorf("%s: its wire id %s was wired again as %s", test.coder, wired, again)
		}
	}
}

func TestWireIDLeavesBrokenCoders(t *testing.T) {
	protos := map[string]*pipepb.Coder{
		"loop": {Spec: &pipepb.FunctionSpec{Urn: coders.URNIterable}, ComponentCoderIds: []string{"loop"}},
		"hole": {Spec: &pipepb.FunctionSpec{Urn: coders.URNIterable}, ComponentCoderIds: []string{"nowhere"}},
	}
	for _, id := range []string{"loop", "hole", "absent"} {
		if got := coders.WireID(protos, id); got != id {
			t.Errorf("WireID(%q) = %q", id, got)
		}
	}
}

// A pipeline may use our id for a coder of its own.
func TestWireIDYields(t *testing.T) {
	protos := map[string]*pipepb.Coder{}
	id := parse(protos, "my.own")
	protos["lp(my.own)"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: coders.URNBytes}}
	if got := print(protos, coders.WireID(protos, id)); got != "length_prefix(my.own)" {
		t.Errorf("wired as %s", got)
	}
}

func TestComposedIDs(t *testing.T) {
	type ids = map[string]*pipepb.Coder
	window := func(p ids, id string) string { return coders.WindowWireID(p, id) }
	backed := func(p ids, id string) string { return coders.StateBackedID(p, id) }
	prefix := func(p ids, id string) string { return coders.LengthPrefixID(p, id) }
	windowed := func(p ids, id string) string { return coders.WindowedID(p, id, parse(p, "global_window")) }
	for _, test := range []struct {
		compose     func(ids, string) string
		coder, want string
	}{
		{window, "interval_window", "interval_window"},
		{window, "my.own", "custom_window(length_prefix(my.own))"},
		{window, "custom_window(my.own)", "custom_window(length_prefix(my.own))"},
		{backed, "kv(bytes, iterable(bool))", "kv(bytes, state_backed_iterable(bool))"},
		{backed, "kv(bytes, bool)", "kv(bytes, bool)"},
		{windowed, "bytes", "windowed_value(bytes, global_window)"},
		{prefix, "bytes", "length_prefix(bytes)"},
		{prefix, "length_prefix(bytes)", "length_prefix(bytes)"},
	} {
		protos := ids{}
		if got := print(protos, test.compose(protos, parse(protos, test.coder))); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

func TestNext(t *testing.T) {
	w := coders.NewWindowed(mustParse(t, "kv(bytes, varint)"), mustParse(t, "interval_window"))
	one, two := element.Interval{Start: 0, End: 10}, element.Interval{Start: -1000, End: 1000}
	windows := coders.AppendInterval(coders.AppendInterval(nil, one), two)
	pane := coders.AppendPane(nil, element.Pane{Timing: element.Late, Index: 3, OnTimeIndex: 2})
	raw := append(coders.AppendHeader(nil, -5, 2, windows, pane), "\x03key\x2a"...)

	var v coders.Value
	rest, err := w.Next(append(bytes.Clone(raw), "rest"...), &v)
	if err != nil {
		t.Fatal(err)
	}
	if string(rest) != "rest" || !bytes.Equal(v.Raw, raw) || v.Timestamp() != -5 || v.NumWindows != 2 ||
		!bytes.Equal(v.Windows, windows) || !bytes.Equal(v.Pane, pane) || string(v.Elem) != "\x03key\x2a" ||
		string(v.Key()) != "\x03key" || string(v.KVValue()) != "\x2a" || len(v.Header())+len(v.Elem) != len(raw) {
		t.Errorf("got %+v, rest %q", v, rest)
	}
	key, value, err := w.KeyValue(v.Elem)
	if err != nil || string(key) != "\x03key" || string(value) != "\x2a" {
		t.Errorf("KeyValue = %q, %q, %v", key, value, err)
	}
	ws := v.Windows
	for _, want := range []element.Interval{one, two} {
		var win []byte
		if win, ws, err = w.CutWindow(ws); err != nil {
			t.Fatal(err)
		}
		got, n, err := coders.DecodeInterval(win)
		if err != nil || got != want || n != len(win) {
			t.Errorf("window %v, %v; want %v", got, err, want)
		}
		if end, err := w.MaxTimestamp(win); err != nil || end != want.MaxTimestamp() {
			t.Errorf("MaxTimestamp(%v) = %v, %v", want, end, err)
		}
	}
	checkExtent(t, mustParse(t, "windowed_value(kv(bytes, varint), interval_window)"), raw)
	for i := range raw {
		if _, err := w.Next(raw[:i], &v); err != io.ErrUnexpectedEOF {
			t.Errorf("Next of %d bytes: %v", i, err)
		}
	}
}

func TestMaxTimestamp(t *testing.T) {
	global, custom := mustParse(t, "global_window"), mustParse(t, "custom_window(length_prefix(my.own))")
	if ts, err := global.MaxTimestamp(nil); ts != element.EndOfGlobalWindow || err != nil {
		t.Errorf("global: %v, %v", ts, err)
	}
	if ts, err := custom.MaxTimestamp(append(coders.AppendTimestamp(nil, 99), 0)); ts != 99 || err != nil {
		t.Errorf("custom: %v, %v", ts, err)
	}
	for _, bad := range []string{"", "1234567"} {
		if _, err := custom.MaxTimestamp([]byte(bad)); err == nil {
			t.Errorf("custom window %q has a max timestamp", bad)
		}
	}
	if _, err := mustParse(t, "bytes").MaxTimestamp([]byte("123456789")); err == nil {
		t.Error("bytes have a max timestamp")
	}
}

func TestPanes(t *testing.T) {
	for _, test := range []struct {
		pane element.Pane
		enc  string
	}{
		{element.NoFiring, "\x0f"},
		{element.OnlyFiring, "\x07"},
		{element.Pane{First: true, Timing: element.Early, OnTimeIndex: -1}, "\x11\x00"},
		{element.Pane{Timing: element.Early, Index: 300, OnTimeIndex: -1}, "\x10\xac\x02"},
		{element.Pane{Last: true, Timing: element.OnTime, Index: 2}, "\x26\x02\x00"},
		{element.Pane{Timing: element.Late, Index: 5, OnTimeIndex: 5}, "\x18\x05"},
	} {
		if got := coders.AppendPane(nil, test.pane); string(got) != test.enc {
			t.Errorf("encoded %+v as %x, want %x", test.pane, got, test.enc)
		}
		got, n, err := coders.DecodePane([]byte(test.enc + "more"))
		if err != nil || got != test.pane || n != len(test.enc) {
			t.Errorf("decoded %x as %+v, %d, %v; want %+v", test.enc, got, n, err, test.pane)
		}
	}
	if _, _, err := coders.DecodePane([]byte{0x30}); !errors.Is(err, coders.ErrMalformed) {
		t.Errorf("pane with three indices: %v", err)
	}
}

// FuzzSkip holds cutting to what a data stream needs: no panic, never more
// than there is, and an element stays the same whatever follows it.
func FuzzSkip(f *testing.F) {
	exprs := []string{
		"kv(bytes, varint)", "iterable(kv(varint, nullable(bytes)))", "state_backed_iterable(iterable(bool))",
		"timer(sharded_key(bytes), interval_window)", "windowed_value(iterable(global_window), custom_window(bytes))",
		"iterable(custom_window(global_window))", "param_windowed_value(double, interval_window)",
	}
	all := make([]*coders.Coder, len(exprs))
	for i, e := range exprs {
		all[i] = mustParse(f, e)
		f.Add(byte(i), []byte("\xff\xff\xff\xff\x01\x01a\x02\x00\x01b\x00"))
		f.Add(byte(i), binary.BigEndian.AppendUint32(nil, 1<<31-1))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		c := all[int(which)%len(all)]
		n, err := c.Skip(b)
		if err != nil {
			if err != io.ErrUnexpectedEOF && err != coders.ErrMalformed {
				t.Fatalf("error %v", err)
			}
			return
		}
		if n < 0 || n > len(b) {
			t.Fatalf("%s: %d bytes of %d", c.ID(), n, len(b))
		}
		if m, err := c.Skip(b[:n]); m != n || err != nil {
			t.Fatalf("%s: %d bytes with more behind, %d, %v alone", c.ID(), n, m, err)
		}
		if n > 0 {
			if m, err := c.Skip(b[:n-1]); err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: %d bytes, but without the last %d, %v", c.ID(), n, m, err)
			}
		}
	})
}

// FuzzNext holds both ways of cutting a windowed value to one answer.
func FuzzNext(f *testing.F) {
	var cutters []*coders.Windowed
	var wholes []*coders.Coder
	for _, elem := range []string{"kv(bytes, varint)", "iterable(bytes)"} {
		for _, win := range []string{"global_window", "interval_window", "custom_window(bytes)"} {
			cutters = append(cutters, coders.NewWindowed(mustParse(f, elem), mustParse(f, win)))
			wholes = append(wholes, mustParse(f, "windowed_value("+elem+","+win+")"))
			f.Add(byte(len(wholes)-1), []byte("\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x0f\x01a\x00rest"))
		}
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		i := int(which) % len(cutters)
		var v coders.Value
		rest, err := cutters[i].Next(b, &v)
		n, wantErr := wholes[i].Skip(b)
		if err != wantErr {
			t.Fatalf("Next: %v; Skip: %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if len(v.Raw) != n || len(rest) != len(b)-n {
			t.Fatalf("Next cut %d bytes, Skip %d", len(v.Raw), n)
		}
		again := coders.AppendHeader(nil, v.Timestamp(), v.NumWindows, v.Windows, v.Pane)
		if again = append(again, v.Elem...); !bytes.Equal(again, v.Raw) {
			t.Fatalf("parts make %x, whole is %x", again, v.Raw)
		}
		ws := v.Windows
		for range v.NumWindows {
			var win []byte
			if win, ws, err = cutters[i].CutWindow(ws); err != nil {
				t.Fatal(err)
			}
			cutters[i].MaxTimestamp(win)
			coders.DecodeInterval(win)
		}
		if _, n, err := coders.DecodePane(v.Pane); err != nil || n != len(v.Pane) || len(ws) != 0 {
			t.Fatalf("pane %x: %d, %v; %d bytes of windows left", v.Pane, n, err, len(ws))
		}
	})
}

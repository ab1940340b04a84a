package fnapi

import (
	"bytes"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// TestEncodeElements holds our encoding against protobuf's.
func TestEncodeElements(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 2_000)
	data := func(d ...*fnpb.Elements_Data) *fnpb.Elements { return &fnpb.Elements{Data: d} }
	for _, c := range []struct {
		name string
		got  *outgoing
		want *fnpb.Elements
	}{
		{"data", encodeData("i1", "source", []byte("abc")), data(&fnpb.Elements_Data{InstructionId: "i1", TransformId: "source", Data: []byte("abc")})},
		{"much data", encodeData("i1", "source", long), data(&fnpb.Elements_Data{InstructionId: "i1", TransformId: "source", Data: long})},
		{"timers", encodeTimers("i1", "t", "f", long[:127]), &fnpb.Elements{Timers: []*fnpb.Elements_Timers{
			{InstructionId: "i1", TransformId: "t", TimerFamilyId: "f", Timers: long[:127]},
		}}},
		{"last", encodeLast("i12", []string{"a", "b"}, [][2]string{{"t", "f"}}), &fnpb.Elements{
			Data: []*fnpb.Elements_Data{
				{InstructionId: "i12", TransformId: "a", IsLast: true},
				{InstructionId: "i12", TransformId: "b", IsLast: true},
			},
			Timers: []*fnpb.Elements_Timers{{InstructionId: "i12", TransformId: "t", TimerFamilyId: "f", IsLast: true}},
		}},
	} {
		var got fnpb.Elements
		if err := proto.Unmarshal(*c.got.bytes, &got); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, &got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.name, diff)
		}
		c.got.free()
	}
}

// decode reads msg with the cursor into protobuf's form.
func decode(msg []byte) (*fnpb.Elements, error) {
	all := &fnpb.Elements{}
	var e entry
	for {
		rest, ok, err := nextEntry(msg, &e)
		if !ok {
			return all, err
		}
		msg = rest
		if e.timers {
			all.Timers = append(all.Timers, &fnpb.Elements_Timers{
				InstructionId: string(e.instruction), TransformId: string(e.transform), TimerFamilyId: string(e.family),
				Timers: e.payload, IsLast: e.last,
			})
			continue
		}
		all.Data = append(all.Data, &fnpb.Elements_Data{
			InstructionId: string(e.instruction), TransformId: string(e.transform), Data: e.payload, IsLast: e.last,
		})
	}
}

// FuzzElements reads any bytes without harm, and what protobuf can read too it
// reads alike.
func FuzzElements(f *testing.F) {
	for _, m := range []*fnpb.Elements{
		{},
		{Data: []*fnpb.Elements_Data{{InstructionId: "i1", TransformId: "t", Data: []byte("abc")}, {IsLast: true}}},
		{Timers: []*fnpb.Elements_Timers{{InstructionId: "i1", TransformId: "t", TimerFamilyId: "f", Timers: []byte{1}, IsLast: true}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x0a, 0xff})                                                        // entry longer than the message
	f.Add([]byte{0x0a, 0x02, 0x1a, 0x7f})                                            // payload longer than the entry
	f.Add([]byte{0x1b, 0x0a, 0x00, 0x1c, 0x0a, 0x00})                                // an unknown group
	f.Add([]byte{0x0a, 0x04, 0x20, 0xff, 0xff, 0xff})                                // a varint without end
	f.Add([]byte{0x08, 0x01})                                                        // an entry that is a number
	f.Add([]byte{0x0a, 0x0b, 0x0a, 0x01, 'a', 0x0a, 0x01, 'b', 0x98, 1, 1, 0x20, 0}) // a field twice, one unknown
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := decode(msg)
		var want fnpb.Elements
		if err != nil || proto.Unmarshal(msg, &want) != nil {
			return
		}
		ignore := protocmp.FilterMessage(&fnpb.Elements{}, protocmp.IgnoreUnknown())
		if diff := cmp.Diff(&want, got, protocmp.Transform(), protocmp.IgnoreUnknown(), ignore); diff != "" {
			t.Fatalf("-protobuf +ours:\n%s", diff)
		}
	})
}

func TestNextEntryRefuses(t *testing.T) {
	for name, msg := range map[string][]byte{
		"an entry longer than the message": {0x0a, 0xff},
		"a payload longer than its entry":  {0x0a, 0x02, 0x1a, 0x7f},
		"an entry that is a number":        {0x08, 0x01},
		"a payload that is a number":       {0x0a, 0x02, 0x18, 0x01},
		"a tag without end":                {0x80},
	} {
		if got, err := decode(msg); err == nil {
			t.Errorf("%s: no error, but %v", name, got)
		}
	}
}

package fnapi

import (
	"context"
	"errors"
	"fmt"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/proto"
)

// A parrot is a StateHandler that tells what it was asked.
type parrot struct {
	asked      string
	data, next []byte
	err        error
}

func (p *parrot) Get(_ context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	p.asked = fmt.Sprintf("get %v %v", text(key), text(req))
	return p.data, p.next, p.err
}

func (p *parrot) Append(_ context.Context, key *fnpb.StateKey, data []byte) error {
	p.asked = fmt.Sprintf("append %v %q", text(key), data)
	return p.err
}

func (p *parrot) Clear(_ context.Context, key *fnpb.StateKey) error {
	p.asked = fmt.Sprintf("clear %v", text(key))
	return p.err
}

func text(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return fmt.Sprintf("%x %v", b, err)
}

func bagKey(transform, state, window, key string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: transform, UserStateId: state, Window: []byte(window), Key: []byte(key),
	}}}
}

func requests() (all []*fnpb.StateRequest) {
	for _, key := range []*fnpb.StateKey{bagKey("e1", "seen", "\x00", "k"), bagKey("", "", "", ""), bagKey("tränsform", "s", "w", "kk")} {
		for _, id := range []string{"", "r1", "ü"} {
			all = append(all,
				&fnpb.StateRequest{Id: id, InstructionId: "i", StateKey: key, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}},
				&fnpb.StateRequest{Id: id, InstructionId: "i", StateKey: key, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: []byte("t")}}},
				&fnpb.StateRequest{Id: id, InstructionId: "i", StateKey: key, Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: []byte("x")}}},
				&fnpb.StateRequest{Id: id, InstructionId: "i", StateKey: key, Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{}}},
				&fnpb.StateRequest{Id: id, InstructionId: "i", StateKey: key, Request: &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}},
			)
		}
	}
	return all
}

// The quick way asks and answers as the one through protobuf does.
func TestQuickRequest(t *testing.T) {
	var q quickRequest
	q.init()
	for _, p := range []parrot{{}, {data: []byte("d")}, {data: make([]byte, 300), next: []byte("n")}, {next: []byte("n")}, {err: errors.New("nö")}} {
		for _, req := range requests() {
			slow, quick := p, p
			b := &Bundle{start: BundleStart{State: &slow}}
			want := b.answerState(req)

			encoded, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if !q.parse(encoded) {
				t.Fatalf("%v is not quick", req)
			}
			if string(q.instruction) != req.GetInstructionId() {
				t.Errorf("%v is for instruction %q", req, q.instruction)
			}
			b = &Bundle{start: BundleStart{State: &quick}}
			var got fnpb.StateResponse
			if err := proto.Unmarshal(b.answerQuick(nil, &q), &got); err != nil {
				t.Fatalf("the answer to %v: %v", req, err)
			}
			if quick.asked != slow.asked {
				t.Errorf("%v asked %s, want %s", req, quick.asked, slow.asked)
			}
			if !proto.Equal(&got, want) {
				t.Errorf("%v: %v, want %v", req, &got, want)
			}
		}
	}
}

// Requests about anything but a bag go the other way.
func TestNotQuick(t *testing.T) {
	get := &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}
	for _, req := range []*fnpb.StateRequest{
		{},
		{StateKey: bagKey("e1", "s", "", "k")},
		{Request: get},
		{StateKey: &fnpb.StateKey{}, Request: get},
		{StateKey: &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: []byte("k")}}}, Request: get},
		{StateKey: &fnpb.StateKey{Type: &fnpb.StateKey_MultimapUserState_{MultimapUserState: &fnpb.StateKey_MultimapUserState{MapKey: []byte("k")}}}, Request: get},
	} {
		encoded, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var q quickRequest
		q.init()
		if q.parse(encoded) {
			t.Errorf("%v is quick", req)
		}
	}
}

// FuzzQuickRequest: what is quick is what protobuf reads.
func FuzzQuickRequest(f *testing.F) {
	for _, req := range requests() {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q quickRequest
		q.init()
		if !q.parse(b) {
			return
		}
		var req fnpb.StateRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			t.Fatalf("protobuf: %v", err)
		}
		if !proto.Equal(req.GetStateKey(), q.key) {
			t.Errorf("key %v, want %v", q.key, req.GetStateKey())
		}
		if req.GetId() != string(q.id) || req.GetInstructionId() != string(q.instruction) {
			t.Errorf("id %q of %q, want %v", q.id, q.instruction, &req)
		}
		if string(req.GetAppend().GetData()) != string(q.data) || string(req.GetGet().GetContinuationToken()) != string(q.get.GetContinuationToken()) {
			t.Errorf("data %q, token %q, want %v", q.data, q.get.GetContinuationToken(), &req)
		}
		if (req.GetGet() != nil) != (q.verb == verbGet) || (req.GetAppend() != nil) != (q.verb == verbAppend) {
			t.Errorf("verb %d, want %v", q.verb, &req)
		}
	})
}

package fnapi

import (
	"context"
	"fmt"
	"unicode/utf8"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"trestle/fnapi/dialog"
)

const stateMethod = "/org.apache.beam.model.fn_execution.v1.BeamFnState/State"

// stateServer answers state requests on a listener of their own: a worker waits
// for an answer with almost each element of code with state, so that it is the
// cost of a request which counts.
func (s *Server) stateServer() *dialog.Server {
	return dialog.NewServer(stateMethod, s.openState, dialog.Options{Greeting: greeting, MaxMessageBytes: maxMessageBytes})
}

// A stateLine is a state stream of the state listener.
type stateLine struct {
	worker *Worker
	stream *dialog.Stream
	quick  quickRequest
	buf    []byte // an answer
}

func (s *Server) openState(ctx context.Context, stream *dialog.Stream) (dialog.Listener, error) {
	w, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	s.tasks.Go(func() {
		select {
		case <-w.lost:
			stream.End(nil) // the end of a worker is no error of its streams
		case <-ctx.Done():
		}
	})
	l := &stateLine{worker: w, stream: stream}
	l.quick.init()
	return l, nil
}

// Hear answers what can be answered at once, and has the rest answered in its
// bundle's queue.
func (l *stateLine) Hear(message []byte) error {
	if l.quick.parse(message) {
		if b := l.worker.bundle(l.quick.instruction); b != nil && b.quick(l.quick.key) {
			l.buf = b.answerQuick(l.buf[:0], &l.quick)
			l.stream.Say(l.buf)
			return nil
		}
	}
	req := &fnpb.StateRequest{}
	if err := proto.Unmarshal(message, req); err != nil {
		return status.Errorf(codes.InvalidArgument, "a state request can't be read: %v", err)
	}
	b := l.worker.bundle([]byte(req.GetInstructionId()))
	if b == nil {
		l.answer(refusal(req.GetId(), fmt.Errorf("no bundle %q is under way", req.GetInstructionId())))
		return nil
	}
	if !l.slot() {
		return nil
	}
	b.enqueue(stateRequest{from: l, req: req})
	return nil
}

// slot takes one of the worker's slots; false means that the worker is lost. All
// that the worker asks has to wait while there is none.
func (l *stateLine) slot() (ok bool) {
	select {
	case l.worker.stateSlots <- struct{}{}:
		return true
	default:
	}
	l.stream.Wait(func() {
		select {
		case l.worker.stateSlots <- struct{}{}:
			ok = true
		case <-l.worker.lost:
		}
	})
	return ok
}

// answer may be called by several goroutines.
func (l *stateLine) answer(resp *fnpb.StateResponse) {
	b, err := proto.Marshal(resp)
	if err != nil { // such as a name that is no UTF-8
		b, _ = proto.Marshal(&fnpb.StateResponse{Id: resp.GetId(), Error: err.Error()})
	}
	l.stream.Say(b)
}

// quick reports whether a request can be answered in the goroutine that reads
// them: nothing of the bundle waits before it, and nothing has to be waited for.
func (b *Bundle) quick(key *fnpb.StateKey) bool {
	h, ok := b.start.State.(QuickStateHandler)
	if !ok || b.over.Load() {
		return false
	}
	b.queueMu.Lock()
	waiting := b.draining
	b.queueMu.Unlock()
	return !waiting && h.Quick(key)
}

// answerQuick appends the encoded answer.
func (b *Bundle) answerQuick(dst []byte, q *quickRequest) []byte {
	data, next, err := b.ask(q.verb, q.key, q.get, q.data)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendBytes(dst, q.id)
	if err != nil {
		dst = protowire.AppendTag(dst, 2, protowire.BytesType)
		return protowire.AppendString(dst, refusal(string(q.id), err).GetError())
	}
	dst = protowire.AppendTag(dst, protowire.Number(q.verb), protowire.BytesType)
	if q.verb != verbGet {
		return append(dst, 0) // an empty message
	}
	size := 0
	if len(next) > 0 {
		size += 1 + protowire.SizeBytes(len(next))
	}
	if len(data) > 0 {
		size += 1 + protowire.SizeBytes(len(data))
	}
	dst = protowire.AppendVarint(dst, uint64(size))
	if len(next) > 0 {
		dst = protowire.AppendTag(dst, 1, protowire.BytesType)
		dst = protowire.AppendBytes(dst, next)
	}
	if len(data) > 0 {
		dst = protowire.AppendTag(dst, 2, protowire.BytesType)
		dst = protowire.AppendBytes(dst, data)
	}
	return dst
}

// A verb is what a request wants; its value is the number of its field, in
// requests and in responses.
type verb protowire.Number

const (
	verbGet    verb = 1000
	verbAppend verb = 1001
	verbClear  verb = 1002
)

// A quickRequest is a request as most are: about a bag of user state. What it
// has is the message's bytes, and is used again for the next one.
type quickRequest struct {
	id, instruction []byte
	verb            verb
	data            []byte // of an append
	key             *fnpb.StateKey
	bag             *fnpb.StateKey_BagUserState // in key
	get             *fnpb.StateGetRequest
	names           map[string]string // transforms and states, each once
}

// mostNames bounds the names that are kept to be used again.
const mostNames = 1024

func (q *quickRequest) init() {
	q.bag = &fnpb.StateKey_BagUserState{}
	q.key = &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: q.bag}}
	q.get = &fnpb.StateGetRequest{}
	q.names = make(map[string]string)
}

// parse reads a message; false means that it is not as most are, or broken.
func (q *quickRequest) parse(m []byte) bool {
	q.id, q.instruction, q.data, q.verb = nil, nil, nil, 0
	q.get.ContinuationToken = nil
	keyed := false
	for len(m) > 0 {
		number, body, rest := nextField(m)
		switch number {
		case 1:
			q.id = body
		case 2:
			q.instruction = body
		case 3:
			if keyed || !q.parseKey(body) {
				return false
			}
			keyed = true
		case protowire.Number(verbGet), protowire.Number(verbAppend), protowire.Number(verbClear):
			if q.verb != 0 {
				return false
			}
			if q.verb = verb(number); !q.parseVerb(body) {
				return false
			}
		default:
			return false
		}
		m = rest
	}
	return keyed && q.verb != 0 && utf8.Valid(q.id) && utf8.Valid(q.instruction)
}

func (q *quickRequest) parseVerb(m []byte) bool {
	if len(m) == 0 {
		return true
	}
	number, body, rest := nextField(m)
	if number != 1 || len(rest) > 0 {
		return false
	}
	switch q.verb {
	case verbGet:
		q.get.ContinuationToken = body
	case verbAppend:
		q.data = body
	default:
		return false
	}
	return true
}

func (q *quickRequest) parseKey(m []byte) bool {
	number, body, rest := nextField(m)
	if number != 3 || len(rest) > 0 { // the bags' field
		return false
	}
	bag := q.bag
	bag.TransformId, bag.UserStateId, bag.Window, bag.Key = "", "", nil, nil
	ok := true
	for m = body; len(m) > 0 && ok; m = rest {
		number, body, rest = nextField(m)
		switch number {
		case 1:
			bag.TransformId, ok = q.name(body)
		case 2:
			bag.UserStateId, ok = q.name(body)
		case 3:
			bag.Window = body
		case 4:
			bag.Key = body
		default:
			return false
		}
	}
	return ok
}

// name gives one string for all that are equal.
func (q *quickRequest) name(b []byte) (s string, ok bool) {
	if s, ok = q.names[string(b)]; ok {
		return s, true
	}
	if !utf8.Valid(b) {
		return "", false
	}
	if len(q.names) >= mostNames {
		clear(q.names)
	}
	s = string(b)
	q.names[s] = s
	return s, true
}

// nextField cuts a field off that has its length before it. Its number is 0 if
// there is none.
func nextField(m []byte) (number protowire.Number, body, rest []byte) {
	number, kind, n := protowire.ConsumeTag(m)
	if n < 0 || kind != protowire.BytesType {
		return 0, nil, nil
	}
	body, size := protowire.ConsumeBytes(m[n:])
	if size < 0 {
		return 0, nil, nil
	}
	return number, body[:len(body):len(body)], m[n+size:]
}

package task

import (
	"context"
	"fmt"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/watermark"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// play plays the events of a TestStream, each when nothing is left to be done
// about those before.
func (s *stream) play(ctx context.Context) error {
	st := s.r.prog.Stream
	var pay pipepb.TestStreamPayload
	if err := proto.Unmarshal(st.Root.GetSpec().GetPayload(), &pay); err != nil {
		return fmt.Errorf("the payload of a TestStream is malformed: %w", err)
	}
	if len(pay.GetEvents()) == 0 && pay.GetEndpoint().GetUrl() != "" {
		return fmt.Errorf("a TestStream gets its events from %q, a service; that is not supported yet", pay.GetEndpoint().GetUrl())
	}
	tag, alone := "", st.RootOrigin == s.r.prog.Stage.RootTransform
	for t := range st.Root.GetOutputs() { // one
		tag = t
	}
	events := pay.GetEvents()
	p := s.job.player(st.RootOrigin, tag, len(events)-1)
	defer s.job.exit()
	s.job.stay(s.seat)
	mine := func(i int) bool { return alone || ownerOf(events[i], p.tags) == tag }
	s.job.done(s.seat, s.received, element.MaxTimestamp)
	s.received = 0
	for {
		at, err := s.job.turn(ctx, p, mine)
		if err != nil {
			return err
		}
		if at < 0 {
			break
		}
		if alone || isMine(events[at], tag) || events[at].GetProcessingTimeEvent() != nil {
			err = s.playEvent(ctx, events[at])
		}
		s.job.playedOne(p)
		if err != nil {
			return err
		}
	}
	// The end is in nobody's way, but must not come before the last event is done.
	if err := s.job.calm(ctx); err != nil {
		return err
	}
	if s.told != watermark.End {
		return s.sendMark(ctx, watermark.End)
	}
	return nil
}

// ownerOf is the tag of those there are that plays an event: the first, where
// the event is of an output that nobody reads.
func ownerOf(e *pipepb.TestStreamPayload_Event, tags []string) string {
	for _, t := range tags {
		if isMine(e, t) {
			return t
		}
	}
	return slices.Min(tags)
}

// isMine reports whether an event is of the output with that tag.
func isMine(e *pipepb.TestStreamPayload_Event, tag string) bool {
	main := func(t string) bool { return t == "" || t == "None" || t == "main" }
	of := e.GetElementEvent().GetTag()
	if e.GetWatermarkEvent() != nil {
		of = e.GetWatermarkEvent().GetTag()
	}
	return of == tag || main(of) && main(tag)
}

func (s *stream) playEvent(ctx context.Context, e *pipepb.TestStreamPayload_Event) error {
	switch e := e.GetEvent().(type) {
	case *pipepb.TestStreamPayload_Event_ElementEvent:
		return s.playElements(ctx, e.ElementEvent.GetElements())
	case *pipepb.TestStreamPayload_Event_WatermarkEvent:
		at := min(max(element.Timestamp(e.WatermarkEvent.GetNewWatermark()), element.MinTimestamp), element.MaxTimestamp)
		if at <= s.told.Watermark {
			return nil
		}
		s.told = watermark.Mark{Watermark: at}
		s.r.live.reach(Watermarks{Input: at, Output: at})
		return s.sendMark(ctx, s.told)
	case *pipepb.TestStreamPayload_Event_ProcessingTimeEvent:
		s.job.advance(e.ProcessingTimeEvent.GetAdvanceDuration())
	}
	return nil
}

func (s *stream) playElements(ctx context.Context, elems []*pipepb.TestStreamPayload_TimestampedElement) error {
	w := s.r.prog.Input
	var block []byte
	for _, x := range elems {
		block = coders.AppendHeader(block, element.Timestamp(x.GetTimestamp()), 1, nil, coders.NoFiring)
		enc := x.GetEncodedElement()
		n, err := w.Elem().Skip(enc)
		if !s.r.prog.Stream.Nested || err != nil || n != len(enc) {
			enc = bundle.Nest(w.Elem(), enc)
		}
		if n, err := w.Elem().Skip(enc); err != nil || n != len(enc) {
			return fmt.Errorf("an element of the TestStream doesn't fit its coder")
		}
		block = append(block, enc...)
	}
	_, err := s.br.Run(ctx, &bundle.Input{Chunks: [][]byte{block}, Elements: len(elems), Bytes: int64(len(block))})
	return err
}

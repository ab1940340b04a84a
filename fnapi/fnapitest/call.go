package fnapitest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// A Call is one bundle in the harness's hands.
type Call struct {
	Instruction string
	Descriptor  *fnpb.ProcessBundleDescriptor
	Sinks       []string    // in order of their names
	Sources     []string    // likewise
	Families    [][2]string // timer families: transform and family id, likewise

	harness  *Harness
	channel  *channel
	embedded *fnpb.Elements // where Emit puts its chunks; nil: on the wire
}

// Context ends with the harness.
func (c *Call) Context() context.Context { return c.harness.ctx }

// Emit sends a chunk to a sink.
func (c *Call) Emit(sink string, chunk []byte) error {
	return c.emit(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: c.Instruction, TransformId: sink, Data: chunk}}})
}

// EmitTimers sends a chunk of timers.
func (c *Call) EmitTimers(transform, family string, chunk []byte) error {
	return c.emit(&fnpb.Elements{Timers: []*fnpb.Elements_Timers{{
		InstructionId: c.Instruction, TransformId: transform, TimerFamilyId: family, Timers: chunk,
	}}})
}

func (c *Call) emit(e *fnpb.Elements) error {
	if c.embedded != nil {
		c.embedded.Data = append(c.embedded.Data, e.GetData()...)
		c.embedded.Timers = append(c.embedded.Timers, e.GetTimers()...)
		return nil
	}
	if c.channel == nil {
		return errors.New("fake harness: the descriptor has no port to emit by")
	}
	return c.channel.send(e)
}

// State asks the runner and waits for its answer; id and instruction are filled
// in.
func (c *Call) State(req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	req.InstructionId = c.Instruction
	return c.harness.askState(c.Descriptor.GetStateApiServiceDescriptor().GetUrl(), req)
}

// process runs the nth bundle.
func (h *Harness) process(n int, instruction string, req *fnpb.ProcessBundleRequest) {
	var behave Behaviour
	if h.Behave != nil {
		behave = h.Behave(n, req.GetProcessBundleDescriptorId())
	}
	switch behave.Fault {
	case Delay:
		select {
		case <-behave.Until:
		case <-h.ctx.Done():
			return
		}
	case Refuse:
		h.answer(&fnpb.InstructionResponse{InstructionId: instruction, Error: behave.Text})
		return
	case GarbleStream:
		h.answer(Raw{0x0a, 0xff})
		return
	}
	resp, err := h.run(instruction, req, behave)
	if errors.Is(err, errDied) {
		h.Die()
		return
	}
	answer := &fnpb.InstructionResponse{
		InstructionId: instruction,
		Response:      &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: resp},
	}
	switch {
	case behave.Fault == DropAnswer:
		return
	case behave.Fault == Fail:
		answer = &fnpb.InstructionResponse{InstructionId: instruction, Error: behave.Text}
	case err != nil:
		answer = &fnpb.InstructionResponse{InstructionId: instruction, Error: err.Error()}
	case behave.Fault == GarbleAnswer:
		answer.Response = &fnpb.InstructionResponse_FinalizeBundle{FinalizeBundle: &fnpb.FinalizeBundleResponse{}}
	case behave.Fault == Duplicate:
		h.answer(answer)
	}
	h.answer(answer)
}

// run processes the bundle's input to its end.
func (h *Harness) run(instruction string, req *fnpb.ProcessBundleRequest, behave Behaviour) (*fnpb.ProcessBundleResponse, error) {
	c, err := h.newCall(instruction, req.GetProcessBundleDescriptorId())
	if err != nil {
		return nil, err
	}
	if h.Embed {
		c.embedded = &fnpb.Elements{}
	}
	var in *inbox
	if c.channel != nil {
		in = c.channel.inbox(instruction)
		defer c.channel.leave(instruction, in)
	}
	if err := c.misbehave(behave.Fault); err != nil {
		return nil, err
	}
	if err := c.consume(in, req.GetElements(), behave.Fault == Die); err != nil {
		return nil, err
	}
	resp := &fnpb.ProcessBundleResponse{}
	if h.Finish != nil {
		if resp, err = h.Finish(c); err != nil {
			return nil, err
		}
	}
	if behave.Fault != DropLast {
		if err := c.close(behave.Fault == Duplicate); err != nil {
			return nil, err
		}
	}
	if c.embedded != nil {
		resp.Elements = c.embedded
	}
	return resp, nil
}

// misbehave sends what a bundle should not.
func (c *Call) misbehave(f Fault) error {
	switch {
	case f == GarbleData && c.channel != nil:
		c.harness.drop(c.channel) // the runner will end it; the next bundle opens another
		return c.channel.send(Raw{0x0a, 0xff})
	case f == Stray:
		return c.Emit("no such transform", []byte("stray"))
	}
	return nil
}

func (h *Harness) newCall(instruction, descriptor string) (*Call, error) {
	d, err := h.descriptor(descriptor)
	if err != nil {
		return nil, err
	}
	c := &Call{Instruction: instruction, Descriptor: d, harness: h}
	url := d.GetTimerApiServiceDescriptor().GetUrl()
	for id, t := range d.GetTransforms() {
		var port fnpb.RemoteGrpcPort
		var par pipepb.ParDoPayload
		switch t.GetSpec().GetUrn() {
		case "beam:runner:source:v1":
			c.Sources = append(c.Sources, id)
			err = proto.Unmarshal(t.GetSpec().GetPayload(), &port)
		case "beam:runner:sink:v1":
			c.Sinks = append(c.Sinks, id)
			err = proto.Unmarshal(t.GetSpec().GetPayload(), &port)
		case "beam:transform:pardo:v1":
			err = proto.Unmarshal(t.GetSpec().GetPayload(), &par)
			for family := range par.GetTimerFamilySpecs() {
				c.Families = append(c.Families, [2]string{id, family})
			}
		}
		if err != nil {
			return nil, fmt.Errorf("fake harness: transform %s: %w", id, err)
		}
		if u := port.GetApiServiceDescriptor().GetUrl(); u != "" {
			url = u
		}
	}
	slices.Sort(c.Sources)
	slices.Sort(c.Sinks)
	slices.SortFunc(c.Families, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	if url != "" {
		c.channel, err = h.channel(url)
	}
	return c, err
}

func (h *Harness) descriptor(id string) (*fnpb.ProcessBundleDescriptor, error) {
	h.mu.Lock()
	d := h.descriptors[id]
	h.mu.Unlock()
	if d != nil {
		return d, nil
	}
	conn, err := h.dial(h.URL)
	if err != nil {
		return nil, err
	}
	d, err = fnpb.NewBeamFnControlClient(conn).GetProcessBundleDescriptor(h.ctx,
		&fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: id})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.descriptors[id] = d
	return d, nil
}

// consume processes input until every source and timer family has said last.
func (c *Call) consume(in *inbox, embedded *fnpb.Elements, die bool) error {
	open := len(c.Sources) + len(c.Families)
	for _, t := range embedded.GetTimers() {
		if err := c.take(part{transform: t.GetTransformId(), family: t.GetTimerFamilyId(), payload: t.GetTimers(), timers: true}); err != nil {
			return err
		}
	}
	for _, d := range embedded.GetData() {
		if err := c.take(part{transform: d.GetTransformId(), payload: d.GetData()}); err != nil {
			return err
		}
	}
	if embedded != nil {
		return nil // either all or none
	}
	for open > 0 {
		select {
		case p := <-in.parts:
			if die {
				return errDied
			}
			if err := c.take(p); err != nil {
				return err
			}
			if p.last {
				open--
			}
		case <-c.channel.ended:
			return errors.New("fake harness: the data stream has ended")
		case <-c.harness.ctx.Done():
			return context.Cause(c.harness.ctx)
		}
	}
	return nil
}

// take processes one part of the input.
func (c *Call) take(p part) error {
	h := c.harness
	switch {
	case len(p.payload) == 0:
		return nil
	case p.timers && h.ProcessTimers != nil:
		return h.ProcessTimers(c, p.transform, p.family, p.payload)
	case p.timers:
		return nil
	case h.Process != nil:
		return h.Process(c, p.transform, p.payload)
	}
	for _, sink := range c.Sinks {
		if err := c.Emit(sink, p.payload); err != nil {
			return err
		}
	}
	return nil
}

// close sends the last marks.
func (c *Call) close(twice bool) error {
	e := &fnpb.Elements{}
	for _, s := range c.Sinks {
		e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: c.Instruction, TransformId: s, IsLast: true})
	}
	for _, f := range c.Families {
		e.Timers = append(e.Timers, &fnpb.Elements_Timers{InstructionId: c.Instruction, TransformId: f[0], TimerFamilyId: f[1], IsLast: true})
	}
	if len(e.Data)+len(e.Timers) == 0 {
		return nil
	}
	if twice {
		if err := c.emit(e); err != nil {
			return err
		}
	}
	return c.emit(e)
}

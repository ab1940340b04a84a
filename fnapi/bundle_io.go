package fnapi

import (
	"context"
	"fmt"
)

// Send gives the worker a chunk of encoded windowed values for a source
// transform. The chunk holds whole elements, since SDKs decode each message by
// itself; it becomes one message (64 KiB to 1 MiB is a good size). Send blocks
// while the worker doesn't read (back-pressure), and keeps no reference to
// chunk when it returns. What is sent after the worker has answered, as it may
// after a split, is dropped without an error.
func (b *Bundle) Send(ctx context.Context, transform string, chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	return b.send(ctx, encodeData(b.id, transform, chunk))
}

// SendTimers gives the worker encoded timers of a family, as Send does data.
func (b *Bundle) SendTimers(ctx context.Context, transform, family string, chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	return b.send(ctx, encodeTimers(b.id, transform, family, chunk))
}

// NameTimers tells the worker of a timer family, and gives it no timers. A
// worker that is sent no last mark of the family ends it all the same then.
func (b *Bundle) NameTimers(ctx context.Context, transform, family string) error {
	return b.send(ctx, encodeTimers(b.id, transform, family, nil))
}

// CloseInput sends the last marks for these sources and timer families. The
// marks are messages of their own: Python ignores data that come with a mark.
func (b *Bundle) CloseInput(ctx context.Context, sources []string, timers [][2]string) error {
	if len(sources)+len(timers) == 0 {
		return nil
	}
	return b.send(ctx, encodeLast(b.id, sources, timers))
}

// send queues m on the bundle's lane, whose stream the worker opens when it
// starts to work at its first bundle there. It takes m over.
func (b *Bundle) send(ctx context.Context, m *outgoing) error {
	for {
		stream, arrived := b.worker.lanes[b.lane].current()
		if stream == nil {
			select {
			case <-arrived:
				continue
			case <-b.done:
			case <-ctx.Done():
			}
			m.free()
			return b.sendEnd(ctx)
		}
		if !b.claim(stream) {
			m.free()
			err := &WorkerLostError{Worker: b.worker.Name(), Cause: fmt.Errorf("its data stream was replaced while bundle %s used it", b.id)}
			b.finish(err)
			return err
		}
		select {
		case stream.out <- m:
			return nil
		case <-stream.ended:
			b.finish(stream.lostError())
		case <-b.done:
		case <-ctx.Done():
		}
		m.free()
		return b.sendEnd(ctx)
	}
}

// sendEnd is why nothing more can be sent: nil if the worker needs no more.
func (b *Bundle) sendEnd(ctx context.Context) error {
	if !b.over.Load() {
		return context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// claim ties the bundle to the stream that carries its data: when that stream
// ends, what it carried may be lost. It says no if another one carried it.
func (b *Bundle) claim(s *dataStream) bool {
	if b.stream.Load() == s {
		return true
	}
	return b.stream.CompareAndSwap(nil, s)
}

// deliver hands one entry of the worker's data to the bundle's Output.
func (b *Bundle) deliver(e *entry) {
	b.outMu.Lock()
	defer b.outMu.Unlock()
	if b.over.Load() {
		return
	}
	o := b.outlet(e)
	if o == nil {
		b.violated(fmt.Sprintf("elements for transform %q, which is no sink or timer family of the bundle", e.transform))
		return
	}
	if len(e.payload) > 0 {
		if o.last {
			b.violated(fmt.Sprintf("elements after the last ones of transform %q", e.transform))
			return
		}
		if err := b.output(o, e.payload); err != nil {
			b.finish(err)
			return
		}
	}
	if e.last && !o.last {
		o.last = true
		b.closeOutlets(1)
	}
}

func (b *Bundle) output(o *outlet, chunk []byte) error {
	if o.timers {
		return b.start.Output.Timers(o.transform, o.family, chunk)
	}
	return b.start.Output.Data(o.transform, chunk)
}

// outlet finds the sink or timer family of e; bundles have few.
func (b *Bundle) outlet(e *entry) *outlet {
	for i := range b.outlets {
		o := &b.outlets[i]
		if o.timers == e.timers && o.transform == string(e.transform) && o.family == string(e.family) {
			return o
		}
	}
	return nil
}

// closeOutlets notes that n more outlets have sent their last chunk.
func (b *Bundle) closeOutlets(n int) {
	b.mu.Lock()
	b.open -= n
	complete := b.isComplete()
	b.mu.Unlock()
	if complete {
		b.finish(nil)
	}
}

// takeEmbedded delivers the elements inside the response. An SDK puts all of a
// bundle's output there or none, so no outlet is open afterwards. This is done
// by Wait's caller, since Output may take its time and the control stream's
// reader has none.
func (b *Bundle) takeEmbedded() {
	b.mu.Lock()
	take := b.embedded
	elements := b.response.GetElements()
	b.mu.Unlock()
	if !take {
		return
	}
	for _, d := range elements.GetData() {
		b.deliver(&entry{transform: []byte(d.GetTransformId()), payload: d.GetData(), last: d.GetIsLast()})
	}
	for _, t := range elements.GetTimers() {
		b.deliver(&entry{
			transform: []byte(t.GetTransformId()), family: []byte(t.GetTimerFamilyId()),
			payload: t.GetTimers(), last: t.GetIsLast(), timers: true,
		})
	}
	b.mu.Lock()
	b.embedded = false
	b.open = 0
	b.response.Elements = nil // delivered; not to be read again
	complete := b.isComplete()
	b.mu.Unlock()
	if complete {
		b.finish(nil)
	}
}

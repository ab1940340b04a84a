package fnapitest

import (
	"maps"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// inboxSize is how many messages for one bundle wait before its stream is left
// unread, as in real SDKs.
const inboxSize = 5

// A channel is the data stream to one URL, shared by the bundles that use it.
type channel struct {
	stream fnpb.BeamFnData_DataClient
	ended  chan struct{} // closed when the stream can't be read any more

	sending sync.Mutex

	mu      sync.Mutex
	inboxes map[string]*inbox // by instruction
	over    map[string]bool   // instructions that take no more
}

// An inbox holds one bundle's input.
type inbox struct {
	parts chan part
	gone  chan struct{} // closed when the bundle takes no more
}

// A part is one Data or Timers message.
type part struct {
	transform, family string
	payload           []byte
	timers, last      bool
}

// channel opens the data stream to url unless it is open.
func (h *Harness) channel(url string) (*channel, error) {
	conn, err := h.dial(url)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.channels[url]; c != nil {
		return c, nil
	}
	stream, err := fnpb.NewBeamFnDataClient(conn).Data(h.ctx)
	if err != nil {
		return nil, err
	}
	c := &channel{stream: stream, ended: make(chan struct{}), inboxes: make(map[string]*inbox), over: make(map[string]bool)}
	h.channels[url] = c
	h.tasks.Go(func() {
		c.read(h.ctx.Done())
		h.drop(c)
		close(c.ended)
	})
	return c, nil
}

// drop makes the next bundle open another stream.
func (h *Harness) drop(c *channel) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.channels, func(_ string, other *channel) bool { return other == c })
}

// inbox finds or makes an instruction's inbox; nil if it takes no more.
func (c *channel) inbox(instruction string) *inbox {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over[instruction] {
		return nil
	}
	b := c.inboxes[instruction]
	if b == nil {
		b = &inbox{parts: make(chan part, inboxSize), gone: make(chan struct{})}
		c.inboxes[instruction] = b
	}
	return b
}

func (c *channel) send(m any) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.SendMsg(m)
}

func (c *channel) read(done <-chan struct{}) {
	for {
		msg, err := c.stream.Recv()
		if err != nil {
			return
		}
		for _, t := range msg.GetTimers() {
			c.put(done, t.GetInstructionId(), part{
				transform: t.GetTransformId(), family: t.GetTimerFamilyId(),
				payload: t.GetTimers(), timers: true, last: t.GetIsLast(),
			})
		}
		for _, d := range msg.GetData() {
			c.put(done, d.GetInstructionId(), part{transform: d.GetTransformId(), payload: d.GetData(), last: d.GetIsLast()})
		}
	}
}

// leave drops what comes for an instruction from now on.
func (c *channel) leave(instruction string, b *inbox) {
	close(b.gone)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inboxes, instruction)
	c.over[instruction] = true
}

func (c *channel) put(done <-chan struct{}, instruction string, p part) {
	b := c.inbox(instruction)
	if b == nil {
		return
	}
	select {
	case b.parts <- p:
	case <-b.gone:
	case <-done:
	}
}

package remote

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
)

// An outbox holds numbered messages until the other end has acknowledged them.
// Numbers begin at 1.
type outbox struct {
	mu    sync.Mutex
	items []json.RawMessage
	first uint64 // number of items[0], or of the next message
	next  uint64 // number of the first that the current connection hasn't been given; first <= next <= first+len(items)
	bytes int
	epoch int // counts connections
	// changed holds a token when there may be something to send; spare, which
	// is the owner's, when something was acknowledged. Capacity 1.
	changed, spare chan struct{}
}

func newOutbox(spare chan struct{}) *outbox {
	return &outbox{first: 1, next: 1, changed: make(chan struct{}, 1), spare: spare}
}

// poke leaves a token in a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add queues a message and gives its number. Its bounds are the caller's care.
func (o *outbox) add(m json.RawMessage) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.items = append(o.items, m)
	o.bytes += len(m)
	poke(o.changed)
	return o.first + uint64(len(o.items)) - 1
}

// waiting is what has not been acknowledged.
func (o *outbox) waiting() (items, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.items), o.bytes
}

// take gives what the connection hasn't been given yet, some of it. It is false
// for a connection that another one has followed.
func (o *outbox) take(epoch int) (first uint64, items []json.RawMessage, current bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if epoch != o.epoch {
		poke(o.changed) // it may have taken the other's token
		return 0, nil, false
	}
	first = o.next
	bytes := 0
	for _, m := range o.items[o.next-o.first:] {
		if bytes > 0 && bytes+len(m) > maxBatch {
			break
		}
		bytes += len(m)
		items = append(items, m)
	}
	o.next += uint64(len(items))
	return first, items, true
}

// ack forgets all up to number n.
func (o *outbox) ack(n uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n < o.first {
		return nil // known
	}
	if n >= o.next {
		return fmt.Errorf("message %d was acknowledged, and the last that was sent is %d", n, o.next-1)
	}
	done := n + 1 - o.first
	for i, m := range o.items[:done] {
		o.bytes -= len(m)
		o.items[i] = nil
	}
	o.items = o.items[done:]
	o.first = n + 1
	poke(o.spare)
	return nil
}

// rewind begins a new connection, to an end that has all up to number got.
func (o *outbox) rewind(got uint64) (epoch int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if got+1 < o.first || got+1 > o.first+uint64(len(o.items)) {
		return 0, fmt.Errorf("the other end has messages up to %d, and there are %d to %d", got, o.first, o.first+uint64(len(o.items))-1)
	}
	o.next = got + 1
	o.epoch++
	poke(o.changed)
	return o.epoch, nil
}

// An inbox counts what comes from the other end's outbox.
type inbox struct{ got atomic.Uint64 }

// fresh gives those of the messages that have not come before. A gap is an
// error: the connection is no good.
func (in *inbox) fresh(first uint64, items []json.RawMessage) ([]json.RawMessage, error) {
	if len(items) == 0 {
		return nil, nil
	}
	got := in.got.Load()
	if first == 0 || first > got+1 {
		return nil, fmt.Errorf("message %d came after %d", first, got)
	}
	known := min(got+1-first, uint64(len(items)))
	return items[known:], nil
}

package dialog

import (
	"context"
	"net"
	"testing"
)

type hears func(message []byte)

func (h hears) Hear(message []byte) error {
	h(message)
	return nil
}

// A stream that was left unheard, because the peer had no room, is heard when
// there is room again, though what was unsent has gone with something else that
// was said.
func TestDeafNoMore(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	c := newConn(NewServer("/x/y", nil, Options{}), ours)
	var heard []string
	_, cancel := context.WithCancel(context.Background())
	s := &Stream{conn: c, id: 1, cancel: cancel, window: streamWindow, listener: hears(func(m []byte) { heard = append(heard, string(m)) })}
	c.streams[s.id] = s
	s.unsent = make([]byte, mostUnsent+1) // and no room
	s.take(appendMessage(nil, []byte("q")), 6, false)
	if !s.deaf || len(heard) > 0 {
		t.Fatalf("a stream with a full buffer has heard %q", heard)
	}
	if err := c.more(0, 4*mostUnsent); err != nil {
		t.Fatal(err)
	}
	if err := c.more(s.id, 4*mostUnsent); err != nil {
		t.Fatal(err)
	}
	s.Say([]byte("from another goroutine"))
	c.push()
	if s.deaf || len(heard) != 1 || heard[0] != "q" {
		t.Errorf("there is room, and %q was heard", heard)
	}
}

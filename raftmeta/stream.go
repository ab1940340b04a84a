package raftmeta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A Stream is the network, as the caller wants it: plain TCP or mutual TLS.
// Whoever can open a connection is trusted: beyond loopback that must be
// mutual TLS.
type Stream interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// Every connection begins with a hello: who calls, whom, and for which group.
// Its answer says whether they belong together. So a node of another group, or
// one that was given another node's address, is found before it can vote.
//
// A hello is the magic, the kind (1 byte) and four strings, each with its
// length before it (1 byte). The answer is the magic, the verdict (1 byte) and
// four strings: the answering node's id, its group ("" if it has none), why it
// refuses, and the number of the last entry that it has.
const (
	helloMagic = "trestle raft 1\n"
	helloTalk  = 1 // Raft's messages follow
	helloAsk   = 2 // nothing follows
	verdictYes = 1
	verdictNo  = 2

	helloTimeout = 5 * time.Second
)

type hello struct {
	kind     byte
	from, to string
	group    string
	founders string // fingerprint of the list of founding members; "" if there was none
}

type answer struct {
	ok     bool
	id     string
	group  string
	reason string
	last   uint64 // the last entry of its log or snapshot
}

func (h *hello) encode() []byte {
	return appendStrings(append([]byte(helloMagic), h.kind), h.from, h.to, h.group, h.founders)
}

func (a *answer) encode() []byte {
	verdict := byte(verdictNo)
	if a.ok {
		verdict = verdictYes
	}
	return appendStrings(append([]byte(helloMagic), verdict), a.id, a.group, a.reason, strconv.FormatUint(a.last, 10))
}

func appendStrings(b []byte, all ...string) []byte {
	for _, s := range all {
		s = s[:min(len(s), 255)]
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

// readGreeting reads a hello or an answer, byte for byte what belongs to it.
func readGreeting(in io.Reader, into ...*string) (kind byte, err error) {
	head := make([]byte, len(helloMagic)+1)
	if _, err := io.ReadFull(in, head); err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(head, []byte(helloMagic)) {
		return 0, errors.New("the other side is no JobManager of this version")
	}
	for _, s := range into {
		var length [1]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return 0, err
		}
		b := make([]byte, length[0])
		if _, err := io.ReadFull(in, b); err != nil {
			return 0, err
		}
		*s = string(b)
	}
	return head[len(helloMagic)], nil
}

// A RefusedError says that a node answered, but belongs elsewhere.
type RefusedError struct{ ID, Addr, Reason string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s at %s refuses: %s", e.ID, e.Addr, e.Reason)
}

// greeted is Raft's stream, each of whose connections has been greeted.
type greeted struct {
	Stream
	id       string
	log      *slog.Logger
	identity *identity
	last     func() uint64 // of this node's entries

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool // open ones, to be closed with the stream
}

func newGreeted(s Stream, id string, who *identity, last func() uint64, log *slog.Logger) *greeted {
	return &greeted{Stream: s, id: id, identity: who, last: last, log: log, conns: map[net.Conn]bool{}}
}

// target is how the transport names a node to Dial: its id too, for the hello.
func target(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + string(addr))
}

// Dial is raft.StreamLayer.
func (g *greeted) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, _ := strings.Cut(string(address), "@")
	conn, _, err := g.greet(helloTalk, id, addr, timeout)
	return conn, err
}

// ask asks a node which group it is of.
func (g *greeted) ask(id, addr string, timeout time.Duration) (answer, error) {
	conn, a, err := g.greet(helloAsk, id, addr, timeout)
	if err != nil {
		return a, err
	}
	return a, conn.Close()
}

func (g *greeted) greet(kind byte, id, addr string, timeout time.Duration) (net.Conn, answer, error) {
	inner, err := g.Stream.Dial(addr, timeout)
	if err != nil {
		return nil, answer{}, fmt.Errorf("dial %s at %s: %w", id, addr, err)
	}
	conn := g.keep(inner)
	h := hello{kind: kind, from: g.id, to: id, group: g.identity.group(), founders: g.identity.founders()}
	var a answer
	err = errors.Join(conn.SetDeadline(time.Now().Add(timeout)))
	if err == nil {
		_, err = conn.Write(h.encode())
	}
	var verdict byte
	var last string
	if err == nil {
		verdict, err = readGreeting(conn, &a.id, &a.group, &a.reason, &last)
		a.last = parseCount(last)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	a.ok = verdict == verdictYes
	if err == nil && !a.ok {
		err = &RefusedError{a.id, addr, a.reason}
	}
	if err != nil {
		_ = conn.Close()
		var refused *RefusedError
		if errors.As(err, &refused) {
			return nil, a, err
		}
		return nil, a, fmt.Errorf("greet %s at %s: %w", id, addr, err)
	}
	return conn, a, nil
}

// Accept is raft.StreamLayer. The hello is read with the connection's first
// bytes, by whoever reads these: a silent caller holds up nobody else.
func (g *greeted) Accept() (net.Conn, error) {
	conn, err := g.Stream.Accept()
	if err != nil {
		return nil, err
	}
	return &ungreeted{Conn: g.keep(conn), g: g}, nil
}

// ungreeted is a connection whose hello has not been read yet.
type ungreeted struct {
	net.Conn
	g    *greeted
	once sync.Once
	err  error
}

func (c *ungreeted) Read(b []byte) (int, error) {
	c.once.Do(func() { c.err = c.g.welcome(c.Conn) })
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(b)
}

// welcome reads a hello and answers it. io.EOF is a good end.
func (g *greeted) welcome(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	var h hello
	var err error
	if h.kind, err = readGreeting(conn, &h.from, &h.to, &h.group, &h.founders); err != nil {
		g.log.Debug("a connection without a greeting", "from", conn.RemoteAddr(), "err", err)
		return io.EOF
	}
	a := g.identity.judge(h)
	a.last = g.last()
	if _, err := conn.Write(a.encode()); err != nil {
		return err
	}
	if !a.ok {
		g.log.Warn("refused a node", "node", h.from, "at", conn.RemoteAddr(), "reason", a.reason)
		return io.EOF
	}
	if h.kind != helloTalk {
		return io.EOF
	}
	return conn.SetDeadline(time.Time{})
}

// kept is a connection that is closed with its stream.
type kept struct {
	net.Conn
	g *greeted
}

func (k *kept) Close() error {
	k.g.mu.Lock()
	delete(k.g.conns, k)
	k.g.mu.Unlock()
	return k.Conn.Close()
}

func (g *greeted) keep(conn net.Conn) net.Conn {
	k := &kept{conn, g}
	g.mu.Lock()
	g.conns[k] = true
	closed := g.closed
	g.mu.Unlock()
	if closed {
		_ = k.Close() // what uses it will find out
	}
	return k
}

// closeConns closes every connection.
func (g *greeted) closeConns() {
	g.mu.Lock()
	g.closed = true
	var all []net.Conn
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

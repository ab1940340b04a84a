package network_test

import (
	"net"
	"sync"
	"testing"
)

// A proxy stands between two processes, and cuts.
type proxy struct {
	addr string
	to   string
	l    net.Listener
	all  sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	refuses bool
	cutAt   int64 // bytes downwards after which a connection is cut; 0: never
	flip    int64 // place of a byte downwards that is changed, of one connection; 0: none
	cuts    int
	closed  bool
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	p := &proxy{to: to, l: listen(t, "127.0.0.1:0"), conns: map[net.Conn]bool{}}
	p.addr = p.l.Addr().String()
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = p.l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			continue
		}
		s, err := net.Dial("tcp", p.to)
		if err != nil {
			p.drop(c)
			continue
		}
		if !p.keep(s) {
			p.drop(c)
			continue
		}
		p.all.Go(func() { p.copy(s, c, 0, 0) })
		p.mu.Lock()
		cutAt, flip := p.cutAt, p.flip
		p.flip = 0
		p.mu.Unlock()
		p.all.Go(func() { p.copy(c, s, cutAt, flip) })
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuses {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

// copy ends both connections when one ends, or after cutAt bytes.
func (p *proxy) copy(to, from net.Conn, cutAt, flip int64) {
	defer p.drop(to)
	defer p.drop(from)
	buf := make([]byte, 4096)
	for n := int64(0); ; {
		k, err := from.Read(buf)
		if flip > n && flip <= n+int64(k) {
			buf[flip-n-1] ^= 0x10
		}
		n += int64(k)
		if cutAt > 0 && n > cutAt {
			p.mu.Lock()
			p.cuts++
			p.mu.Unlock()
			return
		}
		if _, werr := to.Write(buf[:k]); werr != nil || err != nil {
			return
		}
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// refuse says whether connections are let in.
func (p *proxy) refuse(on bool) { p.set(func() { p.refuses = on }) }

// set changes what happens to connections from now on.
func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *proxy) cutSoFar() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

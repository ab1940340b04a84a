package sim

import (
	"fmt"
	"time"

	"trestle/internal/sim"
)

// A network carries messages between nodes, which have names.
type network struct {
	w    *sim.World
	cut  map[[2]string]int // from, to → how many faults cut it; for look-ups
	drop float64
	twin float64
}

func newNetwork(w *sim.World) *network { return &network{w: w, cut: map[[2]string]int{}} }

func (n *network) reaches(from, to string) bool { return n.cut[[2]string{from, to}] == 0 }

// both reports whether two can talk to each other.
func (n *network) both(a, b string) bool { return a == b || n.reaches(a, b) && n.reaches(b, a) }

// send delivers later, perhaps never, perhaps twice.
func (n *network) send(from, to string, deliver func()) {
	times := 1
	if n.w.Chance(n.drop) {
		times = 0
	} else if n.w.Chance(n.twin) {
		times = 2
	}
	for range times {
		late := n.w.Between(time.Millisecond, 15*time.Millisecond)
		if n.w.Chance(n.drop) {
			late *= 20
		}
		n.w.After(late, func() {
			if n.reaches(from, to) {
				deliver()
			}
		})
	}
}

// sever cuts the way from one to the other for a while.
func (n *network) sever(from, to string, d time.Duration) {
	if from == to {
		return
	}
	n.cut[[2]string{from, to}]++
	n.w.After(d, func() { n.cut[[2]string{from, to}]-- })
}

// A process can be killed and stopped. What it has put off happens when it
// goes on, and never once it was killed.
type process struct {
	w      *sim.World
	name   string
	alive  bool
	life   int           // grows with each start
	frozen time.Duration // it does nothing until then
}

// after runs f in this life of the process.
func (p *process) after(d time.Duration, f func()) {
	life := p.life
	p.w.After(d, func() { p.do(life, f) })
}

// do runs f now, or when the process goes on.
func (p *process) do(life int, f func()) {
	switch {
	case !p.alive || p.life != life:
	case p.w.Now < p.frozen:
		p.w.After(p.frozen-p.w.Now, func() { p.do(life, f) })
	default:
		f()
	}
}

// hear runs f if a message finds the process alive.
func (p *process) hear(f func()) { p.do(p.life, f) }

func (p *process) awake() bool { return p.alive && p.w.Now >= p.frozen }

func (p *process) freeze(d time.Duration) { p.frozen = max(p.frozen, p.w.Now+d) }

// A pipe carries messages of one session in one direction: each once, in
// order, as long as both ends live and the lease lasts.
type pipe struct {
	net      *network
	from, to *process
	lives    [2]int
	next     int         // number of the next message to send
	unacked  []func()    // from number next-len(unacked) on
	got      int         // messages received
	open     func() bool // whether the receiver still listens to the session
}

const resendEvery = 400 * time.Millisecond

func newPipe(net *network, from, to *process, open func() bool) *pipe {
	return &pipe{net: net, from: from, to: to, lives: [2]int{from.life, to.life}, open: open}
}

func (p *pipe) push(f func()) {
	p.unacked = append(p.unacked, f)
	p.next++
	p.transmit(p.next - 1)
	if len(p.unacked) == 1 {
		p.from.after(resendEvery, p.resend)
	}
}

func (p *pipe) transmit(number int) {
	f := p.unacked[number-(p.next-len(p.unacked))]
	p.net.send(p.from.name, p.to.name, func() {
		if p.to.life != p.lives[1] {
			return
		}
		p.to.hear(func() {
			if number == p.got && p.open() {
				p.got++
				f()
			}
			got := p.got
			p.net.send(p.to.name, p.from.name, func() { p.from.hear(func() { p.acked(got) }) })
		})
	})
}

func (p *pipe) acked(n int) {
	if done := n - (p.next - len(p.unacked)); done > 0 {
		p.unacked = p.unacked[done:]
	}
}

func (p *pipe) resend() {
	if len(p.unacked) == 0 || !p.from.alive || p.to.life != p.lives[1] || !p.open() {
		return
	}
	for i := range p.unacked {
		p.transmit(p.next - len(p.unacked) + i)
	}
	p.from.after(resendEvery, p.resend)
}

// A fault tells that something that must hold doesn't.
type fault string

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(fault(fmt.Sprintf(format, args...)))
	}
}

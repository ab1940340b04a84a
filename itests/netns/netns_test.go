package netns

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestWires sees that hosts reach each other, that a cut is silent and goes one
// way only, and that nothing is left behind.
func TestWires(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	n, err := New("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			n.Close()
		}
	}()
	// Nobody listens there: who is reached refuses at once, and who isn't says
	// nothing.
	reaches := func(from, to string) bool {
		err := n.Host(from).Command("timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+n.Host(to).Addr+"/9").Run()
		var exit *exec.ExitError
		return errors.As(err, &exit) && exit.ExitCode() == 1
	}
	if !reaches("a", "b") || !reaches(Here, "b") {
		t.Error("hosts don't reach each other")
	}
	if err := n.Cut("a", "b"); err != nil {
		t.Error(err)
	}
	if reaches("a", "b") || reaches("b", "a") {
		t.Error("a cut wire answers")
	}
	if !reaches(Here, "b") || !reaches(Here, "a") {
		t.Error("other wires are cut, too")
	}
	if err := n.HealAll(); err != nil {
		t.Error(err)
	}
	if !reaches("a", "b") {
		t.Error("a healed wire doesn't work")
	}
	oneWay(t, n)
	own(t, n)
	closed = true
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// oneWay talks to a host over a connection whose wire back is cut: what is said
// arrives, and no answer does.
func oneWay(t *testing.T, n *Network) {
	l, err := net.Listen("tcp", n.Host(Here).Addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The other side is this shell's: it sends what it gets back.
	_, port, _ := net.SplitHostPort(l.Addr().String())
	other := n.Host("a").Command("bash", "-c", "exec 3<>/dev/tcp/"+n.Host(Here).Addr+"/"+port+"; cat <&3 >&3")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(limit time.Duration) error {
		if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	if err := echo(5 * time.Second); err != nil {
		t.Error(err)
	}
	if err := n.Cut("a", Here); err != nil {
		t.Error(err)
	}
	if err := echo(300 * time.Millisecond); err == nil {
		t.Error("an answer came over a cut wire")
	}
	if err := n.Heal("a", Here); err != nil {
		t.Error(err)
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what was held up did not come after the wire was healed: %v", err)
	}
}

// own dials a host's own loopback: the test's listener isn't there.
func own(t *testing.T, n *Network) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := n.Host(Here).Dial(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if c, err := n.Host("a").Dial(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a host reached the machine's loopback: %v %v", c, err)
	}
}

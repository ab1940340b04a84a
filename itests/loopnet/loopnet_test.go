package loopnet

import (
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWires sees that hosts reach each other, that a cut is silent, goes one way
// only and holds back what is on its way, and that other wires are not cut.
func TestWires(t *testing.T) {
	const port = "8098"
	n, err := New([]string{port}, "a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"a", "b"} {
		defer echo(t, n.Host(name).Listen(port))()
	}
	// Who says a word at the other host hears it again.
	reaches := func(from, to string) bool {
		script := "exec 3<>/dev/tcp/" + n.Host(to).Addr + "/" + port + "; echo word >&3; timeout 1 head -n 1 <&3"
		cmd := exec.Command("bash", "-c", script)
		if from != Here {
			cmd = n.Host(from).Command("bash", "-c", script)
		}
		out, err := cmd.Output()
		return err == nil && string(out) == "word\n"
	}
	if !reaches("a", "b") || !reaches("b", "a") || !reaches(Here, "b") {
		t.Error("hosts don't reach each other")
	}
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		if err := n.Cut(way[0], way[1]); err != nil {
			t.Error(err)
		}
		if reaches("a", "b") || reaches("b", "a") {
			t.Error("a cut wire answers")
		}
		if !reaches("c", "b") || !reaches(Here, "a") {
			t.Error("other wires are cut, too")
		}
		if err := n.HealAll(); err != nil {
			t.Error(err)
		}
	}
	if !reaches("a", "b") {
		t.Error("a healed wire doesn't work")
	}
	heldBack(t, n, port)
}

// heldBack cuts a wire under a connection: the word comes when it is healed.
func heldBack(t *testing.T, n *Network, port string) {
	cmd := n.Host("a").Command("bash", "-c", "exec 3<>/dev/tcp/"+n.Host("b").Addr+"/"+port+"; echo one >&3; head -n 1 <&3; read go; echo two >&3; head -n 1 <&3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pids, err := n.Host("a").Processes()
	if err != nil || len(pids) == 0 {
		t.Errorf("host a has the processes %v: %v", pids, err)
	}
	if pids, _ := n.Host("b").Processes(); len(pids) > 0 {
		t.Errorf("host b has the processes %v", pids)
	}
	word := make([]byte, 4)
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "one\n" {
		t.Errorf("%q: %v", word, err)
	}
	if err := n.Part([]string{"a"}, []string{"b"}); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Error(err)
	}
	said := make(chan string)
	go func() {
		rest, _ := io.ReadAll(out)
		said <- string(rest)
	}()
	select {
	case rest := <-said:
		t.Errorf("%q comes over a cut wire", rest)
	case <-time.After(300 * time.Millisecond):
	}
	if err := n.HealAll(); err != nil {
		t.Error(err)
	}
	if rest := <-said; !strings.Contains(rest, "two") {
		t.Errorf("%q comes when the wire is healed, want two", rest)
	}
	_ = cmd.Wait() // what it said is what counts
}

// echo says again what it hears, until stop is called.
func echo(t *testing.T, addr string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return func() {
		l.Close()
		<-done
	}
}
